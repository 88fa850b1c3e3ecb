"""All that can be said of a binary model's young predictions, from stored rows: two estimates, apart from
each other.

`by_delay` reads the labels that have come, weighted by the delay curve; `by_confidence` reads none of
them. Before the second is given it is tried on the past: each mature cohort is estimated from those
before it and held against its labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.domain.outcome import GroundTruth, as_binary
from app.domain.performance.binary import BinaryTally
from app.domain.performance.calibrated import METRICS, Scorecard, Standing, calibrate, expected
from app.domain.performance.delay import RATIOS, SHORTEST_S, DelayCurve, provisional
from app.domain.performance.figure import Figure, withheld
from app.domain.performance.row import Answer, Labelled, binary_answer
from app.domain.performance.scores import ScoreCells

COHORTS = 6  # of mature rows, in order of time, that the estimate by confidence is tried on
MIN_COHORT = 100  # rows


@dataclass(frozen=True, slots=True)
class Settled:
    """A mature prediction with its outcome. Times in seconds; `delay_s` from the prediction to when its
    label had come here, None where that was not looked up.
    """

    prediction: Answer | None
    confidence: float | None
    ground_truth: GroundTruth
    predicted_at: float
    delay_s: float | None


@dataclass(frozen=True, slots=True)
class Young:
    """A prediction below the horizon; `ground_truth` None while unknown."""

    prediction: Answer | None
    confidence: float | None
    age_s: float
    ground_truth: GroundTruth | None = None


@dataclass(frozen=True, slots=True)
class ProvisionalReport:
    """`standing` says of each estimate by confidence how it did on past cohorts."""

    rows: int  # young predictions
    labels: int  # of them labelled so far
    by_delay: tuple[Figure, ...]
    by_confidence: tuple[Figure, ...]
    standing: dict[str, Standing]


def report(
    settled: Sequence[Settled], young: Sequence[Young], horizon_s: float, coverage: float = 1.0
) -> ProvisionalReport:
    """Both estimates; `coverage` (0..1) is the share of mature predictions that ever get a label."""
    card = tried_on_the_past(settled)
    return ProvisionalReport(
        rows=len(young),
        labels=sum(row.ground_truth is not None for row in young),
        by_delay=_by_delay(settled, young, horizon_s, coverage),
        by_confidence=card.pass_on(_by_confidence(_tally(settled).scores, young)),
        standing={name: card.standing(name) for name in METRICS},
    )


def tried_on_the_past(settled: Sequence[Settled], cohorts: int = COHORTS) -> Scorecard:
    """The estimate by confidence held against each mature cohort but the first, calibrated on those
    before it.
    """
    card = Scorecard()
    ordered = sorted(settled, key=lambda row: row.predicted_at)
    size = max(MIN_COHORT, -(-len(ordered) // cohorts))
    learned = ScoreCells()
    for start in range(0, len(ordered) - MIN_COHORT + 1, size):
        cohort = ordered[start : start + size]
        tally = _tally(cohort)
        if start:
            card.settle(_by_confidence(learned, cohort), tally.figures())
        learned.merge(tally.scores)
    return card


def _tally(rows: Sequence[Settled]) -> BinaryTally:
    made = BinaryTally()
    made.add(Labelled(row.prediction, row.confidence, row.ground_truth) for row in rows)
    return made


def _by_confidence(learned: ScoreCells, rows: Sequence[Settled] | Sequence[Young]) -> tuple[Figure, ...]:
    calibration = calibrate(learned)
    if calibration is None:
        return tuple(withheld(name, "no mature labels with a probability") for name in METRICS)
    answers = [answer for row in rows if (answer := binary_answer(row.prediction, row.confidence))]
    known = [(p, said) for said, p in answers if p is not None]
    said = ScoreCells()
    if known:
        scores, classes = np.array(known, dtype=np.float64).T
        said.add(scores, classes, np.ones(len(known)))
    return expected(calibration, said)


def _by_delay(
    settled: Sequence[Settled], young: Sequence[Young], horizon_s: float, coverage: float
) -> tuple[Figure, ...]:
    if horizon_s <= SHORTEST_S:
        return tuple(withheld(name, "labels are mature at once") for name in RATIOS)
    curve = DelayCurve(horizon_s)
    delays: dict[int, list[float]] = {0: [], 1: []}
    for row in settled:
        label = as_binary(row.ground_truth)
        if label is not None and row.delay_s is not None:
            delays[label].append(row.delay_s)
    for label, known in delays.items():
        curve.add(str(label), known)
    said, ages, labels = [], [], []
    for one in young:
        answer = binary_answer(one.prediction, one.confidence)
        if answer is None:
            continue
        truth = None if one.ground_truth is None else as_binary(one.ground_truth)
        said.append(float(answer[0]))
        ages.append(one.age_s)
        labels.append(np.nan if truth is None else float(truth))
    return provisional(curve, np.array(said), np.array(ages), np.array(labels), coverage)
