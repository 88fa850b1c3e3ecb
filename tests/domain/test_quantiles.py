"""The quantile sketch: right to within its relative error, and the same whole from any shards."""

from __future__ import annotations

import json
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.quantiles import Quantiles

VALUES = st.lists(st.floats(-1e15, 1e15).filter(lambda v: v == 0 or abs(v) > 1e-10), min_size=1, max_size=80)
Q = st.floats(0, 1)


def _sketch(values: list[float]) -> Quantiles:
    made = Quantiles()
    for value in values:
        made.add(value)
    return made


@given(VALUES, Q)
def test_a_quantile_is_the_sorted_value_to_within_one_percent(values: list[float], q: float) -> None:
    exact = sorted(values)[int(q * (len(values) - 1))]
    assert _sketch(values).quantile(q) == pytest.approx(exact, rel=0.0101)


@given(VALUES, VALUES, Q)
def test_shards_add_up_to_the_whole(a: list[float], b: list[float], q: float) -> None:
    merged = _sketch(a)
    merged.merge(_sketch(b))
    assert merged.quantile(q) == _sketch(a + b).quantile(q)
    assert merged.count == len(a) + len(b)


@given(VALUES, Q)
def test_a_saved_sketch_comes_back_whole(values: list[float], q: float) -> None:
    made = _sketch(values)
    back = Quantiles.from_state(json.loads(json.dumps(made.state())))
    assert back.state() == made.state()
    assert back.quantile(q) == made.quantile(q)


def test_its_size_does_not_grow_with_the_stream() -> None:
    chance = Random(7)
    made = Quantiles()
    sizes = []
    for _ in range(4):
        for _ in range(3_000):
            made.add(chance.lognormvariate(0, 1))
        sizes.append(len(json.dumps(made.state())))
    assert sizes[-1] < 1.6 * sizes[0]


def test_infinities_and_tiny_numbers_have_a_place() -> None:
    made = _sketch([float("inf"), float("-inf"), 1e-300])
    assert made.quantile(0.5) == 0.0
    assert made.quantile(0.0) == pytest.approx(-1e18, rel=0.02)


def test_an_empty_sketch_has_no_quantile() -> None:
    assert Quantiles().quantile(0.5) is None


def test_what_cannot_be_ordered_or_merged_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        Quantiles().add(float("nan"))
    with pytest.raises(ValueError, match="between 0 and 1"):
        Quantiles().quantile(1.1)
    with pytest.raises(ValueError, match="between 0 and 1"):
        Quantiles(1.5)
    with pytest.raises(ValueError, match="differ"):
        Quantiles(0.01).merge(Quantiles(0.02))
    for state in (
        {},
        {"relative_error": "x"},
        {"relative_error": 0.01, "zeros": -1},
        {"relative_error": 0.01, "zeros": 0},
    ):
        with pytest.raises(ValueError, match="state field"):
            Quantiles.from_state(state)
