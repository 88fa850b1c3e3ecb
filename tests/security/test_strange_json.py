"""JSON at the edge of JSON: refused with a reason on our own endpoints, passed byte for byte to models."""

from __future__ import annotations

import pytest

from tests.misbehaving import MisbehavingUpstream
from tests.security.tokens import TOKENS, json_of, raw, request, status_of
from tests.system import RunningGateway

STRANGE = {
    "nothing": b"",
    "not JSON": b"{'a': 1}",
    "NaN": b'{"reason": NaN, "ground_truth": NaN, "canary_percent": NaN}',
    "minus infinity": b'{"reason": -Infinity}',
    "huge exponent": b'{"ground_truth": 1e999, "canary_percent": 1e999, "timeout_s": 1e999}',
    "deep arrays": b"[" * 100_000,
    "deep arrays, closed": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "deep inside": b'{"outcomes": [{"ground_truth": ' + b"[" * 1000 + b"]" * 1000 + b"}]}",
    "bad UTF-8": b'{"reason": "\xff\xfe"}',
    "overlong UTF-8": b'{"reason": "\xc0\xaf"}',
    "UTF-8 surrogate": b'{"reason": "\xed\xa0\x80"}',
    "UTF-16": '{"reason": "x"}'.encode("utf-16"),
    "byte order mark": b'\xef\xbb\xbf{"reason": "x"}',
    "doubled keys": b'{"reason": "a", "reason": "b"}',
    "doubled inside": b'{"outcomes": [{"ground_truth": 1, "ground_truth": 0}]}',
    "5,000 digits": b'{"canary_percent": ' + b"9" * 5000 + b', "ground_truth": ' + b"9" * 5000 + b"}",
    "5,000 digits of a fraction": b'{"canary_percent": 5.0' + b"9" * 5000 + b', "reason": 0}',
    "beyond 64 bits": b'{"canary_percent": 36893488147419103232}',
    "lone surrogate": b'{"reason": "\\ud800", "prediction_id": "\\ud800", "ground_truth": 1}',
    "NUL": b'{"reason": "a\\u0000b", "url": "http://a\\u0000b"}',
    "raw NUL": b'{"reason": "a\x00b"}',
    "comment": b'{"reason": /* why */ "x"}',
    "trailing comma": b'{"reason": "x",}',
    "two values": b"{} {}",
    "a string": b'"reason"',
    "a number": b"1",
    "null": b"null",
    "an array": b"[]",
    "wrong types": b'{"reason": {}, "canary_percent": "5", "url": 5, "outcomes": 3, "candidate": []}',
    "unknown key": b'{"\\u0072eason": "x", "__class__": "y"}',
    "prototype": b'{"__proto__": {"admin": true}, "constructor": 1}',
}
OWN = [
    ("POST", "/feedback"),
    ("PATCH", "/admin/models/credit/flags"),
    ("PUT", "/admin/models/credit/versions/v9"),
    ("POST", "/admin/models/credit/rollouts"),
    ("POST", "/admin/models/credit/rollouts/r1/advance"),
    ("POST", "/admin/models/credit/review/01900000-0000-7000-8000-000000000000"),
    ("POST", "/admin/models/credit/baseline"),
]


@pytest.mark.parametrize(("method", "path"), OWN, ids=[path for _, path in OWN])
def test_strange_json_is_refused_with_a_reason(gateway: RunningGateway, method: str, path: str) -> None:
    for name, body in STRANGE.items():
        answer = raw(
            gateway.port,
            request(method, path, "Content-Type: application/json", token=TOKENS["admin"], body=body),
        )
        status = status_of(answer)
        assert 400 <= status < 500, (name, answer[:600])
        assert json_of(answer)["detail"], name


@pytest.mark.parametrize(
    "content_type",
    ["application/x-ndjson", "text/csv", "application/vnd.apache.parquet", "text/plain", ""],
)
@pytest.mark.parametrize("path", ["/feedback", "/admin/models/credit/baseline"])
def test_strange_bodies_of_other_types_are_refused_with_a_reason(
    gateway: RunningGateway, content_type: str, path: str
) -> None:
    fields = [f"Content-Type: {content_type}"] if content_type else []
    for name, body in STRANGE.items():
        answer = raw(gateway.port, request("POST", path, *fields, token=TOKENS["admin"], body=body))
        assert 400 <= status_of(answer) < 500, (name, answer[:600])


@pytest.mark.parametrize(
    "target",
    [
        "/admin/audit?limit=99999999999999999999999",
        "/admin/audit?limit=-1",
        "/admin/audit?limit=NaN",
        "/admin/audit?model=%00",
        "/admin/audit?model=%ff%fe",
        "/admin/audit?limit=1&limit=2x",
        "/admin/models/%00",
        "/admin/models/%ff/flags",
        "/admin/models/" + "x" * 5000,
        "/admin/models/credit/performance?since=0000-00-00",
        "/admin/models/credit/performance?since=2026-01-01T00:00:00%2B99:99",
        "/admin/models/credit/training-set?half_life_days=nan",
        "/admin/models/credit/training-set?flat_days=-1",
        "/admin/models/credit/rollouts/%27%20OR%201=1",
        "/admin/models/credit/review?strategy=x",
        "/admin/models/credit/review?limit=1e9",
        "/predictions/%00",
        "/predictions/01900000-0000-7000-8000-000000000000:99999999999999",
        "/predictions/01900000-0000-7000-8000-000000000000:-1",
        "/predictions/ffffffff-ffff-7fff-bfff-ffffffffffff",
        "/ui/..%2f..%2fetc/passwd",
        "/ui/%2e%2e%2fapp.py",
    ],
)
def test_strange_parameters_are_refused_with_a_reason(gateway: RunningGateway, target: str) -> None:
    answer = raw(gateway.port, request("GET", target, token=TOKENS["admin"]))
    assert 400 <= status_of(answer) < 500, answer[:600]
    assert "json" in answer.partition(b"\r\n\r\n")[0].decode().lower()


@pytest.mark.parametrize(
    "target",
    [
        "/admin/models/credit/performance?since=9999999999999",
        "/admin/models/credit/performance?since=9999-12-31T23:59:59Z&until=0001-01-01T00:00:00Z",
        "/admin/models/credit/performance?by=%27%3B--",
        "/admin/models/credit/shadow?version=v2&since=0001-01-01T00:00:00%2B14:00",
        "/admin/models/credit/training-set?half_life_days=1e999",
        "/admin/models/credit/training-set/manifest?half_life_days=1e999",
        "/admin/models/credit/training-set?half_life_days=5e-324&flat_days=1e308",
        "/admin/models/credit/training-set?as_of=0001-01-01T00:00:00%2B14:00",
        "/admin/models/credit/training-set?since=9999-12-31T23:59:59-14:00&as_of=9999-12-31T23:59:59-14:00",
    ],
)
def test_odd_parameters_that_make_sense_are_not_an_error_of_ours(
    gateway: RunningGateway, target: str
) -> None:
    answer = raw(
        gateway.port, request("GET", target, "Connection: close", token=TOKENS["admin"]), until_close=True
    )
    assert status_of(answer) in (200, 422), answer[:600]
    assert "Content-Length" in answer.decode() or answer.endswith(b"0\r\n\r\n")  # whole


def test_on_a_models_path_the_same_bodies_pass_byte_for_byte(
    gateway: RunningGateway, upstream: MisbehavingUpstream
) -> None:
    for name, body in STRANGE.items():
        before = upstream.count()
        answer = raw(
            gateway.port,
            request("POST", "/models/credit/echo", "Content-Type: application/json", body=body),
        )
        assert status_of(answer) == 200, name
        assert upstream.count() == before + 1, name
        assert upstream.requests[before].body == body, name
        assert answer.partition(b"\r\n\r\n")[2] == body, name
    accounts = gateway.settled()  # nor does any of them stop the recorder
    assert accounts["quarantined"] + accounts["stored"] >= len(STRANGE)
