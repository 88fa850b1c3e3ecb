"""Protocol `tfserving`: row form, column form, classify and regress."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from app.protocols.record import Exchange, Reason, Row
from app.protocols.registry import build_reader

HELLO = base64.b64encode(b"hello")

# name, task, request, reply, rows
READ: list[tuple[str, str, bytes, bytes, list[Row]]] = [
    (
        "rows of numbers",
        "none",
        b'{"instances":[1.0,2.0,5.0]}',
        b'{"predictions":[2.5,3.0,4.5]}',
        [Row({"f0": 1.0}, 2.5), Row({"f0": 2.0}, 3.0), Row({"f0": 5.0}, 4.5)],
    ),
    (
        "rows of vectors, sigmoid answers",
        "binary",
        b'{"instances":[[1,2],[3,4]]}',
        b'{"predictions":[[0.25],[0.875]]}',
        [Row({"f0": 1, "f1": 2}, 0.25, 0.75), Row({"f0": 3, "f1": 4}, 0.875, 0.875)],
    ),
    (
        "one row, softmax answer",
        "multiclass",
        b'{"instances":[[1,2]]}',
        b'{"predictions":[[0.25,0.5,0.25]]}',
        [Row({"f0": 1, "f1": 2}, 1, 0.5, (0.25, 0.5, 0.25))],
    ),
    (
        "rows of named inputs",
        "none",
        b'{"signature_name":"s","instances":[{"tag":"foo","signal":[1,2],"one":[7]},{"tag":"bar","signal":[3,4],"one":[8]}]}',
        b'{"predictions":[1,2]}',
        [
            Row({"tag": "foo", "signal[0]": 1, "signal[1]": 2, "one": 7}, 1),
            Row({"tag": "bar", "signal[0]": 3, "signal[1]": 4, "one": 8}, 2),
        ],
    ),
    (
        "rows of bytes",
        "none",
        b'{"instances":[{"b64":"' + HELLO + b'"},{"image":{"b64":"' + HELLO + b'"}}]}',
        b'{"predictions":["a","b"]}',
        [Row({"f0": "hello"}, "a"), Row({"image": "hello"}, "b")],
    ),
    (
        "columns",
        "none",
        b'{"inputs":{"tag":["foo","bar"],"signal":[[1,2],[3,4]]}}',
        b'{"outputs":[5,6]}',
        [
            Row({"tag": "foo", "signal[0]": 1, "signal[1]": 2}, 5),
            Row({"tag": "bar", "signal[0]": 3, "signal[1]": 4}, 6),
        ],
    ),
    (
        "columns answered by columns",
        "multiclass",
        b'{"inputs":{"x":[1,2]}}',
        b'{"outputs":{"class_ids":[[1],[0]],"probabilities":[[0.25,0.75],[0.875,0.125]],"logits":[[0,1],[1,0]]}}',
        [Row({"x": 1}, 1, 0.75, (0.25, 0.75)), Row({"x": 2}, 0, 0.875, (0.875, 0.125))],
    ),
    (
        "rows answered by named outputs, as canned estimators do",
        "multiclass",
        b'{"instances":[{"x":1}]}',
        b'{"predictions":[{"classes":["1"],"class_ids":[1],"probabilities":[0.25,0.75],"logits":[0.5,1.5]}]}',
        [Row({"x": 1}, "1", 0.75, (0.25, 0.75))],
    ),
    (
        "classify",
        "none",
        b'{"context":{"lang":"de"},"examples":[{"x":1},{"x":2}]}',
        b'{"result":0,"results":[[["cat",0.25],["dog",0.75]],[["cat",0.5],["dog",0.25]]]}',
        [Row({"lang": "de", "x": 1}, "dog", 0.75), Row({"lang": "de", "x": 2}, "cat", 0.5)],
    ),
    (
        "regress",
        "regression",
        b'{"examples":[{"x":1},{"x":2}]}',
        b'{"results":[3.5,4.5]}',
        [Row({"x": 1}, 3.5), Row({"x": 2}, 4.5)],
    ),
]


@pytest.mark.parametrize(
    ("task", "request_", "reply", "rows"), [r[1:] for r in READ], ids=[r[0] for r in READ]
)
def test_bodies_become_rows(task: Any, request_: bytes, reply: bytes, rows: list[Row]) -> None:
    extraction = build_reader("tfserving", task=task)(Exchange(request_, reply, path="/v1/models/m:predict"))
    assert list(extraction.rows) == rows
    assert extraction.reason is None, extraction.detail


def test_bare_nan_and_infinity_are_legal_and_become_null() -> None:
    extraction = build_reader("tfserving")(
        Exchange(b'{"instances":[{"a":NaN,"b":-Infinity,"c":1}]}', b'{"predictions":[NaN]}')
    )
    assert extraction.rows == (Row({"a": None, "b": None, "c": 1}),)
    assert extraction.reason is None
    assert extraction.facts["nonfinite"] == ["a", "b", "prediction"]


@pytest.mark.parametrize(
    ("request_", "reply", "fields", "reason", "rows"),
    [
        (b'{"x":1}', b'{"predictions":[1]}', {}, Reason.UNEXPECTED_SHAPE, [Row(None, 1)]),
        (
            b'{"instances":[1,2]}',
            b'{"predictions":[1]}',
            {},
            Reason.ROW_COUNT_MISMATCH,
            [Row({"f0": 1}), Row({"f0": 2})],
        ),
        (
            b'{"inputs":{"a":[1,2],"b":[1]}}',
            b'{"outputs":[1]}',
            {},
            Reason.ROW_COUNT_MISMATCH,
            [Row(None, 1)],
        ),
        (b'{"instances":[1]}', b'{"error":"x"}', {"status": 400}, Reason.ERROR_STATUS, [Row({"f0": 1})]),
        (
            b'{"instances":[1]}',
            b'{"predictions":[1]}',
            {"path": "/v1/models/m/metadata"},
            Reason.NOT_INFERENCE,
            [],
        ),
        (
            b'{"instances":[' + b"[" * 40 + b"1" + b",2]" * 40 + b"]}",
            b'{"predictions":[1]}',
            {},
            Reason.TOO_DEEP,
            [Row(None, 1)],
        ),
    ],
)
def test_what_cannot_be_read_is_named(
    request_: bytes, reply: bytes, fields: dict[str, Any], reason: Reason, rows: list[Row]
) -> None:
    extraction = build_reader("tfserving")(Exchange(request_, reply, **fields))
    assert (extraction.reason, list(extraction.rows)) == (reason, rows), extraction.detail
