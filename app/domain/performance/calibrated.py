"""Provisional figures without any label: what a calibrated confidence leads to expect (CBPE), scored when
labels come.

Scores are calibrated by isotonic regression on mature rows; each young prediction is then counted as
right with its calibrated probability. Holds as long as P(label | score) has not changed, and so is blind
to concept drift. Therefore each estimate is later held against the measured figure, and estimates that
miss are withdrawn until they hold again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from app.domain import interval
from app.domain import state as states
from app.domain.performance.figure import Figure, figure, withheld
from app.domain.performance.moments import Floats
from app.domain.performance.scores import ScoreCells

METRICS = ("accuracy", "precision", "recall", "f1", "roc_auc")
_METHOD = "delta, by calibrated confidence"


@dataclass(frozen=True, slots=True)
class Calibration:
    """A non-decreasing map from score to probability, flat on blocks; arrays of shape (blocks,),
    ascending.
    """

    first: Floats  # lowest and highest score of a block
    last: Floats
    probability: Floats
    size: Floats  # effective number of labelled rows in a block

    def of(self, scores: Floats) -> Floats:
        """The calibrated probability of each score: its block's, linear in between, the end blocks'
        beyond.
        """
        ends = np.column_stack((self.first, self.last)).ravel()
        return np.interp(scores, ends, np.repeat(self.probability, 2))

    def block_of(self, scores: Floats) -> NDArray[np.intp]:
        """The block that each score's probability rests on most: its own, or the nearer of the two it
        lies between.
        """
        middles = (self.last[:-1] + self.first[1:]) / 2
        return np.searchsorted(middles, scores, side="right")


def calibrate(cells: ScoreCells) -> Calibration | None:
    """Isotonic regression of labels on scores by pooling adjacent violators (Ayer et al., 1955); None
    without rows.
    """
    positive, positive2, negative, negative2 = cells.cells.T
    blocks: list[list[float]] = []  # first, last, weight, weighted positives, squared weight
    for score, up, down, squares in zip(cells.scores, positive, negative, positive2 + negative2, strict=True):
        blocks.append([score, score, up + down, up, squares])
        while len(blocks) > 1 and blocks[-2][3] * blocks[-1][2] >= blocks[-1][3] * blocks[-2][2]:
            later = blocks.pop()
            held = blocks[-1]
            held[1] = later[1]
            for i in (2, 3, 4):
                held[i] += later[i]
    if not blocks:
        return None
    first, last, weight, up, squares = np.array(blocks).T
    return Calibration(first, last, up / weight, weight * weight / squares)


def expected(calibration: Calibration, said: ScoreCells, minimum: int = 100) -> tuple[Figure, ...]:
    """The figures to expect of predictions whose labels are unknown.

    `said` counts them by score, rows predicted 1 as positive and rows predicted 0 as negative; `minimum`
    is the number of labelled rows that the calibration must rest on. Intervals (delta method) hold the
    chance of the labels and the error of the calibration; for the AUC, Hanley and McNeil's variance
    (Radiology 143, 1982) with expected class sizes.
    """
    rests_on = float(calibration.size.sum())
    if rests_on < minimum:
        reason = f"calibrated on {rests_on:.0f} labelled rows, {minimum} are needed"
        return tuple(withheld(name, reason, rests_on) for name in METRICS)
    ones, zeros = said.cells[:, 0], said.cells[:, 2]
    rows = float(ones.sum() + zeros.sum())
    if rows == 0:
        return tuple(withheld(name, "no predictions", 0.0) for name in METRICS)
    p = calibration.of(said.scores)
    block = calibration.block_of(said.scores)
    tp, fp = float(ones @ p), float(ones @ (1 - p))
    fn, tn = float(zeros @ p), float(zeros @ (1 - p))
    found = []
    # Each as (numerator, denominator, and their slopes in the label for rows predicted 1 and 0).
    for name, above, below, up, down in (
        ("accuracy", tp + tn, rows, (1, -1), (0, 0)),
        ("precision", tp, tp + fp, (1, 0), (0, 0)),
        ("recall", tp, tp + fn, (1, 0), (1, 1)),
        ("f1", 2 * tp, 2 * tp + fp + fn, (2, 0), (1, 1)),
    ):
        if below <= 0:
            found.append(withheld(name, "no positives, predicted or expected", rows))
            continue
        value = above / below
        slope1, slope0 = (up[0] - value * down[0]) / below, (up[1] - value * down[1]) / below
        by_chance = float((ones * slope1**2 + zeros * slope0**2) @ (p * (1 - p)))
        by_fit = _fit_variance(calibration, block, ones * slope1 + zeros * slope0)
        low, high = interval.normal(value, by_chance + by_fit)
        found.append(figure(name, value, (max(0.0, low), min(1.0, high)), rows, _METHOD))
    found.append(_auc(calibration, block, p, ones + zeros))
    return tuple(found)


def _fit_variance(calibration: Calibration, block: NDArray[np.intp], slopes: Floats) -> float:
    n = calibration.size
    smoothed = (calibration.probability * n + 0.5) / (
        n + 1
    )  # a block of one class is not known without error
    held = np.bincount(block, slopes, len(n))
    return float(held**2 @ (smoothed * (1 - smoothed) / n))


def _auc(calibration: Calibration, block: NDArray[np.intp], p: Floats, count: Floats) -> Figure:
    positive, negative = count * p, count * (1 - p)
    ups, downs = float(positive.sum()), float(negative.sum())
    if ups <= 0 or downs <= 0:
        return withheld("roc_auc", "only one class is expected", float(count.sum()))
    below = np.cumsum(negative) - negative / 2
    above = ups - (np.cumsum(positive) - positive / 2)
    value = float(positive @ below) / (ups * downs)
    q1, q2 = value / (2 - value), 2 * value * value / (1 + value)
    spread = value * (1 - value) + (ups - 1) * (q1 - value**2) + (downs - 1) * (q2 - value**2)
    slopes = count * ((below - above) / (ups * downs) - value * (1 / ups - 1 / downs))
    variance = max(0.0, spread) / (ups * downs) + _fit_variance(calibration, block, slopes)
    low, high = interval.normal(value, variance)
    return figure("roc_auc", value, (max(0.0, low), min(1.0, high)), float(count.sum()), _METHOD)


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether an estimate may be shown. unproven: not yet held against enough measured figures."""

    status: Literal["unproven", "standing", "withdrawn"]
    settled: int
    misses: int
    reason: str


class Scorecard:
    """How past estimates of each metric turned out, over the last `window` matured cohorts.

    An estimate misses when it is off by more than `tolerance` and by more than chance explains (95 %,
    both intervals). Two misses in the window withdraw the metric's estimates; they stand again once the
    misses have left the window.
    """

    def __init__(self, tolerance: float = 0.03, window: int = 5, needed: int = 2) -> None:
        self.tolerance, self.window, self.needed = tolerance, window, needed
        self._misses: dict[str, deque[bool]] = {}

    def settle(self, estimates: Iterable[Figure], measured: Iterable[Figure]) -> None:
        """Hold a cohort's estimates against its figures once its labels are mature; withheld ones say
        nothing.
        """
        known = {f.name: f for f in measured}
        for estimate in estimates:
            truth = known.get(estimate.name)
            if truth is None or truth.value is None or estimate.value is None:
                continue
            off = abs(estimate.value - truth.value)
            chance = sqrt(_half(estimate) ** 2 + _half(truth) ** 2)
            held = self._misses.setdefault(estimate.name, deque(maxlen=self.window))
            held.append(off > max(self.tolerance, chance))

    def standing(self, metric: str) -> Standing:
        """What the past says about a metric's estimates."""
        held = self._misses.get(metric, deque())
        settled, misses = len(held), sum(held)
        if misses >= 2:
            reason = f"estimates missed in {misses} of the last {settled} matured cohorts"
            return Standing("withdrawn", settled, misses, reason)
        if settled < self.needed:
            reason = f"held against {settled} matured cohorts, {self.needed} are needed"
            return Standing("unproven", settled, misses, reason)
        return Standing(
            "standing", settled, misses, f"held in {settled - misses} of {settled} matured cohorts"
        )

    def pass_on(self, estimates: Iterable[Figure]) -> tuple[Figure, ...]:
        """The estimates, withheld where withdrawn or unproven."""
        passed = []
        for estimate in estimates:
            standing = self.standing(estimate.name)
            stands = standing.status == "standing" or estimate.value is None
            passed.append(estimate if stands else withheld(estimate.name, standing.reason, estimate.n))
        return tuple(passed)

    def state(self) -> states.State:
        """Plain values; `from_state` restores the card."""
        return {
            "tolerance": self.tolerance,
            "window": self.window,
            "needed": self.needed,
            "misses": {name: [int(m) for m in held] for name, held in self._misses.items()},
        }

    @classmethod
    def from_state(cls, state: states.State) -> Self:
        """The card of a `state`; `ValueError` when it is none."""
        made = cls(
            states.number(state, "tolerance"), states.count(state, "window"), states.count(state, "needed")
        )
        misses = states.entries(state, "misses")
        for name in misses:
            made._misses[name] = deque((bool(m) for m in states.counts(misses, name)), maxlen=made.window)
        return made


def _half(f: Figure) -> float:
    return (f.high - f.low) / 2 if f.low is not None and f.high is not None else 0.0
