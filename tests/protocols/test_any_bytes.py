"""Whatever the bytes: a reader answers with rows that can be stored and a reason, and never raises."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.adapters.rows import POSTGRES, encoded
from app.errors import Refusal
from app.protocols.content import MAX_DECODED_BYTES
from app.protocols.privacy import Redaction, redact_body
from app.protocols.record import MAX_ROWS, Exchange, Reason, Row
from app.protocols.registry import PROTOCOLS, build_reader
from app.protocols.scoring import Task
from tests.store_rows import prediction

TASKS: tuple[Task, ...] = ("binary", "none")
READERS = {(name, task): build_reader(name, None, task) for name in PROTOCOLS for task in TASKS}
NAMES = Redaction(drop=["x", "a.b", "f0", "x[0]"], hash=["name", "prompt"], salt=b"s")

MEMBERS = """
    features prediction confidence probabilities inputs outputs instances predictions name shape datatype data parameters
    binary_data_size dataframe_split columns dataframe_records params messages content role choices delta message text n
    usage logprobs prompt input index b64 examples context results x a b error
"""
KEYS = st.sampled_from(MEMBERS.split())
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.integers(0, 5)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["FP32", "BYTES", "INT64", "\x00", "\ud800", "aGk="])
)
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=25,
)
BODIES = st.binary(max_size=60) | DOCUMENTS.map(lambda document: json.dumps(document).encode())
TYPES = st.sampled_from(["", "application/json", "text/csv", "text/event-stream", "application/octet-stream"])
EXCHANGES = st.builds(
    Exchange,
    BODIES,
    BODIES | BODIES.map(lambda body: b"data: " + body + b"\n\ndata: [DONE]\n\n"),
    st.sampled_from([200, 200, 200, 204, 400, 503, 0]),
    st.just(""),
    TYPES,
    TYPES,
    st.sampled_from(["", "", "gzip", "deflate", "br"]),
    st.sampled_from(["", "", "gzip"]),
    st.none() | st.integers(-1, 80),
    st.none() | st.integers(-1, 80),
    st.booleans(),
    st.booleans(),
    st.none() | st.integers(0, 3),
    st.booleans(),
)


def assert_plain(value: Any) -> None:
    """JSON values only, finite, integers of 64 bits at most."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, float):
            assert math.isfinite(item)
        elif type(item) is int:
            assert -(2**63) <= item < 2**63
        elif isinstance(item, dict):
            assert all(isinstance(key, str) for key in item)
            pending.extend(item.values())
        elif isinstance(item, (list, tuple)):
            pending.extend(item)
        else:
            assert item is None or isinstance(item, (str, bool))


@pytest.mark.parametrize(("protocol", "task"), READERS)
@settings(max_examples=150, deadline=None)
@given(exchange=EXCHANGES)
def test_a_reader_never_raises_and_gives_plain_values(protocol: str, task: Task, exchange: Exchange) -> None:
    extraction = READERS[protocol, task](exchange)
    assert extraction.reason is not Reason.INTERNAL, extraction.detail
    for row in extraction.rows:
        assert_plain((row.features, row.scores))
        assert_plain(row.prediction)
        assert row.confidence is None or 0.0 <= row.confidence <= 1.0
        stored = prediction(features=row.features, prediction=row.prediction, confidence=row.confidence)
        refusals: list[Refusal] = []
        encoded(
            [stored], POSTGRES.prediction, "prediction", refusals
        )  # what quarantines a row, and nothing else
        assert {refusal.reason for refusal in refusals} <= {"nul_character", "lone_surrogate"}
    assert_plain(extraction.facts)


@settings(max_examples=300, deadline=None)
@given(
    body=BODIES,
    kind=TYPES,
    protocol=st.sampled_from(sorted(PROTOCOLS)),
    encoding=st.sampled_from(["", "gzip"]),
    length=st.none() | st.integers(-1, 80),
    truncated=st.booleans(),
)
def test_redaction_never_raises(
    body: bytes, kind: str, protocol: str, encoding: str, length: int | None, truncated: bool
) -> None:
    redacted = redact_body(
        body, kind, protocol, NAMES, content_encoding=encoding, header_length=length, truncated=truncated
    )
    assert redacted.reason is not Reason.INTERNAL
    assert not (redacted.reason and redacted.body)


GOOD = b'{"features":{"x":1}}'
REPLY = b'{"prediction":1}'


@pytest.mark.parametrize(
    ("body", "encoding", "reason"),
    [
        (gzip.compress(GOOD, mtime=0), "gzip", None),
        (gzip.compress(GOOD[:5], mtime=0) + gzip.compress(GOOD[5:], mtime=0), "x-gzip", None),
        (zlib.compress(GOOD), "deflate", None),
        (zlib.compress(GOOD)[2:-4], "deflate", None),
        (gzip.compress(zlib.compress(GOOD), mtime=0), "deflate, gzip", None),
        (GOOD, "identity", None),
        (gzip.compress(GOOD, mtime=0)[:-9], "gzip", Reason.INVALID_ENCODING),
        (GOOD, "gzip", Reason.INVALID_ENCODING),
        (GOOD, "br", Reason.UNSUPPORTED_ENCODING),
        (GOOD, "gzip, gzip, gzip, gzip", Reason.UNSUPPORTED_ENCODING),
        (gzip.compress(bytes(MAX_DECODED_BYTES + 1), mtime=0), "gzip", Reason.DECODED_SIZE),
        (
            gzip.compress(gzip.compress(bytes(MAX_DECODED_BYTES), mtime=0) * 64),
            "gzip, gzip",
            Reason.DECODED_SIZE,
        ),
        (b"\xef\xbb\xbf" + GOOD, "", None),
        (GOOD.decode().encode("utf-16"), "", None),
        (b'{"features":{"x":0,"x":1}}', "", None),
        (b"[" * 100_000, "", Reason.TOO_DEEP),
        (b'{"features":' * 100_000, "", Reason.TOO_DEEP),
        (b'{"features":{"x":1}', "", Reason.INVALID_JSON),
        (b" \n ", "", Reason.INVALID_JSON),
    ],
)
def test_encodings_are_undone_within_a_bound(body: bytes, encoding: str, reason: Reason | None) -> None:
    extraction = build_reader("json")(Exchange(body, REPLY, request_content_encoding=encoding))
    assert extraction.reason is reason, extraction.detail
    assert extraction.rows == (Row({"x": 1} if reason is None else None, 1),)


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_a_body_nested_as_deep_as_the_parser_allows_is_survived(protocol: str) -> None:
    reader = build_reader(protocol, task="multiclass")
    for depth in (20, 300, 900, 960):
        for opening, closing in (
            (b"[", b"]"),
            (b'{"prediction":', b"}"),
            (b'{"features":', b"}"),
            (b'{"x":[', b"]}"),
        ):
            body = opening * depth + b"1" + closing * depth
            for wrap in (
                b"%s",
                b'{"features":%s}',
                b'{"instances":[%s]}',
                b'{"predictions":[%s]}',
                b'{"messages":%s}',
            ):
                assert reader(Exchange(wrap % body, wrap % body)).reason is not Reason.INTERNAL


def test_a_batch_beyond_the_limit_is_cut_and_named() -> None:
    rows = MAX_ROWS + 5
    body = json.dumps([{"x": 1}] * rows).encode()
    extraction = build_reader("json")(Exchange(body, json.dumps(list(range(rows))).encode()))
    assert (len(extraction.rows), extraction.reason) == (MAX_ROWS, Reason.ROW_LIMIT)
    assert extraction.rows[-1] == Row({"x": 1}, MAX_ROWS - 1)
