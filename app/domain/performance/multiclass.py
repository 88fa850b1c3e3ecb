"""Figures of a classifier with named classes: accuracy, macro precision, recall and F1, and top-label
calibration.

Classes are matched by name (`app.domain.outcome.as_class`). Macro figures average over every class that
was predicted or observed, one with nothing to divide by counting 0, as scikit-learn does with
`zero_division=0`. Intervals: Wilson for accuracy; for macro figures the delta method on the confusion
matrix (for F1 as in Takahashi et al., Applied Intelligence 52, 2022); normal for the Brier score of the
predicted class's confidence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np

from app.domain import interval
from app.domain import state as states
from app.domain.outcome import as_class
from app.domain.performance.binary import effective_size
from app.domain.performance.figure import Figure, figure, with_minimum, withheld
from app.domain.performance.moments import WeightedMean
from app.domain.performance.row import Labelled

MAX_CLASSES = 1000  # further classes are unusable: a class is not a free text


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """One class against the rest."""

    label: str
    observed: float  # Σw of rows whose ground truth it is
    predicted: float
    precision: float | None
    recall: float | None


class MulticlassTally:
    """Labelled rows of a multiclass task; its size goes with the number of distinct (truth, prediction)
    pairs.
    """

    task = "multiclass"

    def __init__(self) -> None:
        self.rows = 0
        self.unusable: Counter[str] = Counter()
        self.pairs: dict[tuple[str, str], tuple[float, float]] = {}  # (truth, predicted) -> Σw, Σw²
        self._classes: set[str] = set()
        self._brier = WeightedMean()

    def add(self, rows: Iterable[Labelled]) -> None:
        """Take in rows; those that cannot be read are counted in `unusable` by reason."""
        right, confidence, weights = [], [], []
        for row in rows:
            if row.prediction is None:
                self.unusable["no prediction"] += 1
            elif not row.weight > 0:
                self.unusable["weight is not positive"] += 1
            elif self._count(
                truth := as_class(row.ground_truth), said := as_class(row.prediction), row.weight
            ):
                if row.confidence is not None and 0 <= row.confidence <= 1:
                    right.append(float(truth == said))
                    confidence.append(row.confidence)
                    weights.append(row.weight)
            else:
                self.unusable[f"more than {MAX_CLASSES} classes"] += 1
        errors = (np.array(confidence, dtype=np.float64) - np.array(right, dtype=np.float64)) ** 2
        self._brier.add(errors, np.array(weights, dtype=np.float64))

    def _count(self, truth: str, said: str, weight: float) -> bool:
        if len(self._classes | {truth, said}) > MAX_CLASSES:
            return False
        self._classes |= {truth, said}
        held, held2 = self.pairs.get((truth, said), (0.0, 0.0))
        self.pairs[truth, said] = held + weight, held2 + weight * weight
        self.rows += 1
        return True

    def merge(self, other: MulticlassTally) -> None:
        """Add another tally's rows. The bound on classes is each shard's own, so a merger may hold a few
        more.
        """
        self.rows += other.rows
        self.unusable += other.unusable
        self._classes |= other._classes
        for pair, (weight, weight2) in other.pairs.items():
            held, held2 = self.pairs.get(pair, (0.0, 0.0))
            self.pairs[pair] = held + weight, held2 + weight2
        self._brier.merge(other._brier)

    def figures(self, minimum: int = 0) -> tuple[Figure, ...]:
        """All figures; withheld when fewer than `minimum` rows are labelled."""
        names = ("accuracy", "precision_macro", "recall_macro", "f1_macro")
        found = self._macro() if self.pairs else [withheld(name, "no labelled rows") for name in names]
        if self._brier.rows:
            low, high = interval.normal(self._brier.mean, self._brier.variance_of_mean())
            top = figure("brier", self._brier.mean, (max(0.0, low), high), self._brier.effective, "normal")
        else:
            top = withheld("brier", "no confidence is known")
        return with_minimum([*found, top], self.rows, minimum)

    def _macro(self) -> list[Figure]:
        labels = sorted(self._classes)
        place = {label: i for i, label in enumerate(labels)}
        truth = np.array([place[t] for t, _ in self.pairs])
        said = np.array([place[p] for _, p in self.pairs])
        weight, weight2 = np.array(list(self.pairs.values())).T
        k, total = len(labels), float(weight.sum())
        hit = truth == said
        tp = np.bincount(truth[hit], weight[hit], k)
        observed, predicted = np.bincount(truth, weight, k), np.bincount(said, weight, k)
        value = float(tp.sum()) / total
        n = effective_size(value, total, float(weight2 @ (hit - value) ** 2), float(weight2.sum()))
        found = [figure("accuracy", value, interval.wilson(value * n, n), n, "Wilson")]
        # Each macro figure is the mean over classes of c·tp/(x·predicted + y·observed).
        for name, c, x, y in (
            ("precision_macro", 1, 1, 0),
            ("recall_macro", 1, 0, 1),
            ("f1_macro", 2, 1, 1),
        ):
            below = x * predicted + y * observed
            safe = np.where(below > 0, below, 1.0)
            each = c * tp / safe
            # Influence of one row on the mean: it adds to tp and to the denominators of its two classes.
            influence = (
                c * hit / safe[truth] - x * each[said] / safe[said] - y * each[truth] / safe[truth]
            ) / k
            mean = float(each.mean())
            variance = float(weight2 @ influence**2)
            if variance > 0:
                low, high = interval.normal(mean, variance)
                found.append(figure(name, mean, (max(0.0, low), min(1.0, high)), n, "delta"))
            else:  # all right or all wrong: as sure as its smallest class can make it
                m = float(observed[observed > 0].min()) * n / total
                found.append(
                    figure(name, mean, interval.wilson(mean * m, m), n, "Wilson on the smallest class")
                )
        return found

    def by_class(self) -> list[ClassFigures]:
        """Each class against the rest, by name."""
        hits: dict[str, float] = {}
        sums: dict[str, list[float]] = {label: [0.0, 0.0] for label in self._classes}
        for (truth, said), (weight, _) in self.pairs.items():
            sums[truth][0] += weight
            sums[said][1] += weight
            if truth == said:
                hits[truth] = weight
        return [
            ClassFigures(
                label,
                seen,
                said,
                hits.get(label, 0.0) / said if said else None,
                hits.get(label, 0.0) / seen if seen else None,
            )
            for label, (seen, said) in sorted(sums.items())
        ]

    def state(self) -> states.State:
        """Plain values; `from_state` restores the tally."""
        return {
            "task": self.task,
            "rows": self.rows,
            "unusable": dict(self.unusable),
            "pairs": [[t, p, w, w2] for (t, p), (w, w2) in self.pairs.items()],
            "brier": self._brier.state(),
        }

    @classmethod
    def from_state(cls, state: states.State) -> Self:
        """The tally of a `state`; `ValueError` when it is none."""
        made = cls()
        made.rows = states.count(state, "rows")
        made.unusable = states.counter(state, "unusable")
        for pair in states.items(state, "pairs"):
            match pair:
                case [str(truth), str(said), weight, weight2]:
                    made.pairs[truth, said] = (
                        states.as_number(weight, "pairs"),
                        states.as_number(weight2, "pairs"),
                    )
                    made._classes |= {truth, said}
                case _:
                    raise ValueError(f"state field 'pairs' holds {pair!r}")
        made._brier = WeightedMean.from_state(states.entries(state, "brier"))
        return made
