"""Expected figures from calibrated confidence: right without drift of the concept, withdrawn when it
drifts.
"""

from __future__ import annotations

import json
from math import sqrt
from typing import TypeAlias

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression

from app.domain.performance.binary import BinaryTally
from app.domain.performance.calibrated import METRICS, Scorecard, calibrate, expected
from app.domain.performance.figure import Figure
from app.domain.performance.scores import ScoreCells

Floats: TypeAlias = NDArray[np.float64]


def _world(seed: int, n: int, shift: float = 0.0, drift: float = 0.0) -> tuple[Floats, Floats]:
    """Labels and badly calibrated scores. `shift` moves the inputs, `drift` what they mean."""
    chance = np.random.default_rng(seed)
    x = chance.normal(shift, 1.5, n)
    truth = chance.random(n) < 1 / (1 + np.exp(-(x - drift)))
    return truth.astype(np.float64), 1 / (1 + np.exp(-2 * x - 0.5))


def _tally(truth: Floats, scores: Floats) -> BinaryTally:
    made = BinaryTally()
    made.add_arrays(truth, (scores >= 0.5).astype(np.float64), scores, np.ones(len(scores)))
    return made


def _said(scores: Floats) -> ScoreCells:
    made = ScoreCells()
    made.add(scores, (scores >= 0.5).astype(np.float64), np.ones(len(scores)))
    return made


def _expected(mature: tuple[Floats, Floats], scores: Floats) -> dict[str, Figure]:
    calibration = calibrate(_tally(*mature).scores)
    assert calibration is not None
    return {f.name: f for f in expected(calibration, _said(scores))}


@settings(max_examples=80)
@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.sampled_from([0.0, 1.0]), st.floats(0.2, 4)), min_size=1, max_size=60
    )
)
def test_the_calibration_is_scikit_learns_isotonic_regression(rows: list[tuple[int, float, float]]) -> None:
    scores, truth, weights = np.array(rows, dtype=np.float64).T
    scores /= 30
    cells = ScoreCells()
    cells.add(scores, truth, weights)
    made = calibrate(cells)
    assert made is not None
    theirs = IsotonicRegression(out_of_bounds="clip").fit(scores, truth, sample_weight=weights)
    between = np.linspace(0, 1, 61)
    assert made.of(between) == pytest.approx(theirs.predict(between), abs=1e-9)


def test_without_rows_there_is_no_calibration() -> None:
    assert calibrate(ScoreCells()) is None


def test_after_a_shift_of_the_inputs_the_expected_figures_are_the_true_ones() -> None:
    truth, scores = _world(2, 40_000, shift=0.7)
    made = _expected(_world(1, 40_000), scores)
    measured = {f.name: f for f in _tally(truth, scores).figures()}
    before = {f.name: f for f in _tally(*_world(1, 40_000)).figures()}
    for name in METRICS:
        value, known, old = made[name].value, measured[name].value, before[name].value
        assert value is not None
        assert known is not None
        assert old is not None
        assert value == pytest.approx(known, abs=0.015), name
    assert before["precision"].value != pytest.approx(measured["precision"].value, abs=0.03)


def test_the_intervals_hold_the_measured_figures_as_often_as_they_claim() -> None:
    runs, n = 100, 800
    hits = dict.fromkeys(METRICS, 0)
    for seed in range(runs):
        truth, scores = _world(seed, n)
        made = _expected(_world(70_000 + seed, 4_000), scores)
        measured = {f.name: f.value for f in _tally(truth, scores).figures()}
        for name in METRICS:
            low, high, known = made[name].low, made[name].high, measured[name]
            assert low is not None
            assert high is not None
            assert known is not None
            hits[name] += low <= known <= high
    for name, k in hits.items():
        # isotonic fits overstate their own evenness a little: two points of slack besides chance
        assert k / runs >= 0.93 - 4 * sqrt(0.95 * 0.05 / runs), (name, k / runs)


def test_too_thin_a_calibration_or_nothing_to_expect_withholds() -> None:
    thin = calibrate(_tally(*_world(1, 40)).scores)
    assert thin is not None
    assert {f.reason for f in expected(thin, _said(_world(2, 100)[1]))} == {
        "calibrated on 40 labelled rows, 100 are needed"
    }
    good = calibrate(_tally(*_world(1, 4_000)).scores)
    assert good is not None
    assert all(f.reason == "no predictions" for f in expected(good, ScoreCells()))
    none_said = {f.name: f for f in expected(good, _said(np.full(50, 0.2)))}
    assert none_said["precision"].reason == "no positives, predicted or expected"
    assert none_said["accuracy"].value is not None


def _cohorts(card: Scorecard, seeds: range, drift: float) -> None:
    for seed in seeds:
        truth, scores = _world(seed, 3_000, drift=drift)
        card.settle(_expected(_world(1, 20_000), scores).values(), _tally(truth, scores).figures())


def test_concept_drift_withdraws_the_estimates_and_its_end_restores_them() -> None:
    card = Scorecard()
    estimates = tuple(_expected(_world(1, 20_000), _world(2, 3_000)[1]).values())
    assert card.standing("accuracy").status == "unproven"
    assert all(f.value is None for f in card.pass_on(estimates))
    _cohorts(card, range(100, 105), drift=0.0)
    assert all(card.standing(name).status == "standing" for name in METRICS)
    assert card.pass_on(estimates) == estimates
    _cohorts(card, range(200, 202), drift=1.5)
    assert card.standing("accuracy").status == "withdrawn"
    (withdrawn,) = (f for f in card.pass_on(estimates) if f.name == "accuracy")
    assert withdrawn.value is None
    assert withdrawn.reason == "estimates missed in 2 of the last 5 matured cohorts"
    _cohorts(card, range(300, 305), drift=0.0)
    assert card.standing("accuracy").status == "standing"


def test_good_estimates_are_seldom_withdrawn() -> None:
    withdrawn = 0
    for start in range(0, 60, 5):
        card = Scorecard()
        _cohorts(card, range(1_000 + start, 1_005 + start), drift=0.0)
        withdrawn += card.standing("accuracy").status == "withdrawn"
    # 95 % intervals and a tolerance: two misses of five have probability at most .023; 12 cards
    assert withdrawn <= 3  # the 99.9 % point of Binomial(12, .023)


def test_a_withheld_figure_settles_nothing_and_a_card_survives_being_saved() -> None:
    card = Scorecard()
    card.settle([Figure("f1", None, None, None, 0, "", "why")], [Figure("f1", 0.5, 0.4, 0.6, 10, "")])
    card.settle([Figure("f1", 0.9, 0.89, 0.91, 10, "")], [])
    assert card.standing("f1").settled == 0
    for _ in range(3):
        card.settle([Figure("f1", 0.9, 0.89, 0.91, 10, "")], [Figure("f1", 0.5, 0.49, 0.51, 10, "")])
    back = Scorecard.from_state(json.loads(json.dumps(card.state())))
    assert back.standing("f1") == card.standing("f1")
    assert back.standing("f1").misses == 3
