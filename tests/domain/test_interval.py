"""Intervals: published values, and that they hold the truth as often as they claim."""

from __future__ import annotations

from math import exp, log, sqrt
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.interval import logit, normal, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Wilson (1927) 95 %, as tabled by Newcombe, Statistics in Medicine 17 (1998), table I
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_wilson_interval_matches_published_values(
    successes: int, n: int, low: float, high: float
) -> None:
    assert list(wilson(successes, n)) == pytest.approx([low, high], abs=5e-5)


@given(st.integers(0, 500), st.integers(0, 500))
def test_a_wilson_interval_holds_its_share_and_stays_a_share(a: int, b: int) -> None:
    successes, n = sorted((a, b))
    low, high = wilson(successes, n)
    assert 0.0 <= low <= high <= 1.0
    if n:
        assert low - 1e-12 <= successes / n <= high + 1e-12


def test_a_wilson_interval_covers_the_truth_as_often_as_it_claims() -> None:
    chance, runs, n, p = Random(11), 2_000, 120, 0.03
    covered = 0
    for _ in range(runs):
        low, high = wilson(sum(chance.random() < p for _ in range(n)), n)
        covered += low <= p <= high
    assert covered / runs > 0.95 - 4 * sqrt(0.95 * 0.05 / runs)


def test_a_normal_interval_is_two_standard_errors_wide_each_way() -> None:
    assert list(normal(10.0, 4.0)) == pytest.approx([10 - 3.92, 10 + 3.92], abs=1e-3)
    assert normal(10.0, -1e-18) == (10.0, 10.0)


@given(st.floats(1e-6, 1 - 1e-6), st.floats(0, 10))
def test_a_logit_interval_never_leaves_the_unit_interval(value: float, variance: float) -> None:
    low, high = logit(value, variance)
    assert 0.0 <= low <= value + 1e-9
    assert value - 1e-9 <= high <= 1.0


def test_a_logit_interval_is_symmetric_in_the_log_odds() -> None:
    low, high = logit(0.9, 0.01**2)
    half = 1.959963984540054 * 0.01 / 0.09
    assert low == pytest.approx(1 / (1 + exp(-(log(9) - half))))
    assert high == pytest.approx(1 / (1 + exp(-(log(9) + half))))
