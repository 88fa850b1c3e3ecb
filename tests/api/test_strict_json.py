"""Our own endpoints' JSON: a doubled key is refused however it is spelled, and nothing else is refused for it."""

from __future__ import annotations

import json
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api import strict_json
from app.errors import InvalidError

KEYS = st.sampled_from(["a", "b", "a:", ":", "", "é", 'q"', "back\\slash"])
VALUES = st.one_of(st.integers(-9, 9), st.booleans(), st.none(), st.text(':,"\\{}ab', max_size=6))


@given(
    st.lists(st.tuples(KEYS, VALUES), max_size=6), st.booleans(), st.sampled_from([":", " :", ": ", "\t:\n"])
)
def test_an_object_is_taken_exactly_if_no_key_stands_there_twice(
    members: list[tuple[str, object]], ascii_only: bool, colon: str
) -> None:
    text = ",".join(
        json.dumps(key, ensure_ascii=ascii_only) + colon + json.dumps(value, ensure_ascii=ascii_only)
        for key, value in members
    )
    data = ("{" + text + "}").encode()
    if len({key for key, _ in members}) == len(members):
        assert strict_json.parse(data) == dict(members)
    else:
        with pytest.raises(InvalidError, match="twice"):
            strict_json.parse(data)


@pytest.mark.parametrize(("first", "second"), list(product(["a", "\\u0061"], repeat=2)))
def test_a_key_doubled_by_an_escape_is_refused(first: str, second: str) -> None:
    with pytest.raises(InvalidError, match="twice"):
        strict_json.parse(f'{{"{first}": 1, "{second}": "\\u003a"}}'.encode())
