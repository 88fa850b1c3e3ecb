"""A weighted mean and its variance, updated in batches and merged without loss (Chan, Golub and LeVeque,
1979).
"""

from __future__ import annotations

from typing import Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from app.domain import state as states

Floats: TypeAlias = NDArray[np.float64]


class WeightedMean:
    """Mean Σwx/Σw, and the variance of that mean by linearisation, Σw²(x − mean)²/(Σw)².

    For weights 1 the variance is s²/n. For inverse-probability weights it is the ratio estimator's
    (Särndal, Swensson and Wretman, 1992, section 5.7). Squared weights are kept about the running mean,
    so that nothing cancels.
    """

    __slots__ = ("_first", "_second", "mean", "rows", "spread", "weight", "weight2")

    def __init__(self) -> None:
        self.rows = 0
        self.weight = 0.0  # Σw
        self.weight2 = 0.0  # Σw²
        self.mean = 0.0
        self.spread = 0.0  # Σw(x − mean)²
        self._first = 0.0  # Σw²(x − mean)
        self._second = 0.0  # Σw²(x − mean)²

    def add(self, values: Floats, weights: Floats) -> None:
        """Take in a batch: values and positive weights of shape (k,)."""
        if len(values) == 0:
            return
        batch = WeightedMean()
        w2 = weights * weights
        batch.rows = len(values)
        batch.weight, batch.weight2 = float(weights.sum()), float(w2.sum())
        batch.mean = float((weights * values).sum()) / batch.weight
        apart = values - batch.mean
        batch.spread = float((weights * apart * apart).sum())
        batch._first = float((w2 * apart).sum())
        batch._second = float((w2 * apart * apart).sum())
        self.merge(batch)

    def merge(self, other: WeightedMean) -> None:
        """Add another accumulator's rows."""
        if other.rows == 0:
            return
        total = self.weight + other.weight
        step = (other.mean - self.mean) * other.weight / total
        apart = other.mean - self.mean
        mean = self.mean + step if self.rows else other.mean
        self.spread += other.spread + apart * apart * self.weight * other.weight / total
        first = second = 0.0
        for part in (self, other):
            shift = part.mean - mean
            first += part._first + shift * part.weight2
            second += part._second + 2 * shift * part._first + shift * shift * part.weight2
        self._first, self._second, self.mean = first, second, mean
        self.rows += other.rows
        self.weight, self.weight2 = total, self.weight2 + other.weight2

    def variance_of_mean(self) -> float:
        """The mean's variance; with the small-sample factor n/(n − 1), n being Kish's effective size.

        0 for one row.
        """
        n = self.effective
        if n <= 1:
            return 0.0
        return max(0.0, self._second) / (self.weight * self.weight) * n / (n - 1)

    @property
    def effective(self) -> float:
        """Kish's effective sample size (Σw)²/Σw²; the number of rows for equal weights."""
        return self.weight * self.weight / self.weight2 if self.weight2 else 0.0

    def state(self) -> states.State:
        """Plain values; `from_state` restores the accumulator."""
        return {
            "rows": self.rows,
            "sums": [self.weight, self.weight2, self.mean, self.spread, self._first, self._second],
        }

    @classmethod
    def from_state(cls, state: states.State) -> Self:
        """The accumulator of a `state`; `ValueError` when it is none."""
        made = cls()
        made.rows = states.count(state, "rows")
        sums = states.numbers(state, "sums", 6)
        made.weight, made.weight2, made.mean, made.spread, made._first, made._second = sums
        return made
