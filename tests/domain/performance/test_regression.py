"""Regression figures: scikit-learn's values, from any shards, with intervals that hold."""

from __future__ import annotations

import json
from math import sqrt
from typing import TypeAlias

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics

from app.domain.performance.figure import Figure, higher_is_better
from app.domain.performance.regression import RegressionTally
from app.domain.performance.row import Labelled
from app.domain.performance.tally import for_task, from_state

Floats: TypeAlias = NDArray[np.float64]

VALUE = st.floats(0.1, 1e4) | st.floats(-1e4, -0.1)
BATCH = st.lists(st.tuples(VALUE, VALUE, st.floats(0.2, 4)), min_size=3, max_size=50)


def _tally(truth: Floats, predicted: Floats, weights: Floats | None = None) -> RegressionTally:
    made = RegressionTally()
    made.add_arrays(truth, predicted, np.ones(len(truth)) if weights is None else weights)
    return made


def _by_name(tally: RegressionTally) -> dict[str, Figure]:
    return {f.name: f for f in tally.figures()}


@settings(max_examples=80)
@given(BATCH)
def test_every_figure_equals_scikit_learns_also_with_weights(batch: list[tuple[float, float, float]]) -> None:
    truth, predicted, w = np.array(batch).T
    made = _by_name(_tally(truth, predicted, w))
    squared = metrics.mean_squared_error(truth, predicted, sample_weight=w)
    assert made["mae"].value == pytest.approx(metrics.mean_absolute_error(truth, predicted, sample_weight=w))
    assert made["rmse"].value == pytest.approx(sqrt(squared))
    expected = metrics.mean_absolute_percentage_error(truth, predicted, sample_weight=w)
    assert made["mape"].value == pytest.approx(expected)
    if np.average((truth - np.average(truth, weights=w)) ** 2, weights=w) > 1e-6:
        assert made["r2"].value == pytest.approx(
            metrics.r2_score(truth, predicted, sample_weight=w), rel=1e-7
        )


@settings(max_examples=40)
@given(BATCH, BATCH)
def test_shards_add_up_and_survive_being_saved(
    a: list[tuple[float, float, float]], b: list[tuple[float, float, float]]
) -> None:
    one, two = np.array(a).T, np.array(b).T
    merged = RegressionTally.from_state(json.loads(json.dumps(_tally(*one).state())))
    merged.merge(_tally(*two))
    whole = _tally(*np.concatenate((one, two), axis=1))
    for f, g in zip(merged.figures(), whole.figures(), strict=True):
        assert f.value == (None if g.value is None else pytest.approx(g.value, rel=1e-6))
        assert f.low == (None if g.low is None else pytest.approx(g.low, rel=1e-4, abs=1e-6))


def test_a_large_offset_costs_no_precision() -> None:
    chance = np.random.default_rng(2)
    truth = 1e9 + chance.normal(0, 1, 5_000)
    predicted = truth + chance.normal(0, 0.1, 5_000)
    made = RegressionTally()
    for i in range(0, 5_000, 500):
        made.add_arrays(truth[i : i + 500], predicted[i : i + 500], np.ones(500))
    figures = _by_name(made)
    # at 1e9 a double resolves 1e-7, so the errors themselves are known to about 1e-6 of 0.1
    assert figures["r2"].value == pytest.approx(metrics.r2_score(truth, predicted), abs=1e-6)
    assert figures["rmse"].value == pytest.approx(
        sqrt(metrics.mean_squared_error(truth, predicted)), rel=1e-6
    )


def test_the_intervals_hold_the_true_figures_as_often_as_they_claim() -> None:
    def world(seed: int, n: int) -> tuple[Floats, Floats]:
        chance = np.random.default_rng(seed)
        truth = chance.normal(10, 2, n)
        return truth, truth + chance.normal(0.2, 1, n) * (1 + 0.1 * abs(truth - 10))

    large = _by_name(_tally(*world(10**6, 400_000)))
    runs, n = 500, 300
    hits = dict.fromkeys(("mae", "rmse", "mape", "r2"), 0)
    for seed in range(runs):
        made = _by_name(_tally(*world(seed, n)))
        for name in hits:
            f, known = made[name], large[name].value
            assert f.low is not None
            assert f.high is not None
            assert known is not None
            hits[name] += f.low <= known <= f.high
    for name, k in hits.items():
        assert k / runs >= 0.94 - 4 * sqrt(0.95 * 0.05 / runs), (name, k / runs)


def test_a_relative_error_of_zero_has_no_meaning() -> None:
    made = _by_name(_tally(np.array([0.0, 2.0]), np.array([0.1, 2.0])))
    assert made["mape"].reason == "1 ground truths are 0"
    assert made["mae"].value == pytest.approx(0.05)


def test_a_ground_truth_that_does_not_vary_has_no_r2() -> None:
    made = _by_name(_tally(np.full(5, 3.0), np.arange(5.0)))
    assert made["r2"].reason == "the ground truth does not vary"


def test_rows_that_cannot_be_read_are_counted_by_reason() -> None:
    made = RegressionTally()
    made.add(
        [
            Labelled(1.5, None, 2.0),
            Labelled(None, None, 2.0),
            Labelled("x", None, 2.0),
            Labelled(1.0, None, "y"),
            Labelled(float("inf"), None, 1.0),
            Labelled(1e100, None, 1.0),
            Labelled(1.0, None, True),
            Labelled(1.0, None, 10**400),
            Labelled(1.0, None, 1.0, weight=float("nan")),
        ]
    )
    assert made.rows == 1
    assert dict(made.unusable) == {
        "no prediction": 1,
        "prediction is no finite number": 2,
        "ground truth is no finite number": 3,
        "beyond 1e+60": 1,
        "weight is not positive": 1,
    }


def test_nothing_labelled_gives_nothing() -> None:
    made = RegressionTally()
    made.add([])
    assert all(f.value is None and f.reason for f in made.figures(minimum=1))


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_a_task_has_its_tally_new_or_saved(task: str) -> None:
    made = for_task(task)
    assert made is not None
    assert type(from_state(made.state())) is type(made)


def test_a_model_without_a_task_has_no_figures_and_an_unknown_task_is_refused() -> None:
    assert for_task("none") is None
    with pytest.raises(ValueError, match="clairvoyance"):
        for_task("clairvoyance")
    with pytest.raises(ValueError, match="task"):
        from_state({"task": "none"})


def test_each_metric_knows_its_direction() -> None:
    assert all(higher_is_better(m) for m in ("f1", "roc_auc", "r2", "accuracy", "f1_macro"))
    assert not any(higher_is_better(m) for m in ("rmse", "mae", "mape", "log_loss", "brier", "ece"))
