"""PSI: its stated false-alarm rate and power, beside a fixed threshold that has neither."""

from __future__ import annotations

from functools import cache
from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from app.domain.drift.psi import TOLERANCE, Floats, critical, effective_rows, exceeds, psi

COUNTS = st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=2, max_size=20)


@cache  # each serves several levels
def _samples(seed: int, runs: int, m: int, n: int, shift: float = 0.0) -> list[tuple[Floats, Floats]]:
    """Pairs of counts on the reference's deciles."""
    chance = np.random.default_rng(seed)
    pairs = []
    for _ in range(runs):
        reference, live = chance.normal(0, 1, m), chance.normal(shift, 1, n)
        edges = np.quantile(reference, np.arange(1, 10) / 10)
        pairs.append(
            (
                np.bincount(np.searchsorted(edges, reference), minlength=10).astype(np.float64),
                np.bincount(np.searchsorted(edges, live), minlength=10).astype(np.float64),
            )
        )
    return pairs


def _share(pairs: list[tuple[Floats, Floats]], level: float, tolerance: float) -> float:
    n_eff = effective_rows(pairs[0][1].sum(), pairs[0][0].sum())
    return sum(exceeds(psi(r, live), 10, n_eff, tolerance) <= level for r, live in pairs) / len(pairs)


def _standard_error(p: float, runs: int) -> float:
    return sqrt(p * (1 - p) / runs)


def test_a_fixed_threshold_of_a_tenth_fires_by_chance_at_a_hundred_rows() -> None:
    runs = 600
    fired = sum(psi(r, live) > 0.1 for r, live in _samples(1, runs, 10_000, 100)) / runs
    assert fired == pytest.approx(0.31, abs=4 * _standard_error(0.31, runs))


@pytest.mark.parametrize(("n", "m"), [(100, 10_000), (500, 500), (500, 5_000), (2_000, 1_000)])
@pytest.mark.parametrize("level", [0.05, 0.01])
def test_without_drift_it_alarms_no_more_often_than_configured(n: int, m: int, level: float) -> None:
    runs = 1_000
    pairs = _samples(n + m, runs, m, n)
    assert _share(pairs, level, TOLERANCE) <= level + 4 * _standard_error(level, runs)


@pytest.mark.parametrize(("n", "m"), [(500, 5_000), (2_000, 2_000)])
def test_without_tolerance_it_alarms_as_often_as_configured(n: int, m: int) -> None:
    runs, level = 1_000, 0.05
    # The χ² limit is approximate at these sizes: one point of slack besides four standard errors.
    assert _share(_samples(7, runs, m, n), level, 0.0) == pytest.approx(
        level, abs=0.01 + 4 * _standard_error(level, runs)
    )


def test_a_shift_within_the_tolerance_does_not_alarm_even_on_many_rows() -> None:
    runs, level = 100, 0.01
    pairs = _samples(3, runs, 50_000, 20_000, shift=0.1)  # PSI about .01
    assert _share(pairs, level, TOLERANCE) <= level + 4 * _standard_error(level, runs)
    assert _share(pairs, level, 0.0) == 1.0


def test_at_five_thousand_rows_it_finds_the_shift_that_a_fixed_threshold_misses() -> None:
    runs, n, m = 500, 5_000, 10**6
    chance = np.random.default_rng(5)
    edges = stats.norm.ppf(np.arange(1, 10) / 10)  # a reference so large that its deciles are known
    moved = np.diff(stats.norm.cdf(edges, loc=0.3), prepend=0.0, append=1.0)
    pairs = [(np.full(10, m / 10), chance.multinomial(n, moved).astype(np.float64)) for _ in range(runs)]
    missed = sum(psi(r, live) <= 0.1 for r, live in pairs) / runs
    assert missed == pytest.approx(0.92, abs=4 * _standard_error(0.92, runs))
    assert _share(pairs, 1e-6, TOLERANCE) == 1.0


def test_it_finds_that_shift_against_a_reference_of_ten_thousand_rows_too() -> None:
    assert _share(_samples(5, 200, 10_000, 5_000, shift=0.3), 1e-4, TOLERANCE) == 1.0


@given(COUNTS)
def test_it_is_not_negative_symmetric_in_the_shares_and_nil_for_equal_counts(
    counts: list[tuple[int, int]],
) -> None:
    reference, live = np.array(counts, dtype=np.float64).T
    assert psi(reference, live) >= -1e-12
    assert psi(reference, live) == pytest.approx(psi(live, reference), rel=1e-9, abs=1e-12)
    assert psi(reference, reference) == 0.0


@pytest.mark.parametrize("tolerance", [0.0, 0.02])
@pytest.mark.parametrize("n_eff", [80.0, 3_000.0, 1e6])
@pytest.mark.parametrize("p", [0.05, 1e-3, 1e-7])
def test_the_threshold_is_where_the_p_value_passes_the_level(
    p: float, n_eff: float, tolerance: float
) -> None:
    threshold = critical(p, 10, n_eff, tolerance)
    assert exceeds(threshold, 10, n_eff, tolerance) == pytest.approx(p, rel=1e-3)
    exact = stats.ncx2(9, n_eff * tolerance) if tolerance else stats.chi2(9)
    assert threshold == pytest.approx(exact.isf(p) / n_eff, rel=1e-4)


def test_one_bin_can_never_drift() -> None:
    assert exceeds(5.0, 1, 1000, 0.02) == 1.0
    assert critical(0.01, 1, 1000, 0.02) == float("inf")
    assert critical(0.01, 10, 0, 0.02) == float("inf")
    assert effective_rows(0, 0) == 0.0
