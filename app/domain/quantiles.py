"""Quantiles of a stream in constant memory: counts in logarithmic buckets, exact to a stated relative error.

The scheme of DDSketch (Masson, Rim and Lee, VLDB 2019): bucket i holds values in (γ^(i−1), γ^i] with γ =
(1+a)/(1−a), so any value is known to within a share a. Sketches of shards add up to the sketch of the
whole, in any order. Never holds a value itself, and never grows beyond the span of the values'
magnitudes.
"""

from __future__ import annotations

from math import ceil, exp, log
from typing import Self

from app.domain import state as states

_SMALLEST = 1e-12  # magnitudes below count as zero: keeps the number of buckets bounded
_LARGEST = 1e18  # and above as this


class Quantiles:
    """Positive and negative values in one sketch. `relative_error` must agree for sketches to be merged."""

    __slots__ = ("_gamma_log", "_negative", "_positive", "_zeros", "count", "relative_error")

    def __init__(self, relative_error: float = 0.01) -> None:
        if not 0 < relative_error < 1:
            raise ValueError(f"relative_error must lie between 0 and 1, but is {relative_error}")
        self.relative_error = relative_error
        self.count = 0
        self._gamma_log = log((1 + relative_error) / (1 - relative_error))
        self._zeros = 0
        self._positive: dict[int, int] = {}
        self._negative: dict[int, int] = {}

    def add(self, value: float, times: int = 1) -> None:
        """Take in a value; `ValueError` for NaN, which has no place in an order. Infinities count as 1e18."""
        if value != value:
            raise ValueError("NaN has no quantile")
        self.count += times
        size = abs(value)
        if size < _SMALLEST:
            self._zeros += times
            return
        side = self._positive if value > 0 else self._negative
        bucket = ceil(log(min(size, _LARGEST)) / self._gamma_log)
        side[bucket] = side.get(bucket, 0) + times

    def merge(self, other: Quantiles) -> None:
        """Add another sketch's counts; `ValueError` when its relative error differs."""
        if other.relative_error != self.relative_error:
            raise ValueError(f"relative errors differ: {self.relative_error} and {other.relative_error}")
        self.count += other.count
        self._zeros += other._zeros
        for mine, theirs in ((self._positive, other._positive), (self._negative, other._negative)):
            for bucket, times in theirs.items():
                mine[bucket] = mine.get(bucket, 0) + times

    def quantile(self, q: float) -> float | None:
        """The value at rank ⌊q·(n−1)⌋ of the n sorted values (0-based), to within the relative error;
        None when empty.
        """
        if not 0 <= q <= 1:
            raise ValueError(f"q must lie between 0 and 1, but is {q}")
        if self.count == 0:
            return None
        rank = int(q * (self.count - 1))
        for bucket in sorted(self._negative, reverse=True):
            rank -= self._negative[bucket]
            if rank < 0:
                return -self._middle(bucket)
        rank -= self._zeros
        if rank < 0:
            return 0.0
        for bucket in sorted(self._positive):
            rank -= self._positive[bucket]
            if rank < 0:
                return self._middle(bucket)
        raise AssertionError("counts of the sketch do not add up")

    def _middle(self, bucket: int) -> float:
        # The point of the bucket whose relative distance to both ends is the relative error.
        return exp(bucket * self._gamma_log) * (1 - self.relative_error)

    def state(self) -> states.State:
        """Plain values; `from_state` restores the sketch."""
        return {
            "relative_error": self.relative_error,
            "zeros": self._zeros,
            "positive": {str(b): n for b, n in self._positive.items()},
            "negative": {str(b): n for b, n in self._negative.items()},
        }

    @classmethod
    def from_state(cls, state: states.State) -> Self:
        """The sketch of a `state`; `ValueError` when it is none."""
        made = cls(states.number(state, "relative_error"))
        made._zeros = states.count(state, "zeros")
        for side, name in ((made._positive, "positive"), (made._negative, "negative")):
            saved = states.entries(state, name)
            side.update((int(bucket), states.as_count(times, name)) for bucket, times in saved.items())
        made.count = made._zeros + sum(made._positive.values()) + sum(made._negative.values())
        return made
