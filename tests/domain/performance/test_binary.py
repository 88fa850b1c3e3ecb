"""Binary figures: scikit-learn's values, from any shards, with intervals that hold the truth as often as
they claim.
"""

from __future__ import annotations

import json
from itertools import pairwise
from math import sqrt
from typing import TypeAlias

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics

from app.domain.performance.binary import BinaryTally
from app.domain.performance.figure import Figure
from app.domain.performance.row import Labelled, binary_answer

Floats: TypeAlias = NDArray[np.float64]

BATCH = st.lists(
    st.tuples(
        st.sampled_from([0.0, 1.0]), st.floats(0.001, 0.999).map(lambda p: round(p, 3)), st.floats(0.2, 5)
    ),
    min_size=1,
    max_size=60,
)


def _world(seed: int, n: int, base: float = -1.0) -> tuple[Floats, Floats]:
    """Labels and calibrated probabilities of a noisy model."""
    chance = np.random.default_rng(seed)
    p = 1 / (1 + np.exp(-chance.normal(base, 1.5, n)))
    return (chance.random(n) < p).astype(np.float64), p


def _tally(truth: Floats, p: Floats, weights: Floats | None = None) -> BinaryTally:
    made = BinaryTally()
    made.add_arrays(truth, (p >= 0.5).astype(np.float64), p, np.ones(len(p)) if weights is None else weights)
    return made


def _by_name(tally: BinaryTally, minimum: int = 0) -> dict[str, Figure]:
    return {f.name: f for f in tally.figures(minimum)}


def _ece(truth: Floats, p: Floats, weights: Floats) -> float:
    bins = np.minimum((p * 10).astype(int), 9)
    parts = ((truth[bins == b], p[bins == b], weights[bins == b]) for b in range(10) if (bins == b).any())
    return float(sum(abs(np.sum(w * y) - np.sum(w * q)) for y, q, w in parts) / weights.sum())


def _sklearn(truth: Floats, p: Floats, w: Floats) -> dict[str, float | None]:
    said = p >= 0.5
    both = 0 < truth.sum() < len(truth)
    return {
        "accuracy": metrics.accuracy_score(truth, said, sample_weight=w),
        "precision": metrics.precision_score(truth, said, sample_weight=w) if said.any() else None,
        "recall": metrics.recall_score(truth, said, sample_weight=w) if truth.any() else None,
        "f1": metrics.f1_score(truth, said, sample_weight=w) if said.any() or truth.any() else None,
        "roc_auc": metrics.roc_auc_score(truth, p, sample_weight=w) if both else None,
        "log_loss": metrics.log_loss(truth, p, labels=[0, 1], sample_weight=w),
        "brier": metrics.brier_score_loss(truth, p, sample_weight=w, pos_label=1) if both else None,
        "ece": _ece(truth, p, w),
    }


@settings(max_examples=120)
@given(BATCH)
def test_every_figure_equals_scikit_learns_also_with_weights(batch: list[tuple[float, float, float]]) -> None:
    truth, p, w = np.array(batch).T
    made = _by_name(_tally(truth, p, w))
    for name, expected in _sklearn(truth, p, w).items():
        if expected is not None:
            assert made[name].value == pytest.approx(expected, rel=1e-9, abs=1e-12), name
        elif name != "brier":
            assert made[name].value is None
            assert made[name].reason


@settings(max_examples=60)
@given(BATCH, BATCH)
def test_shards_add_up_and_survive_being_saved(
    a: list[tuple[float, float, float]], b: list[tuple[float, float, float]]
) -> None:
    one, two = np.array(a).T, np.array(b).T
    merged = BinaryTally.from_state(json.loads(json.dumps(_tally(*one).state())))
    merged.merge(_tally(*two))
    whole = _tally(*np.concatenate((one, two), axis=1))
    for f, g in zip(merged.figures(), whole.figures(), strict=True):
        assert (f.name, f.reason, f.method) == (g.name, g.reason, g.method)
        for x, y in ((f.value, g.value), (f.low, g.low), (f.high, g.high), (f.n, g.n)):
            assert x == (None if y is None else pytest.approx(y, rel=1e-6, abs=1e-9))


def test_beyond_the_exact_scores_the_auc_stays_within_its_stated_resolution() -> None:
    truth, p = _world(1, 30_000)
    p[:50], p[50:100] = 0.0, 1.0
    made = _tally(truth, p)
    assert made.scores.on_grid
    assert len(made.scores.scores) < 4_010
    auc = made.scores.auc()
    assert auc is not None
    assert abs(auc.value - metrics.roc_auc_score(truth, p)) <= auc.resolution
    assert auc.resolution < 0.002


def test_the_state_does_not_grow_with_the_history() -> None:
    made, sizes = BinaryTally(), []
    for seed in range(6):
        truth, p = _world(seed, 5_000)
        made.add_arrays(truth, (p >= 0.5).astype(float), p, np.ones(len(p)))
        sizes.append(len(made.scores.scores))
    assert max(sizes) <= 4096
    assert made.rows == 30_000


def test_on_the_grid_or_not_the_order_of_shards_does_not_matter() -> None:
    truth, p = _world(3, 6_000)
    whole = _tally(truth, p)
    for cuts in ((0, 1_000, 6_000), (0, 5_500, 6_000)):
        parts = [_tally(truth[i:j], p[i:j]) for i, j in pairwise(cuts)]
        merged = BinaryTally()
        for part in reversed(parts):
            merged.merge(part)
        assert np.array_equal(merged.scores.scores, whole.scores.scores)
        assert np.array_equal(merged.scores.cells, whole.scores.cells)


def test_the_auc_interval_is_delongs() -> None:
    truth, p = _world(4, 300)
    p = np.round(p, 2)  # with ties
    positive, negative = p[truth == 1], p[truth == 0]
    wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    value = wins.mean()
    variance = wins.mean(axis=1).var(ddof=1) / len(positive) + wins.mean(axis=0).var(ddof=1) / len(negative)
    auc = _tally(truth, p).scores.auc()
    assert auc is not None
    half = 1.959963984540054 * sqrt(variance) / (value * (1 - value))
    centre = np.log(value / (1 - value))
    assert [auc.value, auc.low, auc.high] == pytest.approx(
        [value, 1 / (1 + np.exp(half - centre)), 1 / (1 + np.exp(-half - centre))]
    )


def test_perfect_separation_is_not_taken_for_certainty() -> None:
    auc = _tally(np.array([0.0] * 10 + [1.0] * 10), np.linspace(0.01, 0.99, 20)).scores.auc()
    assert auc is not None
    assert auc.value == 1.0
    assert auc.low < 0.8


def _coverage(runs: int, n: int, truth_values: dict[str, float]) -> dict[str, float]:
    hits = dict.fromkeys(truth_values, 0)
    for seed in range(runs):
        made = _by_name(_tally(*_world(seed, n)))
        for name, value in truth_values.items():
            low, high = made[name].low, made[name].high
            hits[name] += low is not None and high is not None and low <= value <= high
    return {name: k / runs for name, k in hits.items()}


def test_the_intervals_hold_the_true_figures_as_often_as_they_claim() -> None:
    names = ("accuracy", "precision", "recall", "f1", "roc_auc", "log_loss", "brier")
    large = _by_name(_tally(*_world(10**6, 400_000)))
    known = {name: value for name in names if (value := large[name].value) is not None}
    runs = 500
    # 95 % claimed; asymptotic at n = 300, so one point of slack besides four standard errors
    floor = 0.94 - 4 * sqrt(0.95 * 0.05 / runs)
    for name, covered in _coverage(runs, 300, known).items():
        assert covered >= floor, (name, covered)


def test_weighting_by_propensity_covers_the_truth_with_ninety_percent_low_confidence_labels() -> None:
    runs, n, covered, plain = 150, 20_000, 0, 0
    for seed in range(runs):
        truth, p = _world(seed, n)
        chance = np.random.default_rng(10_000 + seed)
        doubt = np.minimum(p, 1 - p)
        low_confidence = doubt > np.quantile(doubt, 0.8)
        # 540 labels among the least confident fifth, 60 spread over the rest
        propensity = np.where(low_confidence, 540 / low_confidence.sum(), 60 / (~low_confidence).sum())
        picked = chance.random(n) < propensity
        accuracy = ((p >= 0.5) == truth).mean()
        weighted = _by_name(_tally(truth[picked], p[picked], 1 / propensity[picked]))["accuracy"]
        assert weighted.low is not None
        assert weighted.high is not None
        covered += weighted.low <= accuracy <= weighted.high
        naive = _by_name(_tally(truth[picked], p[picked]))["accuracy"]
        assert naive.high is not None
        plain += naive.high >= accuracy
    assert covered / runs >= 0.94 - 4 * sqrt(0.95 * 0.05 / runs)
    assert plain == 0


def test_calibration_error_stands_beside_what_chance_alone_would_give() -> None:
    truth, p = _world(5, 3_000)
    good, bad = _by_name(_tally(truth, p)), _by_name(_tally(truth, np.clip(p * 1.3, 0, 1)))
    assert good["ece"].value is not None
    assert good["ece_noise"].value is not None
    assert bad["ece"].low is not None
    assert good["ece"].value < 2.5 * good["ece_noise"].value
    assert bad["ece"].low > 2.5 * good["ece_noise"].value


@pytest.mark.parametrize(
    ("prediction", "confidence", "answer"),
    [
        (0.7, None, (1, 0.7)),
        (0.7, 0.4, (1, 0.7)),
        (0.5, None, (1, 0.5)),
        (0.2, None, (0, 0.2)),
        (1, 0.8, (1, 0.8)),
        (0, 0.8, (0, pytest.approx(0.2))),
        (True, None, (1, None)),
        ("false", 0.9, (0, pytest.approx(0.1))),
        (1.0, 7.0, (1, None)),
        (1.0, float("nan"), (1, None)),
        ("spam", 0.9, None),
        (3.5, None, None),
        (float("nan"), 0.5, None),
        (None, 0.5, None),
    ],
)
def test_a_prediction_is_read_as_class_or_probability(
    prediction: float | str | None, confidence: float | None, answer: tuple[int, float | None] | None
) -> None:
    assert binary_answer(prediction, confidence) == answer


def test_rows_that_cannot_be_read_are_counted_by_reason() -> None:
    made = BinaryTally()
    made.add(
        [
            Labelled(0.7, None, 1),
            Labelled(None, None, 1),
            Labelled("spam", None, 1),
            Labelled(0.7, None, "maybe"),
            Labelled(0.7, None, 0, weight=0.0),
        ]
    )
    assert made.rows == 1
    assert dict(made.unusable) == {
        "no prediction": 1,
        "prediction is no probability": 1,
        "ground truth is neither 0 nor 1": 1,
        "weight is not positive": 1,
    }


def test_classes_without_probabilities_have_no_probabilistic_figures() -> None:
    made = BinaryTally()
    made.add([Labelled(i % 2, None, i % 3 == 0) for i in range(30)])
    figures = _by_name(made)
    assert figures["accuracy"].value is not None
    for name in ("roc_auc", "log_loss", "brier", "ece"):
        assert figures[name].reason == "no probabilities are known, only classes"


def test_figures_are_withheld_below_the_minimum() -> None:
    truth, p = _world(6, 29)
    for f in _tally(truth, p).figures(minimum=30):
        assert f.value is None
        assert f.reason == "29 labelled rows, 30 are needed"
    assert all(f.value is None and f.reason for f in BinaryTally().figures())


def test_a_broken_state_is_refused_with_the_field() -> None:
    state = dict(_tally(*_world(7, 20)).state())
    for field, value in (("confusion", [1.0]), ("rows", -1), ("scores", 3), ("unusable", {"x": "y"})):
        with pytest.raises(ValueError, match=field):
            BinaryTally.from_state(state | {field: value})
