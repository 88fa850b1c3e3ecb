"""The JSONPath subset, and routing keys read from bodies."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.errors import InvalidError
from app.protocols.json_paths import MISSING, compile_key_path, compile_path

DOCUMENT = {
    "a": {"b c": [10, {"d": None}], "e.f": 1, "it's": 2, "": 3},
    "rows": [{"x": 1}, {"y": 2}, {"x": 3}],
    "deep": [{"in": [{"z": 1}, {"z": 2}]}, {"in": [{"z": 3}]}],
}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("$", DOCUMENT),
        ("$.a['b c'][0]", 10),
        ('$.a["b c"][-2]', 10),
        ("$['a']['b c'][1].d", None),
        ("$.a['e.f']", 1),
        (r"$.a['it\'s']", 2),
        ("$.a['']", 3),
        ("$.a['b c'][7]", MISSING),
        ("$.a.x.y", MISSING),
        ("$.rows.x", MISSING),
        ("$.a[0]", MISSING),
        ("$.rows[*].x", [1, None, 3]),
        ("$.rows[*].q", MISSING),
        ("$.deep[*].in[*].z", [1, 2, 3]),
        ("$.rows[0].*", [1]),
        ("$.a[*]", [[10, {"d": None}], 1, 2, 3]),
    ],
)
def test_a_path_finds_its_place_or_nothing(path: str, found: Any) -> None:
    assert compile_path(path).find(DOCUMENT) == found


@pytest.mark.parametrize(
    "path", ["", "a", "$a", "$..a", "$.a[1:2]", "$.a[?(@.b)]", "$.a[", "$.", "$.a b['", "$" + ".a" * 33]
)
def test_anything_outside_the_subset_is_refused(path: str) -> None:
    with pytest.raises(InvalidError):
        compile_path(path)


@pytest.mark.parametrize(
    ("path", "body", "key"),
    [
        ("$.user_id", b'{"x":[1,{"user_id":"no"}],"user_id":"u-1"}', "u-1"),
        ("$.user_id", b'{"user_id":7}', "7"),
        ("$.user_id", b'{"user_id":7.0}', "7"),
        ("$.user_id", b'{"user_id":7.5}', "7.5"),
        ("$.user_id", b'{"user_id":true}', "true"),
        ("$.user_id", b'{"user_id":340282366920938463463374607431768211456}', str(2**128)),
        ("$.user_id", b'{"user_id":null}', None),
        ("$.user_id", b'{"user_id":""}', None),
        ("$.user_id", b'{"user_id":["a"]}', None),
        ("$.user_id", b'{"user_id":NaN}', None),
        ("$.user_id", b'{"user_id":1e999}', None),
        ("$.user_id", b'{"user_id":' + b"9" * 5000 + b"}", None),
        ("$.user_id", b'{"user_id":"first","user_id":"last"}', "last"),
        ("$.user_id", b'{"features":[NaN,Infinity,1e999],"user_id":"u"}', "u"),
        ("$.user_id", b'{"features":[NaN],"user_id":340282366920938463463374607431768211456}', str(2**128)),
        ("$.user_id", b'\xef\xbb\xbf{"user_id":"u"}', "u"),
        ("$.user_id", b'{"text":"\xff","user_id":"u"}', "u"),
        ("$.user_id", '{"user_id":"u"}'.encode("utf-16"), "u"),
        ("$.user_id", b'{"text":"\\ud800","user_id":"u"}', "u"),
        ("$.user_id", b'{"user_id":"u"', None),
        ("$.user_id", b"", None),
        ("$.user_id", b"[1]", None),
        ("$.user_id", b"\x1f\x8b\x08 compressed", None),
        ("$.user_id", b'{"user_id":' + b"[" * 100_000, None),
        ("$.user_id", b'{"a":' * 100_000, None),
        ("$.context.user.id", b'{"context":{"user":{"id":"u","n":1}}}', "u"),
        ("$.context.user.id", b'{"context":{"user":"u"}}', None),
        ("$.context.user.id", b'{"context":null}', None),
        ("$['us\"er']", b'{"us\\"er":"u"}', "u"),
        ("$.users[0]", b'{"users":["a","b"]}', "a"),
        ("$[0].id", b'[{"id":3}]', "3"),
    ],
)
def test_a_routing_key_is_read_from_any_body(path: str, body: bytes, key: str | None) -> None:
    assert compile_key_path(path)(body) == key


def test_a_worker_does_not_search_large_odd_bodies() -> None:
    filler = b'{"a":[' + b"0," * 600_000 + b'%s],"user_id":7}'
    for path in ("$.user_id", "$['user_id']"):
        read = compile_key_path(path)
        assert read(filler % b"0") == "7"
        assert read(filler % b"NaN") is None


def test_a_routing_key_is_one_value() -> None:
    with pytest.raises(InvalidError, match="wildcard"):
        compile_key_path("$.users[*]")


def test_the_quick_way_and_the_tolerant_way_give_the_same_key() -> None:
    """A body with NaN is parsed another way; its user must not change buckets for that."""
    read = compile_key_path("$.u")
    for value in ("x", "ü\u2028", 0, -5, 2**63, 2**64, 10**40, 1.5, 1e22, -0.0, True, False):
        plain = json.dumps({"u": value}).encode()
        assert read(plain) == read(plain[:-1] + b',"n":NaN}')
