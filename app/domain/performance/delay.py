"""Provisional figures from labels that have come so far, weighted by how likely they were to have come.

The delay curve of each class is learned from mature predictions. A young prediction's unknown label is
then estimated without bias: by 1{y=1}/P(a positive's label has come by now), or one minus the like for
negatives, whichever class is quicker; so nothing is read into the absence of a label but what the curve
says. Assumes that delays have not changed and depend on nothing but class. Binary tasks; for others
`inverse_weights` weights a tally by a curve of all labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from app.domain import interval
from app.domain import state as states
from app.domain.performance.figure import Figure, figure, withheld
from app.domain.performance.moments import Floats

Flags: TypeAlias = NDArray[np.bool_]

CLASSES = ("0", "1", "all")
STEPS = 256  # of the curve, in log age
SHORTEST_S = 1.0
MIN_FRACTION = 0.05  # a class whose labels have come to less than this says nothing yet
RATIOS = {  # (numerator, denominator), each as (constant, slope) in the label for rows predicted 0 and 1
    "accuracy": (((1, -1), (0, 1)), ((1, 0), (1, 0))),
    "precision": (((0, 0), (0, 1)), ((0, 0), (1, 0))),
    "recall": (((0, 0), (0, 1)), ((0, 1), (0, 1))),
    "f1": (((0, 0), (0, 2)), ((0, 1), (1, 1))),
}


class DelayCurve:
    """How soon labels come, by class: counts of delays on a logarithmic grid up to the horizon. Merges by
    adding.
    """

    def __init__(self, horizon_s: float) -> None:
        if not horizon_s > SHORTEST_S:
            raise ValueError(f"horizon_s must exceed {SHORTEST_S:g} s, but is {horizon_s}")
        self.horizon_s = horizon_s
        self._counts = {name: np.zeros(STEPS + 1) for name in CLASSES}  # the last: beyond the horizon

    def add(self, label: str, delays_s: Sequence[float] | Floats) -> None:
        """Count the delays (seconds) of labels of mature predictions, also of those that came after the
        horizon; an infinite one is no label.
        """
        delays = np.asarray(delays_s, dtype=np.float64)
        delays = delays[np.isfinite(delays)]
        steps = np.where(delays <= self.horizon_s, np.ceil(self._place(delays)), STEPS).astype(np.intp)
        counted = np.bincount(steps, minlength=STEPS + 1).astype(np.float64)
        self._counts["all"] = self._counts["all"] + counted
        if label != "all":
            self._counts[label] = self._counts[label] + counted

    def _place(self, ages_s: Floats) -> Floats:
        # Step i holds delays up to shortest·(horizon/shortest)^(i/(STEPS−2)), the last those of the horizon
        # itself: many labels are settled exactly then, and must not look as if some came a little earlier.
        scale = (STEPS - 2) / log(self.horizon_s / SHORTEST_S)
        place = np.log(np.maximum(ages_s, SHORTEST_S) / SHORTEST_S) * scale
        return np.where(ages_s >= self.horizon_s, STEPS - 1.0, np.minimum(place, STEPS - 2.0))

    def labels(self, label: str) -> int:
        """How many labels the curve of a class rests on."""
        return int(self._counts[label].sum())

    def fraction(self, label: str, ages_s: Floats) -> Floats:
        """The share of a class's labels that have come by each age (shape (k,)); 0 for a class without
        labels.
        """
        known = self._counts[label]
        total = known.sum()
        if total == 0:
            return np.zeros(len(ages_s))
        come = np.cumsum(known)[:STEPS] / total
        return np.asarray(np.interp(self._place(ages_s), np.arange(STEPS), come))

    def step_of(self, ages_s: Floats) -> Floats:
        """The position of each age on the grid, 0 to STEPS − 1, with fractions."""
        return self._place(ages_s)

    def covariance(self, label: str) -> Floats:
        """The error of a class's curve: covariance of its values at all grid positions, (STEPS, STEPS); 0
        without labels.
        """
        known = self._counts[label]
        total = known.sum()
        if total == 0:
            return np.zeros((STEPS, STEPS))
        share, grid = np.cumsum(known)[:STEPS] / total, np.arange(STEPS)
        lower, upper = share[np.minimum.outer(grid, grid)], share[np.maximum.outer(grid, grid)]
        return np.asarray(lower * (1 - upper) / total)

    def merge(self, other: DelayCurve) -> None:
        """Add another curve's labels; `ValueError` when its horizon differs."""
        if other.horizon_s != self.horizon_s:
            raise ValueError(f"horizons differ: {self.horizon_s} and {other.horizon_s}")
        self._counts = {name: self._counts[name] + other._counts[name] for name in CLASSES}

    def state(self) -> states.State:
        """Plain values; `from_state` restores the curve."""
        return {"horizon_s": self.horizon_s} | {n: [float(c) for c in self._counts[n]] for n in CLASSES}

    @classmethod
    def from_state(cls, state: states.State) -> Self:
        """The curve of a `state`; `ValueError` when it is none."""
        made = cls(states.number(state, "horizon_s"))
        made._counts = {name: np.array(states.numbers(state, name, STEPS + 1)) for name in CLASSES}
        return made


def inverse_weights(curve: DelayCurve, ages_s: Floats) -> Floats:
    """The weight of each labelled row by its age, 1/P(its label has come); 0, to be left out, where that
    is too small.
    """
    come = curve.fraction("all", ages_s)
    return np.where(come >= MIN_FRACTION, 1 / np.maximum(come, MIN_FRACTION), 0.0)


def provisional(
    curve: DelayCurve, said: Floats, ages_s: Floats, labels: Floats, coverage: float = 1.0, minimum: int = 30
) -> tuple[Figure, ...]:
    """Accuracy, precision, recall and F1 of predictions that are not mature.

    Shapes (k,): predicted class 0.0 or 1.0, age in seconds, label 0.0, 1.0 or NaN while unknown; all
    predictions of the period, labelled or not. `coverage` is the share of mature predictions that ever
    get a label. The interval (delta method) holds the sampling of rows, the chance of which labels have
    come, and the error of the curve itself.
    """
    come = {name: curve.fraction(name, ages_s) * coverage for name in ("0", "1")}
    positive = come["1"] >= come["0"]
    fraction = np.where(positive, come["1"], come["0"])
    usable = fraction >= MIN_FRACTION
    came = int((usable & ~np.isnan(labels)).sum())
    if not usable.any() or came < minimum:
        reason = f"{came} early labels can be weighed so far, {minimum} are needed"
        return tuple(withheld(name, reason, float(came)) for name in RATIOS)
    said, fraction, labels, ages = said[usable], fraction[usable], labels[usable], ages_s[usable]
    positive = positive[usable]
    weighed = np.where(
        labels == positive, 1 / fraction, 0.0
    )  # the label has come, and is the class looked at
    estimate = np.where(positive, weighed, 1 - weighed)
    slope_in_fraction = np.where(positive, -1.0, 1.0) * weighed / fraction
    error = _CurveError(curve, positive, ages, coverage)
    return tuple(_ratio(name, said, estimate, slope_in_fraction, error, float(came)) for name in RATIOS)


class _CurveError:
    """The variance that the error of the curve adds to a figure, given each row's slope in the curve's
    value.
    """

    def __init__(self, curve: DelayCurve, positive: Flags, ages: Floats, coverage: float) -> None:
        self._rows = [positive, ~positive]
        self._steps = curve.step_of(ages)
        self._covariances = [coverage**2 * curve.covariance(name) for name in ("1", "0")]

    def variance(self, slopes: Floats) -> float:
        total = 0.0
        for mine, covariance in zip(self._rows, self._covariances, strict=True):
            low = np.floor(self._steps[mine]).astype(np.intp)
            part = self._steps[mine] - low
            held = np.bincount(low, slopes[mine] * (1 - part), STEPS)
            held += np.bincount(np.minimum(low + 1, STEPS - 1), slopes[mine] * part, STEPS)
            total += float(held @ covariance @ held)
        return total


def _ratio(
    name: str, said: Floats, estimate: Floats, slope: Floats, error: _CurveError, labels: float
) -> Figure:
    above, below = RATIOS[name]
    ones = said == 1
    numerator = np.where(ones, above[1][0] + above[1][1] * estimate, above[0][0] + above[0][1] * estimate)
    denominator = np.where(ones, below[1][0] + below[1][1] * estimate, below[0][0] + below[0][1] * estimate)
    total = float(denominator.sum())
    if total <= 0:
        return withheld(name, "no positives, predicted or estimated", labels)
    value = float(numerator.sum()) / total
    residual = numerator - value * denominator
    steepness = np.where(ones, above[1][1] - value * below[1][1], above[0][1] - value * below[0][1]) / total
    variance = float((residual**2).sum()) / total**2 + error.variance(steepness * slope)
    low, high = interval.normal(value, variance)
    value, low, high = (min(1.0, max(0.0, v)) for v in (value, low, high))
    return figure(name, value, (low, high), labels, "delta, by the delay curve")
