"""Two versions on the same labelled requests: how much better one is, and how sure that is.

The same input answered twice is compared with itself, so what makes inputs hard falls out: the interval
of the difference is far narrower than those of the two figures beside each other. Differences are shadow
− production.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt

import numpy as np

from app.domain.interval import Z95, normal
from app.domain.outcome import GroundTruth, as_binary, as_class
from app.domain.performance.figure import Figure, figure, withheld
from app.domain.performance.moments import WeightedMean
from app.domain.performance.row import Answer, binary_answer, number


@dataclass(frozen=True, slots=True)
class LabelledPair:
    """One request, both answers and its outcome."""

    production: Answer | None
    production_confidence: float | None
    shadow: Answer | None
    shadow_confidence: float | None
    ground_truth: GroundTruth


@dataclass(frozen=True, slots=True)
class RightAndWrong:
    """How often each was right. `p_value` is McNemar's exact test (Psychometrika 12, 1947) that both are
    right as often.
    """

    both: int
    only_production: int
    only_shadow: int
    neither: int
    p_value: float


class PairedTally:
    """Labelled pairs of one task in constant memory."""

    def __init__(self, task: str) -> None:
        if task not in ("binary", "multiclass", "regression"):
            raise ValueError(f"task {task!r} has no right and wrong to compare")
        self.task = task
        self.pairs = 0
        self.unusable = 0
        self._right = [0, 0, 0, 0]  # neither, only shadow, only production, both
        self._losses: dict[str, WeightedMean] = {
            name: WeightedMean() for name in (("absolute", "squared") if task == "regression" else ("brier",))
        }

    def add(self, pairs: Iterable[LabelledPair]) -> None:
        """Take in pairs; one that cannot be read on both sides is unusable."""
        differences: dict[str, list[float]] = {name: [] for name in self._losses}
        for pair in pairs:
            usable = (
                self._regression(pair, differences)
                if self.task == "regression"
                else self._classes(pair, differences)
            )
            self.pairs += usable
            self.unusable += not usable
        for name, values in differences.items():
            self._losses[name].add(np.array(values), np.ones(len(values)))

    def _regression(self, pair: LabelledPair, differences: dict[str, list[float]]) -> bool:
        truth, production, shadow = number(pair.ground_truth), number(pair.production), number(pair.shadow)
        if truth is None or production is None or shadow is None:
            return False
        if max(abs(truth), abs(production), abs(shadow)) > 1e60:
            return False  # its square and fourth power leave the range of a double
        differences["absolute"].append(abs(shadow - truth) - abs(production - truth))
        differences["squared"].append((shadow - truth) ** 2 - (production - truth) ** 2)
        return True

    def _classes(self, pair: LabelledPair, differences: dict[str, list[float]]) -> bool:
        if self.task == "multiclass":
            if pair.production is None or pair.shadow is None:
                return False
            truth = as_class(pair.ground_truth)
            self._count(as_class(pair.production) == truth, as_class(pair.shadow) == truth)
            return True
        label = as_binary(pair.ground_truth)
        production = binary_answer(pair.production, pair.production_confidence)
        shadow = binary_answer(pair.shadow, pair.shadow_confidence)
        if label is None or production is None or shadow is None:
            return False
        self._count(production[0] == label, shadow[0] == label)
        if production[1] is not None and shadow[1] is not None:
            differences["brier"].append((shadow[1] - label) ** 2 - (production[1] - label) ** 2)
        return True

    def _count(self, production: bool, shadow: bool) -> None:
        self._right[2 * production + shadow] += 1

    def merge(self, other: PairedTally) -> None:
        """Add another tally's pairs; `ValueError` for another task."""
        if other.task != self.task:
            raise ValueError(f"tasks differ: {self.task} and {other.task}")
        self.pairs += other.pairs
        self.unusable += other.unusable
        self._right = [a + b for a, b in zip(self._right, other._right, strict=True)]
        for name, mean in self._losses.items():
            mean.merge(other._losses[name])

    def right_and_wrong(self) -> RightAndWrong | None:
        """Counts of right answers; None for a regression."""
        if self.task == "regression":
            return None
        from scipy.special import bdtr

        neither, only_shadow, only_production, both = self._right
        apart = only_shadow + only_production
        tail = float(bdtr(min(only_shadow, only_production), apart, 0.5)) if apart else 1.0
        return RightAndWrong(both, only_production, only_shadow, neither, min(1.0, 2 * tail))

    def figures(self) -> tuple[Figure, ...]:
        """Differences, shadow − production: of accuracy and Brier score, or of MAE and mean squared error.

        Intervals: normal, from the variance of the paired differences; for accuracy with half a pair
        added to each of the four counts (Agresti and Min, Statistics in Medicine 24, 2005), so that few
        disagreements do not look certain.
        """
        losses = {"absolute": "mae_difference", "squared": "mse_difference", "brier": "brier_difference"}
        found = [_difference(losses[name], mean) for name, mean in self._losses.items()]
        return tuple(found) if self.task == "regression" else (self._accuracy(), *found)

    def _accuracy(self) -> Figure:
        n = sum(self._right)
        if n == 0:
            return withheld("accuracy_difference", "no labelled pairs")
        value = (self._right[1] - self._right[2]) / n
        up, down, total = self._right[1] + 0.5, self._right[2] + 0.5, n + 2
        half = Z95 * sqrt((up + down) - (up - down) ** 2 / total) / total
        middle = (up - down) / total
        interval = (max(-1.0, middle - half), min(1.0, middle + half))
        return figure("accuracy_difference", value, interval, n, "normal, Agresti and Min")


def _difference(name: str, mean: WeightedMean) -> Figure:
    if mean.rows < 2:
        return withheld(name, f"{mean.rows} labelled pairs with what it needs, 2 are needed", mean.rows)
    return figure(name, mean.mean, normal(mean.mean, mean.variance_of_mean()), mean.rows, "normal, paired")
