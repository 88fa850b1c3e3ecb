"""Figures of a binary classifier: accuracy, precision, recall, F1, ROC AUC, log-loss, Brier score and ECE.

Intervals. Accuracy, precision, recall: Wilson. F1: Wilson on tp/(tp+fp+fn), of which F1 = 2j/(1+j) is a
monotone function. AUC: DeLong on the log-odds. Log-loss and Brier: normal, from the variance of the mean.
ECE: delta method; it is biased upwards, so its expectation under perfect calibration stands beside it as
`ece_noise`. Weighted rows enter through the linearised variance of each ratio, so weights that go with
the label widen the interval as they must.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Self

import numpy as np

from app.domain import interval
from app.domain import state as states
from app.domain.outcome import as_binary
from app.domain.performance.figure import Figure, figure, with_minimum, withheld
from app.domain.performance.moments import Floats, WeightedMean
from app.domain.performance.row import Labelled, binary_answer
from app.domain.performance.scores import ScoreCells

# Cells of the confusion matrix, and each metric as (numerator, denominator) over them.
TN, FP, FN, TP = range(4)
_RATIOS = {
    "accuracy": ((1, 0, 0, 1), (1, 1, 1, 1)),
    "precision": ((0, 0, 0, 1), (0, 1, 0, 1)),
    "recall": ((0, 0, 0, 1), (0, 0, 1, 1)),
}
_JACCARD = ((0, 0, 0, 1), (0, 1, 1, 1))
_EMPTY = {
    "accuracy": "no labelled rows",
    "precision": "nothing was predicted positive",
    "recall": "nothing was positive",
    "f1": "nothing was positive, predicted or true",
}
ECE_BINS = 10  # equal width
_TINY = float(np.finfo(np.float64).eps)  # probabilities are kept this far from 0 and 1 in the log-loss


class BinaryTally:
    """Labelled rows of a binary task in constant memory."""

    task = "binary"

    def __init__(self) -> None:
        self.rows = 0
        self.unusable: Counter[str] = Counter()
        self.confusion: Floats = np.zeros((4, 2))  # by cell: Σw, Σw²
        self.scores = ScoreCells()
        self._soft = 0  # rows whose probability is neither 0 nor 1
        self._log_loss = WeightedMean()
        self._brier = WeightedMean()
        self._reliability: Floats = np.zeros((ECE_BINS, 4))  # by bin of probability: Σw, Σwp, Σwy, Σw²

    def add(self, rows: Iterable[Labelled], threshold: float = 0.5) -> None:
        """Take in rows; those that cannot be read are counted in `unusable` by reason."""
        truth, predicted, probability, weights = [], [], [], []
        for row in rows:
            label = as_binary(row.ground_truth)
            answer = binary_answer(row.prediction, row.confidence, threshold)
            if label is None:
                self.unusable["ground truth is neither 0 nor 1"] += 1
            elif answer is None:
                self.unusable[
                    "no prediction" if row.prediction is None else "prediction is no probability"
                ] += 1
            elif not row.weight > 0:
                self.unusable["weight is not positive"] += 1
            else:
                truth.append(label)
                predicted.append(answer[0])
                probability.append(np.nan if answer[1] is None else answer[1])
                weights.append(row.weight)
        self.add_arrays(
            np.array(truth, dtype=np.float64),
            np.array(predicted, dtype=np.float64),
            np.array(probability, dtype=np.float64),
            np.array(weights, dtype=np.float64),
        )

    def add_arrays(self, truth: Floats, predicted: Floats, probability: Floats, weights: Floats) -> None:
        """Take in a batch of shape (k,): classes 0.0 or 1.0, probabilities within 0..1 or NaN, positive
        weights.
        """
        self.rows += len(truth)
        cell = (2 * truth + predicted).astype(np.intp)
        np.add.at(self.confusion, cell, np.column_stack((weights, weights * weights)))
        known = ~np.isnan(probability)
        p, y, w = probability[known], truth[known], weights[known]
        self._soft += int(((p > 0) & (p < 1)).sum())
        self.scores.add(p, y, w)
        kept = np.clip(p, _TINY, 1 - _TINY)
        self._log_loss.add(-(y * np.log(kept) + (1 - y) * np.log1p(-kept)), w)
        self._brier.add((p - y) ** 2, w)
        bins = np.minimum((p * ECE_BINS).astype(np.intp), ECE_BINS - 1)
        np.add.at(self._reliability, bins, np.column_stack((w, w * p, w * y, w * w)))

    def merge(self, other: BinaryTally) -> None:
        """Add another tally's rows."""
        self.rows += other.rows
        self.unusable += other.unusable
        self.confusion = self.confusion + other.confusion
        self.scores.merge(other.scores)
        self._soft += other._soft
        self._log_loss.merge(other._log_loss)
        self._brier.merge(other._brier)
        self._reliability = self._reliability + other._reliability

    def figures(self, minimum: int = 0) -> tuple[Figure, ...]:
        """All figures; withheld when fewer than `minimum` rows are labelled, or where one has no meaning
        yet.
        """
        counted = [_proportion(name, self.confusion, *_RATIOS[name]) for name in _RATIOS]
        found = [*counted, _f1(self.confusion), *self._probabilistic()]
        return with_minimum(found, self.rows, minimum)

    def _probabilistic(self) -> list[Figure]:
        names = ("roc_auc", "log_loss", "brier", "ece", "ece_noise")
        if self._soft == 0:
            return [withheld(name, "no probabilities are known, only classes") for name in names]
        n = self._log_loss.effective
        auc = self.scores.auc()
        if auc is None:
            area = withheld("roc_auc", "only one class has been observed", n)
        else:
            area = figure("roc_auc", auc.value, (auc.low, auc.high), n, "DeLong on the log-odds")
        return [
            area,
            _mean("log_loss", self._log_loss),
            _mean("brier", self._brier),
            *self._calibration_error(),
        ]

    def _calibration_error(self) -> list[Figure]:
        weight, sum_p, sum_y, weight2 = self._reliability[self._reliability[:, 0] > 0].T
        share = weight / weight.sum()
        mean_p, mean_y = sum_p / weight, sum_y / weight
        size = weight * weight / weight2
        value = float((share * abs(mean_y - mean_p)).sum())
        spread = float((share**2 * mean_y * (1 - mean_y) / size).sum())
        noise = float((share * np.sqrt(2 / np.pi * mean_p * (1 - mean_p) / size)).sum())
        low, high = interval.normal(value, spread)
        n = self._brier.effective
        return [
            figure("ece", value, (max(0.0, low), min(1.0, high)), n, "delta"),
            figure("ece_noise", noise, (noise, noise), n, "expectation under perfect calibration"),
        ]

    def state(self) -> states.State:
        """Plain values; `from_state` restores the tally."""
        return {
            "task": self.task,
            "rows": self.rows,
            "unusable": dict(self.unusable),
            "confusion": [float(v) for v in self.confusion.ravel()],
            "soft": self._soft,
            "scores": self.scores.state(),
            "log_loss": self._log_loss.state(),
            "brier": self._brier.state(),
            "reliability": [float(v) for v in self._reliability.ravel()],
        }

    @classmethod
    def from_state(cls, state: states.State) -> Self:
        """The tally of a `state`; `ValueError` when it is none."""
        made = cls()
        made.rows = states.count(state, "rows")
        made.unusable = states.counter(state, "unusable")
        made.confusion = np.array(states.numbers(state, "confusion", 8)).reshape(4, 2)
        made._soft = states.count(state, "soft")
        made.scores = ScoreCells.from_state(states.entries(state, "scores"))
        made._log_loss = WeightedMean.from_state(states.entries(state, "log_loss"))
        made._brier = WeightedMean.from_state(states.entries(state, "brier"))
        made._reliability = np.array(states.numbers(state, "reliability", 4 * ECE_BINS)).reshape(-1, 4)
        return made


def _mean(name: str, mean: WeightedMean) -> Figure:
    low, high = interval.normal(mean.mean, mean.variance_of_mean())
    return figure(name, mean.mean, (max(0.0, low), high), mean.effective, "normal")


def _proportion(
    name: str, confusion: Floats, numerator: tuple[int, ...], denominator: tuple[int, ...]
) -> Figure:
    a, b = np.array(numerator, dtype=np.float64), np.array(denominator, dtype=np.float64)
    weight, weight2 = confusion.T
    total = float(weight @ b)
    if total <= 0:
        return withheld(name, _EMPTY[name])
    value = float(weight @ a) / total
    n = effective_size(value, total, float(weight2 @ (a - value * b) ** 2), float(weight2 @ b))
    return figure(name, value, interval.wilson(value * n, n), n, "Wilson")


def effective_size(value: float, total: float, squares: float, weight2: float) -> float:
    """The number of equally weighted rows that would know a proportion as well: value(1 − value)/variance.

    `squares` is Σw²(a − value·b)², so `squares`/`total`² is the linearised variance; Kish's size where
    that is nil.
    """
    if squares > 0 and 0 < value < 1:
        return value * (1 - value) * total * total / squares
    return total * total / weight2


def _f1(confusion: Floats) -> Figure:
    j = _proportion("f1", confusion, *_JACCARD)
    if j.value is None or j.low is None or j.high is None:
        return j
    value, low, high = (2 * v / (1 + v) for v in (j.value, j.low, j.high))
    return figure("f1", value, (low, high), j.n, "Wilson on tp/(tp+fp+fn)")
