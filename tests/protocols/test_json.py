"""Protocol `json`: one table of bodies as model servers send them, and what is read of each."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import InvalidError
from app.protocols.record import Exchange, Reason, Row
from app.protocols.registry import build_reader

# name, extract, task, request, reply, expected rows
READ: list[tuple[str, dict[str, str], str, Any, Any, list[Row]]] = [
    (
        "the default paths",
        {},
        "binary",
        {"user_id": "u1", "features": {"age": 41, "income": 1200.5}},
        {"prediction": 0.91, "confidence": 0.95},
        [Row({"age": 41, "income": 1200.5}, 0.91, 0.95)],
    ),
    (
        "an object without features is itself the features",
        {},
        "none",
        {"age": 41, "city": "Bern", "member": True, "note": None},
        {"prediction": "yes"},
        [Row({"age": 41, "city": "Bern", "member": True, "note": None}, "yes")],
    ),
    (
        "a list of features is named f0, f1, …",
        {},
        "regression",
        {"features": [5.1, 3.5, 1.4]},
        {"prediction": 12.25},
        [Row({"f0": 5.1, "f1": 3.5, "f2": 1.4}, 12.25)],
    ),
    (
        "nested features are dotted, lists stay lists",
        {},
        "none",
        {"features": {"user": {"age": 3, "geo": {"lat": 1.5}}, "embedding": [0.5, 0.25]}},
        {"prediction": 1},
        [Row({"user.age": 3, "user.geo.lat": 1.5, "embedding": [0.5, 0.25]}, 1)],
    ),
    (
        "a binary probability has the larger side as confidence",
        {},
        "binary",
        {"features": {"x": 1}},
        {"prediction": 0.25},
        [Row({"x": 1}, 0.25, 0.75)],
    ),
    (
        "a hard label says nothing about confidence",
        {},
        "binary",
        {"features": {"x": 1}},
        {"prediction": 1},
        [Row({"x": 1}, 1, None)],
    ),
    (
        "probabilities give the probability of the predicted class",
        {},
        "multiclass",
        {"features": {"x": 1}},
        {"prediction": 0, "probabilities": [0.2, 0.7, 0.1]},
        [Row({"x": 1}, 0, 0.2, (0.2, 0.7, 0.1))],
    ),
    (
        "probabilities by class name",
        {},
        "multiclass",
        {"features": {"x": 1}},
        {"prediction": "cat", "probabilities": {"cat": 0.75, "dog": 0.25}},
        [Row({"x": 1}, "cat", 0.75)],
    ),
    (
        "a label with a list of probabilities has the largest",
        {},
        "multiclass",
        {"features": {"x": 1}},
        {"label": "dog", "probs": [0.25, 0.75]},
        [Row({"x": 1}, "dog", 0.75, (0.25, 0.75))],
    ),
    (
        "only probabilities: the index of the largest",
        {},
        "multiclass",
        {"features": {"x": 1}},
        {"probabilities": [0.1, 0.2, 0.7]},
        [Row({"x": 1}, 2, 0.7, (0.1, 0.2, 0.7))],
    ),
    (
        "two probabilities of a binary task give that of the positive class",
        {},
        "binary",
        {"features": {"x": 1}},
        {"prediction": [0.75, 0.25]},
        [Row({"x": 1}, 0.25, 0.75, (0.75, 0.25))],
    ),
    (
        "logits have no confidence",
        {},
        "multiclass",
        {"features": {"x": 1}},
        {"prediction": [-2.0, 3.5, 0.25]},
        [Row({"x": 1}, 1, None, (-2.0, 3.5, 0.25))],
    ),
    (
        "a map of classes to probabilities",
        {},
        "multiclass",
        {"features": {"x": 1}},
        {"setosa": 0.875, "virginica": 0.125},
        [Row({"x": 1}, "setosa", 0.875, (0.875, 0.125))],
    ),
    (
        "configured paths",
        {"features": "$.inputs['the row']", "prediction": "$.outputs[0].score", "confidence": "$.meta.sure"},
        "none",
        {"inputs": {"the row": {"a": 1}}},
        {"outputs": [{"score": 7.5}], "meta": {"sure": 0.5}},
        [Row({"a": 1}, 7.5, 0.5)],
    ),
    (
        "a path to a text",
        {"features": "$.text", "prediction": "$.label"},
        "none",
        {"text": "good film"},
        {"label": "positive", "score": 0.875},
        [Row({"text": "good film"}, "positive", 0.875)],
    ),
    (
        "a list body is a row an element",
        {},
        "binary",
        [{"features": {"x": 1}}, {"features": {"x": 2}}],
        [{"prediction": 0.5, "confidence": 0.5}, {"prediction": 0.75}],
        [Row({"x": 1}, 0.5, 0.5), Row({"x": 2}, 0.75, 0.75)],
    ),
    (
        "a list body of plain rows and plain answers",
        {},
        "none",
        [[1, 2], [3, 4], [5, 6]],
        [10, 20, 30],
        [Row({"f0": 1, "f1": 2}, 10), Row({"f0": 3, "f1": 4}, 20), Row({"f0": 5, "f1": 6}, 30)],
    ),
    (
        "a bare list of numbers is rows when as many answers come",
        {},
        "none",
        [1.5, 2.5],
        [10, 20],
        [Row({"f0": 1.5}, 10), Row({"f0": 2.5}, 20)],
    ),
    (
        "a bare list of numbers is one row when one answer comes",
        {},
        "none",
        [1.5, 2.5],
        {"prediction": 10},
        [Row({"f0": 1.5, "f1": 2.5}, 10)],
    ),
    (
        "rows in features, columns in the reply",
        {},
        "binary",
        {"features": [{"x": 1}, {"x": 2}]},
        {"prediction": [0, 1], "probabilities": [[0.75, 0.25], [0.125, 0.875]]},
        [Row({"x": 1}, 0, 0.75, (0.75, 0.25)), Row({"x": 2}, 1, 0.875, (0.125, 0.875))],
    ),
    (
        "rows by wildcard",
        {"features": "$.items[*].in", "prediction": "$.out[*].y", "confidence": "$.out[*].p"},
        "none",
        {"items": [{"in": {"a": 1}}, {"in": {"a": 2}}]},
        {"out": [{"y": 3, "p": 0.5}, {"y": 4, "p": 0.25}]},
        [Row({"a": 1}, 3, 0.5), Row({"a": 2}, 4, 0.25)],
    ),
    (
        "one row, answered as a list of one",
        {},
        "none",
        {"features": {"x": 1}},
        {"prediction": [[7]]},
        [Row({"x": 1}, 7)],
    ),
    (
        "the reply is the bare prediction",
        {},
        "none",
        {"features": {"x": 1}},
        3.5,
        [Row({"x": 1}, 3.5)],
    ),
    ("an empty batch", {}, "none", [], [], []),
]


@pytest.mark.parametrize(
    ("extract", "task", "request_", "reply", "rows"), [r[1:] for r in READ], ids=[r[0] for r in READ]
)
def test_bodies_become_rows(
    extract: dict[str, str], task: Any, request_: Any, reply: Any, rows: list[Row]
) -> None:
    exchange = Exchange(json.dumps(request_).encode(), json.dumps(reply).encode())
    extraction = build_reader("json", extract, task)(exchange)
    assert list(extraction.rows) == rows
    assert extraction.reason is None, extraction.detail


# name, extract, request, reply, other fields, reason, rows
NOT_READ: list[tuple[str, dict[str, str], bytes, bytes, dict[str, Any], Reason, list[Row]]] = [
    (
        "an error reply keeps the features",
        {},
        b'{"features":{"x":1}}',
        b'{"error":"no"}',
        {"status": 503},
        Reason.ERROR_STATUS,
        [Row({"x": 1})],
    ),
    ("no JSON at all", {}, b"hello", b"<html>", {}, Reason.INVALID_JSON, []),
    (
        "another content type",
        {},
        b"\xff\xd8\xff\xe0 picture",
        b'{"prediction":1}',
        {"request_content_type": "image/jpeg"},
        Reason.UNSUPPORTED_CONTENT_TYPE,
        [Row(None, 1)],
    ),
    (
        "a reply that was cut off keeps the features",
        {},
        b'{"features":{"x":1}}',
        b'{"prediction":0.',
        {"response_truncated": True},
        Reason.TRUNCATED_RESPONSE,
        [Row({"x": 1})],
    ),
    (
        "a request that was cut off keeps the prediction",
        {},
        b'{"features":{"x"',
        b'{"prediction":0.5}',
        {"request_truncated": True},
        Reason.TRUNCATED_REQUEST,
        [Row(None, 0.5)],
    ),
    ("a GET", {}, b"", b'{"prediction":1}', {}, Reason.EMPTY_BODY, [Row(None, 1)]),
    (
        "nothing at the path of the prediction",
        {"prediction": "$.a.b"},
        b'{"features":{"x":1}}',
        b'{"a":{"c":1}}',
        {},
        Reason.PATH_NOT_FOUND,
        [Row({"x": 1})],
    ),
    (
        "nothing at the path of the features",
        {"features": "$.row"},
        b'{"features":{"x":1}}',
        b'{"prediction":1}',
        {},
        Reason.PATH_NOT_FOUND,
        [Row(None, 1)],
    ),
    (
        "two rows, three answers",
        {},
        b'[{"x":1},{"x":2}]',
        b"[1,2,3]",
        {},
        Reason.ROW_COUNT_MISMATCH,
        [Row({"x": 1}), Row({"x": 2})],
    ),
    (
        "a confidence that is no probability",
        {},
        b'{"features":{"x":1}}',
        b'{"prediction":1,"confidence":87.5}',
        {},
        Reason.UNEXPECTED_SHAPE,
        [Row({"x": 1}, 1)],
    ),
]


@pytest.mark.parametrize(
    ("extract", "request_", "reply", "fields", "reason", "rows"),
    [r[1:] for r in NOT_READ],
    ids=[r[0] for r in NOT_READ],
)
def test_what_cannot_be_read_is_named_and_the_rest_is_kept(
    extract: dict[str, str],
    request_: bytes,
    reply: bytes,
    fields: dict[str, Any],
    reason: Reason,
    rows: list[Row],
) -> None:
    extraction = build_reader("json", extract)(Exchange(request_, reply, **fields))
    assert (extraction.reason, list(extraction.rows)) == (reason, rows)
    assert extraction.detail


def test_numbers_that_no_database_takes_become_null_and_are_named() -> None:
    body = b'{"features":{"a":NaN,"b":1e999,"c":-Infinity,"d":' + b"9" * 5000 + b',"e":1,"v":[1,NaN]}}'
    extraction = build_reader("json")(Exchange(body, b'{"prediction":NaN}'))
    assert extraction.rows == (Row({"a": None, "b": None, "c": None, "d": None, "e": 1, "v": [1, None]}),)
    assert extraction.facts["nonfinite"] == ["a", "b", "c", "d", "prediction", "v"]


def test_integers_beyond_64_bits_become_floats() -> None:
    extraction = build_reader("json")(
        Exchange(b'{"features":{"a":%d}}' % 10**25, b'{"prediction":%d}' % 10**30)
    )
    assert extraction.rows == (Row({"a": 1e25}, 1e30),)


def test_a_shadow_answer_is_read_with_the_rows_of_its_request() -> None:
    reader = build_reader("json", task="multiclass")
    one = reader(Exchange(b"", b'{"prediction":[0.5,0.25,0.25]}', expected_rows=1))
    assert [row.prediction for row in one.rows] == [0]
    three = reader(Exchange(b"", b'{"prediction":[0.5,0.25,0.25]}', expected_rows=3))
    assert [row.prediction for row in three.rows] == [0.5, 0.25, 0.25]
    assert (one.reason, three.reason) == (None, None)
    assert reader(Exchange(b"", b"<html>", expected_rows=1)).reason is Reason.INVALID_JSON


def test_a_path_outside_the_subset_is_refused_when_the_model_is_configured() -> None:
    with pytest.raises(InvalidError, match="must begin with"):
        build_reader("json", {"features": "features"})
    with pytest.raises(InvalidError, match=r"from '\.\.x' on"):
        build_reader("json", {"prediction": "$..x"})
    with pytest.raises(InvalidError, match="use one of"):
        build_reader("grpc")


VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64)
    | st.floats()
    | st.text(max_size=3)
    | st.sampled_from(["\x00", "\ud800", 2**63, -(2**63), -(2**63) - 1, 1e308])
    | st.lists(st.floats(), max_size=2)
    | st.dictionaries(st.text(max_size=2), st.integers(), max_size=2)
)
OBJECTS = st.dictionaries(st.sampled_from(["a", "b", "c.d", "é"]), VALUES, max_size=4)


@settings(max_examples=400, deadline=None)
@given(features=OBJECTS | VALUES, others=OBJECTS, twice=st.booleans(), cut=st.integers(0, 3))
def test_features_checked_while_they_are_parsed_are_those_read_by_the_general_way(
    features: Any, others: dict[str, Any], twice: bool, cut: int
) -> None:
    """Only a path of one name can be read in one go; two names never are."""
    text = json.dumps({"features": features, **others})
    if twice:
        text = text[:-1] + ', "features": {"a": 1, "a": 2.5}}'
    text = text[: len(text) - cut]
    at_once = build_reader("json", {"features": "$.features"})
    general = build_reader("json", {"features": "$.outer.features"})
    reply = b'{"prediction": 1}'
    found = at_once(Exchange(text.encode(), reply))
    wanted = general(Exchange(f'{{"outer": {text}}}'.encode(), reply))
    assert found.rows == wanted.rows
    assert found.facts == wanted.facts
    assert found.reason == wanted.reason


def test_after_a_document_of_another_kind_the_plain_ones_are_read_as_before() -> None:
    reader = build_reader("json")
    plain = Exchange(b'{"features": {"a": 1}}', b"1")
    assert reader(Exchange(b'{"features": [1, 2]}', b"1")).rows[0].features == {"f0": 1, "f1": 2}
    assert {json.dumps(reader(plain).rows[0].features) for _ in range(300)} == {'{"a": 1}'}
