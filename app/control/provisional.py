"""What can be said of young predictions before their labels are mature: by the delay curve of labels, and
by calibrated confidence.

Stands apart from measured figures and is never mixed with them. Binary tasks only; pure, and slow enough
for a thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

import numpy as np

from app.domain.model import Model
from app.domain.outcome import as_binary
from app.domain.performance.calibrated import METRICS, Scorecard, calibrate, expected
from app.domain.performance.delay import DelayCurve, provisional
from app.domain.performance.figure import Figure, withheld
from app.domain.performance.row import Labelled, binary_answer
from app.domain.performance.scores import ScoreCells
from app.domain.performance.tally import for_task

# of the mature rows: the first is learned from, each later one is estimated from those before it and then
# checked
COHORTS = 6

Rows = Sequence[Mapping[str, Any]]


def estimates(
    model: Model, mature: Rows, young: Rows, coverage: float | None, now: datetime
) -> dict[str, Any]:
    """Figures by either method, or why they are withheld. `mature` rows are labelled, newest first; of
    `young` ones some are.
    """
    if model.task != "binary":
        return {"rows": len(young), "reason": f"not estimated for task {model.task!r}"}
    return {
        "rows": len(young),
        "labelled": sum(row["ground_truth"] is not None for row in young),
        "by_delay": _named(_by_delay(model, mature, young, coverage, now)),
        "by_confidence": _named(_by_confidence(mature, young)),
    }


def _named(figures: Iterable[Figure]) -> dict[str, Any]:
    return {one.name: asdict(one) for one in figures}


def _by_delay(
    model: Model, mature: Rows, young: Rows, coverage: float | None, now: datetime
) -> Iterable[Figure]:
    if model.labels.horizon_s <= 1.0:
        return [
            withheld(name, "labels are mature at once", 0.0)
            for name in ("accuracy", "precision", "recall", "f1")
        ]
    curve = DelayCurve(model.labels.horizon_s)
    for label in (0, 1):
        delays = [
            (row["ground_truth_timestamp"] - row["timestamp"]).total_seconds()
            for row in mature
            if as_binary(row["ground_truth"]) == label
        ]
        curve.add(str(label), delays)
    said, ages, labels = [], [], []
    for row in young:
        answer = binary_answer(row["prediction"], row["confidence"])
        if answer is not None:
            known = None if row["ground_truth"] is None else as_binary(row["ground_truth"])
            said.append(float(answer[0]))
            ages.append((now - row["timestamp"]).total_seconds())
            labels.append(np.nan if known is None else float(known))
    return provisional(
        curve, np.array(said), np.array(ages), np.array(labels), 1.0 if coverage is None else coverage
    )


def _by_confidence(mature: Rows, young: Rows) -> Iterable[Figure]:
    """Expected figures of the young rows, as far as such estimates held for mature cohorts."""
    card = Scorecard()
    rows = list(reversed(mature))
    size = len(rows) // COHORTS
    learned = _truths(rows[:size])
    for place in range(1, COHORTS) if size else ():
        cohort = rows[place * size : (place + 1) * size]
        calibration = calibrate(learned)
        tally = for_task("binary")
        if calibration is not None and tally is not None:
            tally.add(Labelled(row["prediction"], row["confidence"], row["ground_truth"]) for row in cohort)
            card.settle(expected(calibration, _answers(cohort)), tally.figures())
        learned.merge(_truths(cohort))
    learned.merge(_truths(rows[COHORTS * size :]))
    calibration = calibrate(learned)
    if calibration is None:
        return [withheld(name, "no labelled rows with a probability", 0.0) for name in METRICS]
    return card.pass_on(expected(calibration, _answers(young)))


def _truths(rows: Rows) -> ScoreCells:
    """Labels by the probability of the positive class."""
    return _cells((row, as_binary(row["ground_truth"])) for row in rows)


def _answers(rows: Rows) -> ScoreCells:
    """Predicted classes by the probability of the positive class."""
    return _cells(
        (row, answer[0] if (answer := binary_answer(row["prediction"], row["confidence"])) else None)
        for row in rows
    )


def _cells(rows: Iterable[tuple[Mapping[str, Any], int | None]]) -> ScoreCells:
    scores, positive = [], []
    for row, label in rows:
        answer = binary_answer(row["prediction"], row["confidence"])
        if label is not None and answer is not None and answer[1] is not None:
            scores.append(answer[1])
            positive.append(float(label))
    cells = ScoreCells()
    cells.add(np.array(scores), np.array(positive), np.ones(len(scores)))
    return cells
