"""Provisional figures from rows: right before labels are mature, apart from each other, and self-critical."""

from __future__ import annotations

import numpy as np
import pytest

from app.domain.performance.calibrated import METRICS
from app.domain.performance.provisional import (
    MIN_COHORT,
    ProvisionalReport,
    Settled,
    Young,
    report,
    tried_on_the_past,
)

DAY = 86_400.0
HORIZON = 30 * DAY


def _rows(seed: int, n: int, drift: float = 0.0) -> list[Settled]:
    """Overconfident scores; positives are known after Exp(5 days), negatives at the horizon."""
    chance = np.random.default_rng(seed)
    x = chance.normal(-1, 1.5, n)
    truth = chance.random(n) < 1 / (1 + np.exp(-(x - drift)))
    score = 1 / (1 + np.exp(-2 * x))
    delay = np.where(truth, np.minimum(chance.exponential(5 * DAY, n), HORIZON), HORIZON)
    at = np.sort(chance.uniform(0, 100 * DAY, n))
    return [
        Settled(float(s), None, bool(t), float(a), float(d))
        for s, t, a, d in zip(score, truth, at, delay, strict=True)
    ]


def _young(rows: list[Settled], age_s: float) -> list[Young]:
    return [
        Young(r.prediction, r.confidence, age_s, r.ground_truth if r.delay_s <= age_s else None) for r in rows
    ]


def _truth(rows: list[Settled]) -> dict[str, float]:
    said = np.array([isinstance(r.prediction, float) and r.prediction >= 0.5 for r in rows])
    truth = np.array([bool(r.ground_truth) for r in rows])
    precision, recall = truth[said].mean(), said[truth].mean()
    return {
        "accuracy": (said == truth).mean(),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall),
    }


def _value(made: ProvisionalReport, kind: str, name: str) -> float | None:
    figures = made.by_delay if kind == "delay" else made.by_confidence
    (found,) = (f.value for f in figures if f.name == name)
    return found


def test_both_estimates_find_the_truth_a_week_in() -> None:
    past, now = _rows(1, 6_000), _rows(2, 6_000)
    made = report(past, _young(now, 7 * DAY), HORIZON)
    assert (made.rows, made.labels) == (6_000, sum(r.delay_s <= 7 * DAY for r in now))
    for name, value in _truth(now).items():
        for kind in ("delay", "confidence"):
            assert _value(made, kind, name) == pytest.approx(value, abs=0.05), (kind, name)
    assert {s.status for s in made.standing.values()} == {"standing"}


def test_after_the_concept_drifts_the_labels_that_have_come_are_still_read_right() -> None:
    past, now = _rows(3, 6_000), _rows(4, 6_000, drift=1.0)
    made = report(past, _young(now, 7 * DAY), HORIZON)
    assert _value(made, "delay", "precision") == pytest.approx(_truth(now)["precision"], abs=0.05)
    blind = _value(made, "confidence", "precision")
    assert blind is not None
    assert blind > _truth(now)["precision"] + 0.1  # nothing that it reads has changed


def test_once_drifted_cohorts_are_mature_the_estimate_by_confidence_withdraws() -> None:
    steady = _rows(5, 3_000)
    drifted = [
        Settled(r.prediction, r.confidence, r.ground_truth, r.predicted_at + 100 * DAY, r.delay_s)
        for r in _rows(6, 3_000, drift=2.0)
    ]
    made = report(steady + drifted, _young(_rows(7, 500), 7 * DAY), HORIZON)
    assert made.standing["precision"].status == "withdrawn"
    assert _value(made, "confidence", "precision") is None


def test_too_little_past_gives_no_estimate_but_a_reason() -> None:
    assert tried_on_the_past(_rows(8, 2 * MIN_COHORT - 1)).standing("f1").settled == 0
    made = report([], _young(_rows(9, 50), DAY), HORIZON)
    assert all(f.value is None and f.reason for f in (*made.by_delay, *made.by_confidence))
    assert {s.status for s in made.standing.values()} == {"unproven"}
    assert {f.name for f in made.by_confidence} == set(METRICS)


def test_rows_that_cannot_be_read_do_not_stop_the_rest() -> None:
    odd = [Young(None, None, DAY), Young("spam", None, DAY, "maybe"), Young(0.7, None, DAY, "maybe")]
    past = [*_rows(10, 1_500), Settled(0.7, None, "maybe", 0.0, DAY)]
    made = report(past, [*odd, *_young(_rows(11, 1_500), 7 * DAY)], HORIZON)
    assert made.rows == 1_503
    assert _value(made, "delay", "accuracy") is not None


def test_nothing_young_is_nothing_to_estimate() -> None:
    made = report(_rows(12, 1_500), [], HORIZON)
    assert all(f.value is None and f.reason for f in (*made.by_delay, *made.by_confidence))
