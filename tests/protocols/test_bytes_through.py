"""Every protocol, every strange body: the bytes that arrive are the bytes that were sent, and what cannot be read has its reason."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator

import pytest

from app.control.extraction import Extractor
from app.domain.model import Match, Model, Version
from app.domain.policy import JournalPolicy
from app.journal.records import PredictionRecord
from app.protocols.record import Reason
from app.protocols.registry import PROTOCOLS
from tests.misbehaving import MisbehavingUpstream
from tests.worker import RunningWorker, eventually, running_worker

JSON = "application/json"
PATHS = dict.fromkeys(PROTOCOLS, "/predict") | {
    "oip": "/v2/models/m/infer",
    "tfserving": "/v1/models/m:predict",
    "mlflow": "/invocations",
    "openai": "/v1/chat/completions",
    "opaque": "/anything",
}
ROW = b'{"features":{"x":%b},"prediction":%b,"instances":[[%b]],"predictions":[%b],"inputs":[[%b]],"outputs":[%b]}'


def _with(value: bytes) -> bytes:
    return ROW % ((value,) * 6)


def _binary_tensor() -> tuple[bytes, int]:
    head = (
        b'{"inputs":[{"name":"x","shape":[2,1],"datatype":"FP32","parameters":{"binary_data_size":8}}],'
        b'"outputs":[{"name":"predict","shape":[2,1],"datatype":"FP32","parameters":{"binary_data_size":8}}]}'
    )
    return head + struct.pack("<2f", float("nan"), 1.5), len(head)


TENSOR, HEAD_LENGTH = _binary_tensor()
PLAIN = _with(b"1.5")
CAPTURE = 4096
# name: body, content type, content encoding, further fields
CORPUS: dict[str, tuple[bytes, str, str, str]] = {
    "plain": (PLAIN, JSON, "", ""),
    "nan": (_with(b"NaN"), JSON, "", ""),
    "infinity": (_with(b"-Infinity"), JSON, "", ""),
    "1e999": (_with(b"1e999"), JSON, "", ""),
    "a long integer": (_with(b"9" * 500), JSON, "", ""),
    "doubled keys": (
        b'{"features":{"x":1,"x":2},"features":{"x":3},"prediction":1,"prediction":2}',
        JSON,
        "",
        "",
    ),
    "bad utf-8": (b'{"features":{"x":"\xff\xfe"},"prediction":"\xc3\x28"}', JSON, "", ""),
    "a lone surrogate": (b'{"features":{"x":"\\ud800"},"prediction":1}', JSON, "", ""),
    "nul": (b'{"features":{"x":"\\u0000"},"prediction":1}', JSON, "", ""),
    "a byte order mark": (b"\xef\xbb\xbf" + PLAIN, JSON, "", ""),
    "odd spacing": (b" \r\n" + PLAIN.replace(b":", b" :\t") + b"\n\n", JSON, "", ""),
    "deep": (b"[" * 2000, JSON, "", ""),
    "nothing": (b"", JSON, "", ""),
    "binary tensor": (
        TENSOR,
        "application/octet-stream",
        "",
        f"Inference-Header-Content-Length: {HEAD_LENGTH}\r\n",
    ),
    "a lying tensor": (
        TENSOR[:-3],
        "application/octet-stream",
        "",
        "Inference-Header-Content-Length: 99999\r\n",
    ),
    "gzip": (gzip.compress(PLAIN, mtime=0), JSON, "gzip", ""),
    "gzip cut off": (gzip.compress(PLAIN, mtime=0)[:-5], JSON, "gzip", ""),
    "brotli": (b"\x1b\x03\x00\x00", JSON, "br", ""),
    "a bomb": (gzip.compress(bytes(20_000_000), mtime=0), JSON, "gzip", ""),
    "all bytes": (bytes(range(256)), "text/plain; charset=x", "", ""),
    "longer than is kept": (_with(b"1" + b" " * CAPTURE), JSON, "", ""),
    "csv": (b"x,y\n1,2\n", "text/csv", "", ""),
    "events": (b"data: {\xff}\n\ndata: [DONE]\n\n", "text/event-stream", "", ""),
}


def _model(protocol: str, url: str) -> Model:
    return Model(
        protocol, "v1", (Version("v1", (url,)),), Match(f"/{protocol}", strip=True), protocol=protocol
    )


@pytest.fixture(scope="module")
def upstream() -> Iterator[MisbehavingUpstream]:
    with MisbehavingUpstream(default="echo") as server:
        yield server


@pytest.fixture(scope="module")
def worker(upstream: MisbehavingUpstream) -> Iterator[RunningWorker]:
    models = [_model(protocol, upstream.url) for protocol in PROTOCOLS]
    with running_worker(models, journal=JournalPolicy("", capture_bytes=CAPTURE)) as running:
        yield running


def _post(path: str, body: bytes, kind: str, encoding: str, more: str) -> bytes:
    coded = f"Content-Encoding: {encoding}\r\n" if encoding else ""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\nContent-Type: {kind}\r\n"
        f"{coded}{more}Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_bytes_out_are_bytes_in_and_what_cannot_be_read_has_its_reason(
    protocol: str, worker: RunningWorker, upstream: MisbehavingUpstream
) -> None:
    for name, (body, kind, encoding, more) in CORPUS.items():
        answer = worker.raw(_post(f"/{protocol}{PATHS[protocol]}", body, kind, encoding, more))
        head, _, came = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), name
        assert came == body, name
        received = upstream.requests[-1]
        assert received.body == body, name
        assert (received.target, received.header("content-type")) == (PATHS[protocol], kind), name
        assert (received.header("content-encoding") or "") == encoding, name
    eventually(lambda: len(worker.predictions(protocol)) == len(CORPUS), what="all records")
    extractor = Extractor(lambda: {protocol: _model(protocol, upstream.url)})
    for name, record in zip(CORPUS, worker.predictions(protocol), strict=True):
        assert record.request_body == CORPUS[name][0][:CAPTURE], name
        rows = extractor.prediction(record)
        assert rows, name
        for row in rows:
            assert row.error is None or row.error in set(Reason) - {Reason.INTERNAL}, name
            nothing = row.features is None and row.prediction is None
            assert row.error is not None or not nothing or protocol == "opaque", name


@pytest.mark.parametrize(
    ("protocol", "name", "reason"),
    [
        ("json", "plain", None),
        ("json", "nan", None),
        ("json", "1e999", None),
        ("json", "doubled keys", None),
        ("json", "deep", Reason.TOO_DEEP),
        ("json", "nothing", Reason.EMPTY_BODY),
        ("json", "gzip cut off", Reason.INVALID_ENCODING),
        ("json", "brotli", Reason.UNSUPPORTED_ENCODING),
        ("json", "longer than is kept", Reason.TRUNCATED_REQUEST),
        ("oip", "binary tensor", None),
        ("oip", "a lying tensor", Reason.INVALID_TENSOR),
        ("oip", "plain", Reason.UNEXPECTED_SHAPE),
        ("openai", "events", Reason.UNSUPPORTED_CONTENT_TYPE),
    ],
)
def test_the_reason_is_the_right_one(
    protocol: str, name: str, reason: Reason | None, upstream: MisbehavingUpstream
) -> None:
    body, kind, encoding, _ = CORPUS[name]
    length = {"binary tensor": HEAD_LENGTH, "a lying tensor": 99_999}.get(name, -1)
    kept = body[:CAPTURE]
    record = PredictionRecord(
        b"0" * 16, 1, protocol, "v1", "production", 200, 1, "", -1, 0.0, 0, "", False, None, None, "POST",
        PATHS[protocol], kind, encoding, len(body), kept, kind, "", len(body), kept, "complete", "", length, length,
    )  # fmt: skip
    row = Extractor(lambda: {protocol: _model(protocol, upstream.url)}).prediction(record)[0]
    assert row.error == reason
