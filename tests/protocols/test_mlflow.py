"""Protocol `mlflow`: every input form of `/invocations`."""

from __future__ import annotations

from typing import Any

import pytest

from app.protocols.record import Exchange, Reason, Row
from app.protocols.registry import build_reader

TWO = [Row({"a": 1, "b": "x"}, 10), Row({"a": 2, "b": "y"}, 20)]

# name, content type, request, reply, task, rows
READ: list[tuple[str, str, bytes, bytes, str, list[Row]]] = [
    (
        "dataframe_split",
        "application/json",
        b'{"dataframe_split":{"index":[0,1],"columns":["a","b"],"data":[[1,"x"],[2,"y"]]}}',
        b'{"predictions":[10,20]}',
        "none",
        TWO,
    ),
    (
        "dataframe_records",
        "application/json",
        b'{"dataframe_records":[{"a":1,"b":"x"},{"a":2,"b":"y"}],"params":{"t":0.5}}',
        b'{"predictions":[10,20]}',
        "none",
        TWO,
    ),
    (
        "instances",
        "application/json",
        b'{"instances":[{"a":1,"b":"x"},{"a":2,"b":"y"}]}',
        b'{"predictions":[10,20]}',
        "none",
        TWO,
    ),
    (
        "inputs",
        "application/json",
        b'{"inputs":{"a":[1,2],"b":["x","y"]}}',
        b'{"predictions":[10,20]}',
        "none",
        TWO,
    ),
    (
        "text/csv",
        "text/csv; charset=utf-8",
        b"a,b\r\n1,x\r\n2,y\r\n",
        b'{"predictions":[10,20]}',
        "none",
        TWO,
    ),
    (
        "csv cells as pandas reads them",
        "text/csv",
        b'\xef\xbb\xbfn,e,t,b,q\n-1.5e3,,True,false,"a,""b"""\n',
        b'{"predictions":["yes"]}',
        "none",
        [Row({"n": -1500.0, "e": None, "t": True, "b": False, "q": 'a,"b"'}, "yes")],
    ),
    (
        "split without column names",
        "application/json",
        b'{"dataframe_split":{"data":[[1,2]]}}',
        b'{"predictions":[[0.25,0.75]]}',
        "binary",
        [Row({"f0": 1, "f1": 2}, 0.75, 0.75, (0.25, 0.75))],
    ),
    (
        "a data frame in the reply",
        "application/json",
        b'{"dataframe_records":[{"a":1},{"a":2}]}',
        b'{"predictions":[{"label":"no","probability":0.75},{"label":"yes","probability":0.5}]}',
        "multiclass",
        [Row({"a": 1}, "no", 0.75), Row({"a": 2}, "yes", 0.5)],
    ),
    (
        "named arrays in the reply",
        "application/json",
        b'{"inputs":[[1],[2]]}',
        b'{"predictions":{"prediction":[3,4],"extra":[0,0]}}',
        "none",
        [Row({"f0": 1}, 3), Row({"f0": 2}, 4)],
    ),
]


@pytest.mark.parametrize(
    ("content_type", "request_", "reply", "task", "rows"), [r[1:] for r in READ], ids=[r[0] for r in READ]
)
def test_every_input_form_becomes_rows(
    content_type: str, request_: bytes, reply: bytes, task: Any, rows: list[Row]
) -> None:
    extraction = build_reader("mlflow", task=task)(
        Exchange(request_, reply, path="/invocations", request_content_type=content_type)
    )
    assert list(extraction.rows) == rows
    assert extraction.reason is None, extraction.detail


def test_params_are_a_fact_and_no_feature() -> None:
    extraction = build_reader("mlflow")(
        Exchange(b'{"instances":[1],"params":{"temperature":0.5,"bad":NaN}}', b'{"predictions":[2]}')
    )
    assert extraction.rows == (Row({"f0": 1}, 2),)
    assert extraction.facts["params"] == {"temperature": 0.5, "bad": None}


@pytest.mark.parametrize(
    ("content_type", "request_", "path", "reason"),
    [
        ("application/json", b'{"columns":["a"]}', "/invocations", Reason.UNEXPECTED_SHAPE),
        (
            "application/json",
            b'{"dataframe_split":{"columns":["a"],"data":[[1,2]]}}',
            "/invocations",
            Reason.UNEXPECTED_SHAPE,
        ),
        ("text/csv", b"a,b\n1\n", "/invocations", Reason.INVALID_CSV),
        ("text/csv", b"\n\n", "/invocations", Reason.INVALID_CSV),
        ("text/csv", b'a\n"' + b"x" * 200_000 + b'"\n', "/invocations", Reason.INVALID_CSV),
        ("application/json", b"", "/ping", Reason.NOT_INFERENCE),
    ],
)
def test_what_cannot_be_read_is_named(content_type: str, request_: bytes, path: str, reason: Reason) -> None:
    extraction = build_reader("mlflow")(
        Exchange(request_, b'{"predictions":[1]}', path=path, request_content_type=content_type)
    )
    assert extraction.reason is reason, extraction.detail
