"""Bets on outcomes and on shadow answers: fair to a candidate that is no worse."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.evidence.labels import (
    Confusion,
    LossLadder,
    LossScale,
    brier,
    f1_growth,
    log_loss,
    misordered,
)
from app.domain.evidence.shadow import (
    OwnNoise,
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
        hits * np.exp(f1_growth(Confusion(1), goal))
        + wrong * np.exp(f1_growth(Confusion(0, 1), goal))
        + 1.0
        - hits
        - wrong
    )
    assert np.all(mean <= 1.0 + 1e-9)


def test_a_bad_f1_is_found() -> None:
    assert f1_growth(Confusion(50, 100, 100), 0.8).max() > 9.21
    assert f1_growth(Confusion(500, 10, 10), 0.8).max() < 0.0


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


@given(st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 1.0)), min_size=1, max_size=20))
def test_paired_losses_win_nothing_when_either_version_could_have_had_either_loss(
    losses: list[tuple[float, float]],
) -> None:
    scale = LossScale(1.0)
    for one in losses:
        this, other = (np.exp(np.asarray(scale.growth([pair]))) for pair in (one, one[::-1]))
        assert np.all(0.5 * (this + other) <= 1.0 + 1e-9)


def test_a_better_calibrated_model_is_not_blamed_for_being_less_sure() -> None:
    """Right in 95 of 100: sure of itself to .999 costs production more in the mean, though the candidate loses 95 times."""
    right = [(brier(0.95, True), brier(0.999, True))] * 95
    wrong = [(brier(0.95, False), brier(0.999, False))] * 5
    assert np.max(LossScale(1.0).growth((right + wrong) * 40)) < 0.0


def test_losses_without_an_end_are_measured_by_productions_own() -> None:
    scale = LossScale()
    worse = [(30.0, 10.0)] * 300
    assert scale.growth(worse) == 0.0
    scale.add([10.0] * 200)
    assert np.max(scale.growth(worse)) > 9.21
    again = LossScale.from_state(scale.state(), 0.0)
    assert np.array_equal(again.growth(worse), scale.growth(worse))


def test_only_what_goes_beyond_productions_own_noise_is_severe() -> None:
    rng = np.random.default_rng(4)
    severity = Severity.of(0.05)
    unknown = OwnNoise(severity)
    assert unknown.accepted(measured=True) is None
    assert unknown.accepted(measured=False) == severity
    noisy = OwnNoise(severity)
    noisy.add(np.where(rng.random(2000) < 0.1, 0.9, 0.0).tolist())
    accepted = noisy.accepted(measured=True)
    assert accepted is not None
    alike = np.where(rng.random(3000) < 0.1, 0.9, 0.0)
    worse = np.where(rng.random(3000) < 0.25, 0.9, 0.0)
    assert severity_growth(alike, severity).max() > 9.21  # what the noise alone would have done
    assert severity_growth(alike, accepted).max() < 1.0
    assert severity_growth(worse, accepted).max() > 9.21
    assert OwnNoise.from_state(noisy.state(), severity).accepted(measured=True) == accepted
    with pytest.raises(ValueError, match="noise"):
        OwnNoise.from_state({"n": 1, "beyond": []}, severity)


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
