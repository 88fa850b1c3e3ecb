"""Provisional figures by the delay curve: right where the labels that have come mislead, with intervals
that hold.
"""

from __future__ import annotations

import json
from math import sqrt
from typing import TypeAlias

import numpy as np
import pytest
from numpy.typing import NDArray

from app.domain.performance.delay import DelayCurve, inverse_weights, provisional
from app.domain.performance.figure import Figure

Floats: TypeAlias = NDArray[np.float64]

DAY = 86_400.0
HORIZON = 30 * DAY


def _world(seed: int, n: int) -> tuple[Floats, Floats, Floats]:
    """2 % positives whose labels come after Exp(5 days); negatives are sure at 30 days; precision .597."""
    chance = np.random.default_rng(seed)
    truth = (chance.random(n) < 0.02).astype(np.float64)
    said = np.where(truth == 1, chance.random(n) < 0.8, chance.random(n) < 0.011).astype(np.float64)
    delay = np.where(truth == 1, np.minimum(chance.exponential(5 * DAY, n), HORIZON), HORIZON)
    return truth, said, delay


def _curve(seed: int, n: int) -> DelayCurve:
    truth, _, delay = _world(seed, n)
    made = DelayCurve(HORIZON)
    made.add("1", delay[truth == 1])
    made.add("0", delay[truth == 0])
    return made


def _seen(truth: Floats, delay: Floats, age: Floats) -> Floats:
    return np.where(delay <= age, truth, np.nan)


def _by_name(figures: tuple[Figure, ...]) -> dict[str, Figure]:
    return {f.name: f for f in figures}


def test_the_curve_is_the_share_of_labels_that_have_come() -> None:
    made = _curve(1, 200_000)
    ages = np.array([1.0, 3.0, 7.0, 14.0, 29.0]) * DAY
    expected = 1 - np.exp(-ages / (5 * DAY))
    m = made.labels("1")
    assert made.fraction("1", ages) == pytest.approx(expected, abs=4.5 * 0.5 / sqrt(m) + 0.01)
    assert made.fraction("0", ages).max() == 0.0
    assert made.fraction("1", np.array([HORIZON]))[0] == 1.0
    assert DelayCurve(HORIZON).fraction("1", ages).tolist() == [0.0] * 5


def test_labels_known_at_seven_days_read_a_precision_of_one_and_weighting_finds_the_truth() -> None:
    truth, said, delay = _world(2, 300_000)
    age = np.full(len(truth), 7 * DAY)
    labels = _seen(truth, delay, age)
    known = ~np.isnan(labels)
    assert truth[known & (said == 1)].mean() == 1.0
    made = _by_name(provisional(_curve(3, 300_000), said, age, labels))["precision"]
    true_precision = 0.02 * 0.8 / (0.02 * 0.8 + 0.98 * 0.011)
    assert made.value is not None
    assert made.low is not None
    assert made.high is not None
    assert made.low <= true_precision <= made.high
    assert made.value == pytest.approx(true_precision, abs=0.03)


def test_the_intervals_hold_the_true_figures_as_often_as_they_claim() -> None:
    runs, n = 100, 20_000
    precision = 0.02 * 0.8 / (0.02 * 0.8 + 0.98 * 0.011)
    known = {"precision": precision, "recall": 0.8, "f1": 2 * precision * 0.8 / (precision + 0.8)}
    hits = dict.fromkeys(known, 0)
    for seed in range(runs):
        truth, said, delay = _world(seed, n)
        age = np.random.default_rng(seed).uniform(2 * DAY, 15 * DAY, n)
        made = _by_name(provisional(_curve(50_000 + seed, n), said, age, _seen(truth, delay, age)))
        for name, value in known.items():
            low, high = made[name].low, made[name].high
            hits[name] += low is not None and high is not None and low <= value <= high
    for name, k in hits.items():
        assert k / runs >= 0.94 - 4 * sqrt(0.95 * 0.05 / runs), (name, k / runs)


def test_labels_that_never_come_are_allowed_for_by_coverage() -> None:
    truth, said, delay = _world(5, 300_000)
    chance = np.random.default_rng(6)
    delay = np.where(chance.random(len(delay)) < 0.7, delay, np.inf)
    mature = DelayCurve(HORIZON)
    mature.add("1", delay[truth == 1])
    age = np.full(len(truth), 10 * DAY)
    made = _by_name(provisional(mature, said, age, _seen(truth, delay, age), coverage=0.7))["precision"]
    assert made.value == pytest.approx(0.02 * 0.8 / (0.02 * 0.8 + 0.98 * 0.011), abs=0.03)


def test_the_quicker_class_is_the_one_that_is_read() -> None:
    chance = np.random.default_rng(8)
    n = 40_000
    truth = (chance.random(n) < 0.3).astype(np.float64)
    said = np.where(chance.random(n) < 0.9, truth, 1 - truth)
    delay = np.where(truth == 1, chance.exponential(20 * DAY, n), chance.exponential(1 * DAY, n))
    curve = DelayCurve(HORIZON)
    curve.add("1", delay[truth == 1])
    curve.add("0", delay[truth == 0])
    age = np.full(n, 3 * DAY)
    made = _by_name(provisional(curve, said, age, _seen(truth, delay, age)))
    assert made["accuracy"].value == pytest.approx(0.9, abs=0.02)


def test_too_few_labels_withhold_with_the_reason() -> None:
    truth, said, delay = _world(9, 500)
    age = np.full(500, 1 * DAY)
    for figure in provisional(_curve(10, 20_000), said, age, _seen(truth, delay, age)):
        assert figure.value is None
        assert "30 are needed" in figure.reason
    for figure in provisional(DelayCurve(HORIZON), said, age, truth):
        assert figure.value is None


def test_labels_of_other_tasks_are_weighted_by_the_common_curve() -> None:
    made = DelayCurve(HORIZON)
    made.add("all", np.random.default_rng(3).exponential(5 * DAY, 50_000))
    weights = inverse_weights(made, np.array([60.0, 5 * DAY, HORIZON]))
    assert weights[0] == 0.0
    assert weights[1] == pytest.approx(1 / (1 - np.exp(-1)), rel=0.03)
    assert weights[2] == pytest.approx(1 / (1 - np.exp(-6)), rel=0.001)  # some come only later
    assert made.labels("1") == 0


def test_curves_add_up_and_survive_being_saved() -> None:
    whole, back = _curve(1, 5_000), DelayCurve.from_state(json.loads(json.dumps(_curve(1, 5_000).state())))
    back.merge(_curve(2, 5_000))
    whole.merge(_curve(2, 5_000))
    assert back.state() == whole.state()
    with pytest.raises(ValueError, match="horizons differ"):
        whole.merge(DelayCurve(DAY))
    with pytest.raises(ValueError, match="horizon_s"):
        DelayCurve(0.5)
    with pytest.raises(ValueError, match="elements"):
        DelayCurve.from_state(dict(whole.state()) | {"1": [1.0]})
