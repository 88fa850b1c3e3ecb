"""Bets on outcomes and on shadow answers: fair to a candidate that is no worse."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.evidence.labels import LossLadder, brier, f1_growth, log_loss, misordered
from app.domain.evidence.shadow import (
    Severity,
    ShadowPair,
    direction_growth,
    failure_growth,
    severity_growth,
    severity_stakes,
    shift_growth,
)


def test_losses_are_what_they_are_called() -> None:
    assert brier(0.7, True) == pytest.approx(0.09)
    assert log_loss(0.25, False) == pytest.approx(-math.log(0.75))
    assert log_loss(0.0, True) == pytest.approx(-math.log(1e-6))


@given(st.floats(0.05, 0.95), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_f1_bets_have_mean_at_most_one_while_the_goal_is_met(goal: float, hits: float, part: float) -> None:
    """Shares of true positives and of the two faults, such that F1 = 2·TP / (2·TP + FP + FN) is at the goal or above."""
    wrong = min(part, 1.0) * 2.0 * hits * (1.0 - goal) / goal  # at the goal when part is 1
    total = hits + wrong
    if total > 1.0:
        hits, wrong = hits / total, wrong / total
    mean = (
        hits * np.exp(f1_growth(1, 0, 0, goal))
        + wrong * np.exp(f1_growth(0, 1, 0, goal))
        + 1.0
        - hits
        - wrong
    )
    assert np.all(mean <= 1.0 + 1e-9)


def test_a_bad_f1_is_found() -> None:
    assert f1_growth(50, 100, 100, 0.8).max() > 9.21
    assert f1_growth(500, 10, 10, 0.8).max() < 0.0


def test_auc_is_bet_on_by_disjoint_pairs() -> None:
    assert misordered([0.9, 0.4, 0.5], [0.1, 0.6]) == (2, 1)
    assert misordered([0.5], [0.5]) == (1, 1)


def test_a_loss_ladder_is_made_from_enough_losses_and_finds_larger_ones() -> None:
    rng = np.random.default_rng(1)
    with pytest.raises(ValueError, match="199 losses"):
        LossLadder.of(rng.random(199))
    ladder = LossLadder.of(rng.beta(2.0, 5.0, 500))
    same = ladder.growth(rng.beta(2.0, 5.0, 200), rng.beta(2.0, 5.0, 800))
    larger = ladder.growth(rng.beta(5.0, 2.0, 200), rng.beta(2.0, 5.0, 800))
    assert same.max() < 4.0
    assert larger.max() > 9.21


def test_losses_that_are_all_alike_make_a_ladder_too() -> None:
    ladder = LossLadder.of(np.zeros(300))
    assert np.all(np.isfinite(ladder.growth([0.0, 1.0], [0.0, 0.0, 0.0])))


def test_severity_bets_have_mean_at_most_one_up_to_the_accepted_part() -> None:
    severity = Severity.of(0.05)
    hit, miss = (np.exp(severity_growth([d], severity)) for d in (0.9, 0.0))
    assert np.allclose(0.005 * hit + 0.995 * miss, 1.0, atol=1e-12)
    assert len(severity_stakes(severity)) == len(hit)


def test_an_answer_that_cannot_be_compared_is_no_evidence() -> None:
    assert np.all(severity_growth([math.nan], Severity.of(0.05)) == 0.0)
    assert np.all(shift_growth([math.nan]) == 0.0)


@given(st.lists(st.floats(-2.0, 2.0), max_size=20))
def test_a_shift_is_bet_on_both_ways_and_neither_wins_by_symmetry(differences: list[float]) -> None:
    up_first = np.exp(shift_growth(differences))
    down_first = np.exp(shift_growth([-d for d in differences]))
    half = len(up_first) // 2
    assert np.allclose(up_first[:half], down_first[half:])


def test_failures_and_directions_count_only_where_the_two_differ() -> None:
    both_fail = [ShadowPair(True, True)] * 50
    assert np.all(failure_growth(both_fail) == 0.0)
    assert failure_growth([ShadowPair(False, True)] * 50).max() > 9.21
    up, down = direction_growth([0.2] * 50 + [0.01] * 50, 0.05)
    assert up.max() > 9.21
    assert down.max() < 0.0
