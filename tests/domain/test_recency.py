"""Recency weights: the source text's figures, and never a weight that grows with age."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.recency import weight

AGE = st.floats(-1e4, 1e5, allow_nan=False)


@pytest.mark.parametrize(("age", "expected"), [(0, 1.0), (7, 1.0), (30, 0.7), (90, 0.3)])
def test_last_week_last_month_and_last_quarter_weigh_as_stated(age: float, expected: float) -> None:
    assert weight(age) == pytest.approx(expected, abs=0.02)


@given(AGE, AGE, st.floats(0.1, 1e4), st.floats(0, 1e3))
def test_an_older_row_never_weighs_more(a: float, b: float, half_life: float, flat: float) -> None:
    young, old = sorted((a, b))
    assert 1.0 >= weight(young, half_life, flat) >= weight(old, half_life, flat) >= 0.0


@given(st.floats(0, 300), st.floats(1, 500))
def test_a_half_life_later_half_is_left(age: float, half_life: float) -> None:
    assert weight(7 + age + half_life, half_life) == pytest.approx(weight(7 + age, half_life) / 2)


def test_a_clock_ahead_of_ours_makes_a_row_fresh() -> None:
    assert weight(-3) == 1.0


def test_an_infinite_half_life_weighs_all_rows_alike() -> None:
    assert weight(10_000, float("inf")) == 1.0


@pytest.mark.parametrize(
    "arguments", [(float("nan"),), (1, 0), (1, -5), (1, float("nan")), (1, 47, -1), (1, 47, float("nan"))]
)
def test_what_has_no_meaning_is_refused(arguments: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="_days"):
        weight(*arguments)
