"""Figures of a regression: MAE, RMSE, MAPE and R².

Intervals: normal for MAE and MAPE; delta method for RMSE (from the variance of the mean squared error)
and for R² (from the joint fourth moments of error and ground truth). Rows are taken to be independent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import comb, sqrt
from typing import Self

import numpy as np

from app.domain import interval
from app.domain import state as states
from app.domain.performance.figure import Figure, figure, with_minimum, withheld
from app.domain.performance.moments import Floats, WeightedMean
from app.domain.performance.row import Labelled, number

# Σw²·e^(2j)·d^k for these (j, k), d the ground truth less a fixed origin: what the variance of R² needs.
_MOMENTS = ((0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (1, 0), (1, 1), (1, 2), (2, 0))


_LARGEST = 1e60  # larger numbers are unusable: their fourth powers leave the range of a double


class RegressionTally:
    """Labelled rows of a regression in constant memory."""

    task = "regression"

    def __init__(self) -> None:
        self.rows = 0
        self.unusable: Counter[str] = Counter()
        self._zeros = 0  # ground truths of 0, for which a relative error has no meaning
        self._absolute = WeightedMean()
        self._squared = WeightedMean()
        self._relative = WeightedMean()
        self._truth = WeightedMean()
        self._origin = 0.0
        self._moments: Floats = np.zeros(len(_MOMENTS))

    def add(self, rows: Iterable[Labelled]) -> None:
        """Take in rows; those that cannot be read are counted in `unusable` by reason."""
        truth, predicted, weights = [], [], []
        for row in rows:
            y, p = number(row.ground_truth), number(row.prediction)
            if y is None:
                self.unusable["ground truth is no finite number"] += 1
            elif abs(y) > _LARGEST or (p is not None and abs(p) > _LARGEST):
                self.unusable[f"beyond {_LARGEST:g}"] += 1
            elif p is None:
                self.unusable[
                    "no prediction" if row.prediction is None else "prediction is no finite number"
                ] += 1
            elif not row.weight > 0:
                self.unusable["weight is not positive"] += 1
            else:
                truth.append(y)
                predicted.append(p)
                weights.append(row.weight)
        self.add_arrays(np.array(truth), np.array(predicted), np.array(weights))

    def add_arrays(self, truth: Floats, predicted: Floats, weights: Floats) -> None:
        """Take in a batch of shape (k,): finite numbers and positive weights."""
        if len(truth) == 0:
            return
        if self.rows == 0:
            self._origin = float(truth.mean())
        self.rows += len(truth)
        error = predicted - truth
        self._absolute.add(abs(error), weights)
        self._squared.add(error**2, weights)
        self._truth.add(truth, weights)
        nonzero = truth != 0
        self._zeros += int((~nonzero).sum())
        self._relative.add(abs(error[nonzero] / truth[nonzero]), weights[nonzero])
        apart = truth - self._origin
        self._moments += [float((weights**2 * error ** (2 * j) * apart**k).sum()) for j, k in _MOMENTS]

    def merge(self, other: RegressionTally) -> None:
        """Add another tally's rows."""
        if self.rows == 0:
            self._origin = other._origin
        self.rows += other.rows
        self.unusable += other.unusable
        self._zeros += other._zeros
        self._absolute.merge(other._absolute)
        self._squared.merge(other._squared)
        self._relative.merge(other._relative)
        self._truth.merge(other._truth)
        self._moments = self._moments + _moved(other._moments, other._origin - self._origin)

    def figures(self, minimum: int = 0) -> tuple[Figure, ...]:
        """All figures; withheld when fewer than `minimum` rows are labelled, or where one has no meaning."""
        if self.rows == 0:
            found = [withheld(name, "no labelled rows") for name in ("mae", "rmse", "mape", "r2")]
            return with_minimum(found, 0, minimum)
        return with_minimum((self._mae(), self._rmse(), self._mape(), self._r2()), self.rows, minimum)

    def _mae(self) -> Figure:
        mean = self._absolute
        low, high = interval.normal(mean.mean, mean.variance_of_mean())
        return figure("mae", mean.mean, (max(0.0, low), high), mean.effective, "normal")

    def _rmse(self) -> Figure:
        value = sqrt(self._squared.mean)
        variance = self._squared.variance_of_mean() / (4 * self._squared.mean) if value > 0 else 0.0
        low, high = interval.normal(value, variance)
        return figure("rmse", value, (max(0.0, low), high), self._squared.effective, "delta")

    def _mape(self) -> Figure:
        if self._zeros:
            return withheld("mape", f"{self._zeros} ground truths are 0", self._absolute.effective)
        mean = self._relative
        low, high = interval.normal(mean.mean, mean.variance_of_mean())
        return figure("mape", mean.mean, (max(0.0, low), high), mean.effective, "normal")

    def _r2(self) -> Figure:
        total = self._truth.spread
        rounding = self._truth.weight * (1e-12 * self._truth.mean) ** 2
        if self.rows < 2 or total <= rounding:
            return withheld("r2", "the ground truth does not vary", self._truth.effective)
        left = self._squared.mean * self._squared.weight
        ratio = left / total
        moments = dict(zip(_MOMENTS, _moved(self._moments, self._origin - self._truth.mean), strict=True))
        squares = moments[2, 0] - 2 * ratio * moments[1, 2] + ratio**2 * moments[0, 4]
        variance = float(squares) / total**2
        low, high = interval.normal(1 - ratio, variance)
        return figure("r2", 1 - ratio, (low, min(1.0, high)), self._truth.effective, "delta")

    def state(self) -> states.State:
        """Plain values; `from_state` restores the tally."""
        return {
            "task": self.task,
            "rows": self.rows,
            "unusable": dict(self.unusable),
            "zeros": self._zeros,
            "absolute": self._absolute.state(),
            "squared": self._squared.state(),
            "relative": self._relative.state(),
            "truth": self._truth.state(),
            "origin": self._origin,
            "moments": [float(v) for v in self._moments],
        }

    @classmethod
    def from_state(cls, state: states.State) -> Self:
        """The tally of a `state`; `ValueError` when it is none."""
        made = cls()
        made.rows = states.count(state, "rows")
        made.unusable = states.counter(state, "unusable")
        made._zeros = states.count(state, "zeros")
        made._absolute = WeightedMean.from_state(states.entries(state, "absolute"))
        made._squared = WeightedMean.from_state(states.entries(state, "squared"))
        made._relative = WeightedMean.from_state(states.entries(state, "relative"))
        made._truth = WeightedMean.from_state(states.entries(state, "truth"))
        made._origin = states.number(state, "origin")
        made._moments = np.array(states.numbers(state, "moments", len(_MOMENTS)))
        return made


def _moved(moments: Floats, step: float) -> Floats:
    """The moments about an origin that lies `step` lower, so that d becomes d + step (binomial theorem)."""
    held = dict(zip(_MOMENTS, moments, strict=True))
    return np.array(
        [sum(comb(k, i) * step ** (k - i) * held[j, i] for i in range(k + 1)) for j, k in _MOMENTS]
    )
