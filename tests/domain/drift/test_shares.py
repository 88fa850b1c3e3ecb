"""Exact tests of findings, and many tests at one rate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from app.domain.drift.multiple import cutoff, harmonic
from app.domain.drift.shares import all_live, more_often

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=60)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 400), st.integers(0, 400))
def test_more_often_is_fishers_one_sided_test(live: int, reference: int, more_n: int, more_m: int) -> None:
    n, m = live + more_n, reference + more_m
    ours = more_often(live, n, reference, m)
    if n and m:
        table = [[live, n - live], [reference, m - reference]]
        assert ours == pytest.approx(stats.fisher_exact(table, alternative="greater").pvalue, rel=1e-7)
    assert 0 <= ours <= 1 + 1e-12


@given(st.integers(0, 40), st.integers(0, 300), st.integers(0, 300))
def test_all_live_is_the_hypergeometric_end(rows: int, more_n: int, m: int) -> None:
    n = rows + more_n
    assert all_live(rows, n, m) == pytest.approx(stats.hypergeom.pmf(rows, n + m, rows, n) if n + m else 1.0)


def test_more_rows_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="5 of 4"):
        all_live(5, 4, 10)


@given(P_VALUES, st.sampled_from([0.01, 0.05, 0.2]))
def test_the_cutoff_rejects_what_benjamini_and_yekutieli_reject(p_values: list[float], rate: float) -> None:
    limit = cutoff(p_values, rate)
    ours = [p <= limit for p in p_values]
    theirs = stats.false_discovery_control(p_values, method="by") <= rate
    on_the_edge = [abs(p - limit) < 1e-12 for p in p_values]
    assert all(a == b or edge for a, b, edge in zip(ours, theirs, on_the_edge, strict=True))


@given(P_VALUES, P_VALUES, st.sampled_from([0.01, 0.05, 0.2]))
def test_later_tests_of_the_day_never_take_back_an_alarm(
    first: list[float], more: list[float], rate: float
) -> None:
    planned = len(first) + len(more)
    assert cutoff(first, rate, planned) <= cutoff(first + more, rate, planned)


def test_no_tests_reject_nothing() -> None:
    assert cutoff([], 0.05) == 0.0
    assert cutoff([], 0.05, planned=10) == pytest.approx(0.05 / 10 / harmonic(10))


def test_the_harmonic_number_is_exact_to_rounding_for_many_tests() -> None:
    assert harmonic(5_000) == pytest.approx(sum(1 / i for i in range(1, 5_001)), rel=1e-8)
