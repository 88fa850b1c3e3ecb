"""`privacy: {drop, hash}`: what is named never reaches the journal or the store, in any protocol's body."""

from __future__ import annotations

import gzip
import json
import struct
import subprocess
import sys
from typing import Any

import pytest

from app.protocols.privacy import Redaction, redact_body
from app.protocols.record import Exchange, Reason
from app.protocols.registry import build_reader

SALT = b"a secret of this installation"
REDACTION = Redaction(drop=["ssn", "user.email", "x[1]", "f2", "prompt"], hash=["name", "age"], salt=SALT)

SECRETS = (b"078-05-1120", b"ann@example.org", b"Ann Secret", b"41.0625")
"""What the bodies below hold under names that are dropped or hashed."""

MLFLOW_CSV = {"protocol": "mlflow", "content_type": "text/csv"}
CSV = b"ssn,name,kept\n078-05-1120,Ann Secret,7\n"


def binary_request() -> tuple[bytes, int]:
    def text(value: bytes) -> bytes:
        return struct.pack("<I", len(value)) + value

    parts = [
        ("ssn", [1], "BYTES", text(b"078-05-1120")),
        ("kept", [1, 2], "FP32", struct.pack("<2f", 7, 8)),
        ("age", [1], "FP32", struct.pack("<f", 41.0625)),
        ("x", [1, 3], "FP64", struct.pack("<3d", 1, 41.0625, 3)),
        ("name", [1], "BYTES", text(b"Ann Secret")),
    ]
    inputs = [
        {"name": name, "shape": shape, "datatype": kind, "parameters": {"binary_data_size": len(raw)}}
        for name, shape, kind, raw in parts
    ]
    header = json.dumps({"inputs": inputs}).encode()
    return header + b"".join(raw for *_, raw in parts), len(header)


BINARY, BINARY_HEADER = binary_request()

# name, protocol, content type, request, reply, header length
BODIES: list[tuple[str, str, str, bytes, bytes, int | None]] = [
    (
        "json object",
        "json",
        "application/json",
        b'{"features":{"ssn":"078-05-1120","name":"Ann Secret","age":41.0625,"kept":7,"user":{"email":"ann@example.org","id":5}}}',
        b'{"prediction":1,"echo":{"ssn":"078-05-1120","deep":[{"user":{"email":"ann@example.org"}}]}}',
        None,
    ),
    (
        "json list of a row without names",
        "json",
        "application/json",
        b'{"features":[1,2,"078-05-1120",4]}',
        b'{"prediction":1}',
        None,
    ),
    (
        "json rows without names",
        "json",
        "application/json",
        b'[[1,2,"078-05-1120"],[3,4,"ann@example.org"]]',
        b"[1,2]",
        None,
    ),
    (
        "duplicate keys",
        "json",
        "application/json",
        b'{"features":{"ssn":"078-05-1120"},"features":{"kept":7}}',
        b'{"prediction":1}',
        None,
    ),
    (
        "not quite JSON",
        "json",
        "application/json",
        b'\xef\xbb\xbf{"features":{"ssn":"078-05-1120","kept":NaN,"t":"\xff","u":"\\ud800"}}',
        b'{"prediction":Infinity}',
        None,
    ),
    (
        "tensors",
        "oip",
        "application/json",
        b'{"inputs":[{"name":"ssn","shape":[1],"datatype":"BYTES","data":["078-05-1120"]},'
        b'{"name":"x","shape":[2,2],"datatype":"FP64","data":[1,41.0625,2,41.0625]},'
        b'{"name":"name","shape":[2],"datatype":"BYTES","data":["Ann Secret","Ann Secret"]},'
        b'{"name":"f0","shape":[2],"datatype":"FP64","data":[1,2]}]}'.replace(
            b'"shape":[1]', b'"shape":[2]'
        ).replace(b'["078-05-1120"]', b'["078-05-1120","078-05-1120"]'),
        b'{"outputs":[{"name":"y","shape":[2],"datatype":"INT64","data":[1,2]}]}',
        None,
    ),
    (
        "binary tensors",
        "oip",
        "application/octet-stream",
        BINARY,
        b'{"outputs":[{"name":"y","shape":[1],"datatype":"INT64","data":[1]}]}',
        BINARY_HEADER,
    ),
    (
        "instances",
        "tfserving",
        "application/json",
        b'{"instances":[{"ssn":"078-05-1120","name":"Ann Secret","x":[1,41.0625,3],"kept":7}]}',
        b'{"predictions":[0.5]}',
        None,
    ),
    (
        "columns",
        "tfserving",
        "application/json",
        b'{"inputs":{"ssn":["078-05-1120"],"name":["Ann Secret"],"x":[[1,41.0625]],"kept":[7]}}',
        b'{"outputs":[0.5]}',
        None,
    ),
    (
        "split frame",
        "mlflow",
        "application/json",
        b'{"dataframe_split":{"columns":["kept","ssn","name"],"data":[[1,"078-05-1120","Ann Secret"]]},"params":{"age":41.0625,"k":1}}',
        b'{"predictions":[1]}',
        None,
    ),
    (
        "records",
        "mlflow",
        "application/json",
        b'{"dataframe_records":[{"kept":1,"ssn":"078-05-1120","name":"Ann Secret"}]}',
        b'{"predictions":[1]}',
        None,
    ),
    ("csv", "mlflow", "text/csv", CSV, b'{"predictions":[1]}', None),
    (
        "a conversation",
        "openai",
        "application/json",
        b'{"model":"m","messages":[{"role":"user","content":"I am Ann Secret, 078-05-1120"}]}',
        b'{"choices":[{"message":{"content":"hello"},"finish_reason":"stop"}]}',
        None,
    ),
]
CASES = pytest.mark.parametrize(
    ("protocol", "content_type", "request_", "reply", "length"),
    [r[1:] for r in BODIES],
    ids=[r[0] for r in BODIES],
)


@CASES
def test_no_secret_is_left_in_a_redacted_body(
    protocol: str, content_type: str, request_: bytes, reply: bytes, length: int | None
) -> None:
    for body, kind in ((request_, content_type), (reply, "application/json")):
        redacted = redact_body(
            body, kind, protocol, REDACTION, header_length=length if body is request_ else None
        )
        assert redacted.reason is None
        assert redacted.body
        for secret in SECRETS:
            assert secret not in redacted.body
            for kind_of_float in ("<f", "<d"):
                assert struct.pack(kind_of_float, 41.0625) not in redacted.body


@CASES
def test_a_redacted_body_reads_like_a_redacted_reading(
    protocol: str, content_type: str, request_: bytes, reply: bytes, length: int | None
) -> None:
    """Redacting before the journal and redacting while reading agree: drift and joins do not depend on which it was."""
    reader = build_reader(protocol, redaction=REDACTION)
    direct = reader(
        Exchange(request_, reply, request_content_type=content_type, request_header_length=length)
    )
    redacted = redact_body(request_, content_type, protocol, REDACTION, header_length=length)
    answer = redact_body(reply, "application/json", protocol, REDACTION)
    later = reader(
        Exchange(
            redacted.body,
            answer.body,
            request_content_type=content_type,
            request_header_length=redacted.header_length,
            request_truncated=len(redacted.body) < len(request_),
            response_truncated=len(answer.body) < len(reply),
            redacted=True,
        )
    )
    assert later.rows == direct.rows
    assert later.reason == direct.reason
    assert later.facts.get("params") == direct.facts.get("params")


@pytest.mark.parametrize("protocol", ["json", "oip", "tfserving", "openai"])
@pytest.mark.parametrize(
    "content_type", ["text/csv", "Text/CSV; charset=utf-8", "text/plain", "application/csv", ""]
)
def test_what_a_body_calls_itself_hides_nothing_from_a_protocol_that_reads_json(
    protocol: str, content_type: str
) -> None:
    body = b'{"features":{"ssn":"078-05-1120","kept":7},"messages":[{"role":"user","content":"I am Ann Secret"}]}'
    redacted = redact_body(body, content_type, protocol, REDACTION)
    assert redacted.reason is None
    assert b"078-05" not in redacted.body
    assert (b"Ann Secret" in redacted.body) == (protocol != "openai")
    assert b'"kept":7' in redacted.body


@pytest.mark.parametrize("header", [b'"ssn "', b" ssn", b'"\tssn\xc2\xa0"', b"ssn"])
def test_spaces_around_a_columns_name_hide_nothing(header: bytes) -> None:
    redacted = redact_body(header + b",kept\n078-05-1120,7\n", "text/csv", "mlflow", REDACTION)
    assert (redacted.body, redacted.reason) == (b"kept\n7\n", None)


@pytest.mark.parametrize(
    "body",
    [
        b'{"ssn ":"078-05-1120","kept":7}',
        b'{"a":[{"\\tssn":{"b":"078-05-1120"}}],"kept":7}',
        b'{"inputs":[{"name":" ssn","shape":[1],"datatype":"BYTES","data":["078-05-1120"]}],"kept":7}',
        b'{"dataframe_split":{"columns":["ssn ","x"],"data":[["078-05-1120",1]]},"kept":7}',
    ],
)
def test_spaces_around_a_members_name_hide_nothing(body: bytes) -> None:
    redacted = redact_body(body, "application/json", "oip", REDACTION)
    assert b"078-05" not in redacted.body
    assert b'"kept":7' in redacted.body
    assert Redaction(drop=["ssn"]).apply({" ssn": 1, "user.ssn ": 2, "kept": 3}) == {"kept": 3}


def test_a_data_frames_index_is_kept_only_as_a_hash() -> None:
    """It has no name in the body, may be a column of ids, and is no feature."""
    body = b'{"dataframe_split":{"index":["078-05-1120",2],"columns":["x"],"data":[[1],[2]]}}'
    for redaction in (REDACTION, Redaction(drop=["index"])):
        redacted = redact_body(body, "application/json", "mlflow", redaction)
        assert redacted.body == b'{"dataframe_split":{"columns":["x"],"data":[[1],[2]]}}'
    hashing = Redaction(hash=["index"], salt=SALT)
    kept = json.loads(redact_body(body, "application/json", "mlflow", hashing).body)["dataframe_split"]
    assert kept["index"] == [hashing.digest("078-05-1120"), hashing.digest(2)]


def test_hashing_is_keyed_and_the_same_for_equal_values() -> None:
    hashed = REDACTION.apply({"name": "Ann Secret", "age": 41, "kept": 1, "none": None})
    assert hashed["kept"] == 1
    assert len(hashed["name"]) == 16
    assert hashed["age"] == REDACTION.apply({"age": "41"})["age"]
    assert hashed["name"] != Redaction(hash=["name"], salt=b"another").apply({"name": "Ann Secret"})["name"]
    assert REDACTION.apply({"name": None}) == {"name": None}


def test_a_name_covers_what_is_inside_it_and_a_nested_name_its_place() -> None:
    redaction = Redaction(drop=["user", "order.email", "v[1]"])
    assert redaction.apply(
        {"user.age": 1, "a.user.b": 2, "email": 3, "order.email": 4, "v[0]": 5, "v[1]": 6}
    ) == {
        "email": 3,
        "v[0]": 5,
    }


def test_each_event_of_a_stream_is_redacted() -> None:
    stream = (
        b"event: message\nid: 078-05-1120\n: 078-05-1120\n"
        b'data: {"choices":[{"delta":{"content":"hi"}}],"user":{"email":"ann@example.org"}}\n\ndata: [DONE]\n\n'
    )
    redacted = redact_body(stream, "text/event-stream", "openai", REDACTION)
    assert redacted.body == (
        b'event: message\ndata: {"choices":[{"delta":{"content":"hi"}}],"user":{}}\n\ndata: [DONE]\n\n'
    )
    cut = redact_body(stream[:-20], "text/event-stream", "openai", REDACTION, truncated=True)
    assert cut.body == b""
    assert cut.reason is None


@pytest.mark.parametrize(
    ("body", "fields", "reason"),
    [
        (b'{"ssn":"078-05-1120"', {}, Reason.INVALID_JSON),
        (b'{"ssn":"078-05-1120"}', {"truncated": True}, Reason.TRUNCATED_REQUEST),
        (b'{"a":' * 500 + b"1" + b"}" * 500, {}, Reason.TOO_DEEP),
        (b"[" * 100_000, {}, Reason.TOO_DEEP),
        (b'{"ssn":"078-05-1120"}', {"content_encoding": "br"}, Reason.UNSUPPORTED_ENCODING),
        (b'{"ssn":"078-05-1120"}', {"content_encoding": "gzip"}, Reason.INVALID_ENCODING),
        (
            b"ssn=078-05-1120",
            {"content_type": "application/x-www-form-urlencoded"},
            Reason.UNSUPPORTED_CONTENT_TYPE,
        ),
        (b"ssn\n078-05-1120\n", {"content_type": "text/csv"}, Reason.UNSUPPORTED_CONTENT_TYPE),
        (b"a,b\n1\n", MLFLOW_CSV, Reason.INVALID_CSV),
        (b"ssn;x\n078-05-1120;1\n", MLFLOW_CSV, Reason.INVALID_CSV),
        (b"ssn\tx\n078-05-1120\t1\n", MLFLOW_CSV, Reason.INVALID_CSV),
        (b'{"dataframe_split":{"columns":["ssn"],"data":[["078-05-1120"]]}}', MLFLOW_CSV, Reason.INVALID_CSV),
        (b' [{"ssn":"078-05-1120"}]', MLFLOW_CSV, Reason.INVALID_CSV),
        ("ssn,x\n078-05-1120,1\n".encode("utf-16"), MLFLOW_CSV, Reason.INVALID_CSV),
        ("stra\u00dfe,x\nErika,1\n".encode("latin-1"), MLFLOW_CSV, Reason.INVALID_CSV),
        (
            b"+AHMAcwBu-,x\n078-05-1120,1\n",
            MLFLOW_CSV | {"content_type": "text/csv; charset=UTF-7"},
            Reason.UNSUPPORTED_CONTENT_TYPE,
        ),
        (b'data: {"ssn"\n\n', {"content_type": "text/event-stream"}, Reason.INVALID_JSON),
        (b'{"ssn":"078-05-1120"}', {"protocol": "opaque"}, Reason.UNSUPPORTED_CONTENT_TYPE),
    ],
)
def test_a_body_that_cannot_be_taken_apart_leaves_nothing(
    body: bytes, fields: dict[str, Any], reason: Reason
) -> None:
    arguments = {"content_type": "application/json", "protocol": "json"} | fields
    redacted = redact_body(body, redaction=REDACTION, **arguments)
    assert (redacted.body, redacted.reason) == (b"", reason)


def test_a_compressed_body_comes_back_plain_and_redacted() -> None:
    body = gzip.compress(b'{"ssn":"078-05-1120","kept":1}', mtime=0)
    redacted = redact_body(body, "application/json", "json", REDACTION, content_encoding="gzip")
    assert (redacted.body, redacted.content_encoding) == (b'{"kept":1}', "")


def test_without_names_a_body_is_kept_byte_for_byte() -> None:
    body = b'{"a":1,"a":NaN} trailing'
    redacted = redact_body(body, "", "json", Redaction(), content_encoding="gzip", truncated=True)
    assert (redacted.body, redacted.content_encoding, redacted.reason) == (body, "gzip", None)


def test_a_worker_gets_privacy_and_routing_keys_without_numpy() -> None:
    code = (
        "import sys; import app.protocols.privacy, app.protocols.json_paths, app.protocols.registry;"
        "print([m for m in ('numpy', 'scipy', 'fastapi', 'sqlalchemy', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
