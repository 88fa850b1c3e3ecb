"""No bet can be won in the long run against a candidate that is no worse: exact sums, no simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, hypergeom, nchypergeom_fisher

from app.domain.evidence.bets import (
    ERROR_STAKES,
    EVEN_STAKES,
    IMMEDIATE_ODDS,
    ODDS,
    REFERENCE_STAKES,
    binary_growth,
    bucket_growth,
    floor_growth,
    immediate_growth,
    label_factors,
    log_sum,
    reference_weights,
)

weights = st.floats(1e-6, 1e6)
shares = st.floats(0.0, 1.0)


@given(weights, shares)
def test_what_one_arm_gains_the_other_loses_by_the_share(weight: float, share: float) -> None:
    candidate, production = label_factors(weight, share)
    assert abs(share * candidate + (1.0 - share) * production - 1.0) <= 1e-12


@given(st.integers(0, 60), st.integers(1, 60), st.data())
def test_the_error_bets_have_mean_one_over_who_drew_the_errors(n: int, m: int, data: st.DataObject) -> None:
    bad = data.draw(st.integers(0, n + m))
    x = np.arange(max(0, bad - m), min(n, bad) + 1)
    growth = binary_growth(np.full(len(x), n), x, np.full(len(x), m), bad - x)
    mean = hypergeom.pmf(x, n + m, bad, n) @ np.exp(growth)
    assert np.allclose(mean, 1.0, atol=1e-9)


@given(st.integers(1, 40), st.integers(1, 40), st.floats(1.0, 4.0), st.floats(0.05, 1.0), st.data())
def test_with_a_margin_no_odds_ratio_up_to_it_wins(
    n: int, m: int, margin: float, part: float, data: st.DataObject
) -> None:
    bad = data.draw(st.integers(1, n + m - 1))
    x = np.arange(max(0, bad - m), min(n, bad) + 1)
    growth = binary_growth(np.full(len(x), n), x, np.full(len(x), m), bad - x, margin=margin)
    for odds in (margin, part * margin):
        mean = nchypergeom_fisher.pmf(x, n + m, bad, n, odds) @ np.exp(growth)
        assert np.all(mean <= 1.0 + 1e-6)


def test_error_bets_are_never_worse_than_the_product_of_label_factors() -> None:
    rng = np.random.default_rng(1)
    n, m = rng.integers(1, 50, 200), rng.integers(1, 500, 200)
    x, y = rng.binomial(n, 0.3), rng.binomial(m, 0.2)
    log_weights = np.stack([np.zeros(len(ODDS)), np.log(ODDS)], axis=-1)
    product = bucket_growth(np.stack([n - x, x], -1), np.stack([m - y, y], -1), log_weights)
    assert np.all(binary_growth(n, x, m, y) >= product - 1e-9)


@given(st.floats(0.01, 0.99), st.floats(0.001, 0.9))
def test_bets_at_the_known_share_have_mean_one_over_the_assignment(share: float, p: float) -> None:
    """One request: canary by chance, bad by chance, whoever answers."""
    means = np.zeros(len(IMMEDIATE_ODDS))
    for is_canary, chance in ((1, share), (0, 1.0 - share)):
        means += chance * (p * np.exp(immediate_growth(is_canary, 1 - is_canary, share)) + (1.0 - p))
    assert np.allclose(means, 1.0, atol=1e-12)


def test_a_larger_margin_never_makes_a_bet_win_more() -> None:
    plain, wide = (immediate_growth([2], [3], [0.1], margin) for margin in (1.0, 2.0))
    assert np.all(wide <= plain)


@given(st.floats(0.001, 0.2), st.integers(1, 50))
def test_bets_against_the_floor_have_mean_at_most_one_up_to_it(floor: float, n: int) -> None:
    x = np.arange(n + 1)
    growth = np.exp(floor_growth(x, np.full(n + 1, n), floor))
    assert np.allclose(binom.pmf(x, n, floor) @ growth, 1.0, atol=1e-9)
    assert np.all(binom.pmf(x, n, 0.5 * floor) @ growth <= 1.0)


def test_shift_and_tail_bets_have_mean_at_most_one_when_both_arms_draw_alike() -> None:
    """Two candidates' answers and three of production's, every outcome on a small ladder."""
    cells = np.array([0.5, 0.3, 0.15, 0.05])
    log_weights, _ = reference_weights(1000.0 * cells)
    mean_c = mean_p = 0.0
    share = 0.4
    for cell, chance in enumerate(cells):
        candidate, production = label_factors(np.exp(log_weights[:, cell]), share)
        mean_c, mean_p = mean_c + chance * candidate, mean_p + chance * production
    assert np.all(2 * np.log(mean_c) + 3 * np.log(mean_p) <= 1e-12)


def test_a_batch_with_one_arm_only_says_nothing() -> None:
    assert np.allclose(binary_growth([5, 0, 0], [3, 0, 0], [0, 7, 0], [0, 2, 0]), 0.0)
    log_weights, _ = reference_weights(np.ones(4))
    assert np.allclose(bucket_growth([[1, 2, 3, 4]], [[0, 0, 0, 0]], log_weights), 0.0)
    assert np.allclose(bucket_growth([[0, 0, 0, 0]], [[1, 2, 3, 4]], log_weights), 0.0)


def test_leading_axes_are_runs_and_change_nothing() -> None:
    rng = np.random.default_rng(2)
    n, m = rng.integers(0, 20, (3, 4)), rng.integers(0, 20, (3, 4))
    x, y = rng.binomial(n, 0.5), rng.binomial(m, 0.5)
    together = binary_growth(n, x, m, y)
    for i, j in np.ndindex(3, 4):
        assert np.allclose(together[i, j], binary_growth(n[i, j], x[i, j], m[i, j], y[i, j]))


def test_a_slower_distribution_is_bet_on_more() -> None:
    log_weights, stakes = reference_weights(np.full(50, 100.0))
    assert np.all(np.diff(log_weights, axis=-1) >= 0.0)
    assert len(stakes) == len(log_weights)


@pytest.mark.parametrize("stakes", [EVEN_STAKES, ERROR_STAKES, REFERENCE_STAKES])
def test_no_more_than_the_whole_stake_is_bet(stakes: np.ndarray) -> None:
    assert abs(stakes.sum() - 1.0) <= 1e-12
    assert np.all(stakes > 0.0)


def test_the_log_of_a_sum_survives_large_and_no_terms() -> None:
    assert log_sum(np.array([1000.0, 1000.0])) == pytest.approx(1000.0 + np.log(2.0))
    assert log_sum(np.array([-np.inf, -np.inf])) == -np.inf
