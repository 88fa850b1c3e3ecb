"""How two versions' predictions for the same input differ, one pair at a time and in sum.

An agreement rate alone hides what matters most: a version that agrees on 95 % and fails badly on the rest
is not safe. So a summary keeps quantiles of the difference, the share beyond several thresholds and the
worst cases with their ids. Standard library only; a pair that cannot be compared is counted as such and
never as agreement.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf, isfinite, isnan
from typing import Self, TypeAlias

from app.domain import state as states
from app.domain.interval import wilson
from app.domain.quantiles import Quantiles

Prediction: TypeAlias = "float | str | bool | Sequence[Prediction] | None"

DEFAULT_THRESHOLD = 0.05
_MAX_DEPTH = 16


@dataclass(frozen=True, slots=True)
class Comparison:
    """`difference` is shadow − production where both are finite numbers; `agreement` is None when nothing
    can be said.

    For a list the difference is the element's that lies furthest apart, and agreement that of all elements.
    """

    difference: float | None
    agreement: bool | None
    reason: str


def apart(
    production: Prediction, shadow: Prediction, threshold: float = DEFAULT_THRESHOLD
) -> tuple[float | None, bool | None]:
    """Difference and agreement as `compare` gives them, without the words."""
    if type(production) is float and type(shadow) is float:
        difference = shadow - production
        if isfinite(difference):
            return difference, _agree(difference, threshold)
    comparison = compare(production, shadow, threshold)
    return comparison.difference, comparison.agreement


def compare(production: Prediction, shadow: Prediction, threshold: float = DEFAULT_THRESHOLD) -> Comparison:
    """Compare two predictions. Numbers agree when |difference| < threshold, as in the source text, and when they
    are equal, whatever the threshold; labels when equal.

    NaN against NaN agrees (both versions refuse alike), NaN or an infinity against anything else does
    not. A missing prediction, or lists nested deeper than 16, cannot be compared.
    """
    return _compare(production, shadow, threshold, 0)


def _compare(production: Prediction, shadow: Prediction, threshold: float, depth: int) -> Comparison:
    if production is None or shadow is None:
        missing = " and ".join(n for n, v in (("production", production), ("shadow", shadow)) if v is None)
        return Comparison(None, None, f"no {missing} prediction")
    if isinstance(production, str) or isinstance(shadow, str):
        if isinstance(production, str) and isinstance(shadow, str):
            return _labels(production == shadow)
        return Comparison(None, False, "a label against another type")
    if isinstance(production, (bool, int, float)) and isinstance(shadow, (bool, int, float)):
        if isinstance(production, bool) or isinstance(shadow, bool):
            return _labels(production == shadow)
        return _numbers(_as_float(production), _as_float(shadow), threshold)
    if isinstance(production, Sequence) and isinstance(shadow, Sequence):
        return _lists(production, shadow, threshold, depth)
    return Comparison(None, False, "a list against a single value")


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer beyond the range of float
        return inf if value > 0 else -inf


def _labels(same: bool) -> Comparison:
    return Comparison(None, same, "same label" if same else "labels differ")


def _numbers(production: float, shadow: float, threshold: float) -> Comparison:
    if isnan(production) and isnan(shadow):
        return Comparison(None, True, "both are NaN")
    if isnan(production) or isnan(shadow):
        return Comparison(None, False, f"{'production' if isnan(production) else 'shadow'} is NaN")
    if not (isfinite(production) and isfinite(shadow)):
        same = production == shadow
        return Comparison(0.0 if same else None, same, "same infinity" if same else "not finite")
    difference = shadow - production
    if not isfinite(difference):  # finite numbers of opposite sign near the end of the range
        return Comparison(None, False, "difference overflows")
    if difference == 0.0:
        return Comparison(difference, True, "equal")
    agreement = _agree(difference, threshold)
    return Comparison(difference, agreement, f"|{difference:.6g}| {'<' if agreement else '>='} {threshold:g}")


def _agree(difference: float, threshold: float) -> bool:
    return difference == 0.0 or abs(difference) < threshold


def _lists(
    production: Sequence[Prediction], shadow: Sequence[Prediction], threshold: float, depth: int
) -> Comparison:
    if len(production) != len(shadow):
        return Comparison(None, False, f"{len(production)} elements against {len(shadow)}")
    if depth >= _MAX_DEPTH:
        return Comparison(None, None, "nested too deep to compare")
    worst: float | None = None
    untold = 0
    first_apart = ""
    for place, (a, b) in enumerate(zip(production, shadow, strict=True)):
        one = _compare(a, b, threshold, depth + 1)
        if one.difference is not None and (worst is None or abs(one.difference) > abs(worst)):
            worst = one.difference
        if one.agreement is None:
            untold += 1
        elif not one.agreement and not first_apart:
            first_apart = f"element {place}: {one.reason}"
    if first_apart:
        return Comparison(worst, False, first_apart)
    if untold:
        return Comparison(worst, None, f"{untold} of {len(production)} elements cannot be compared")
    return Comparison(worst, True, "all elements agree")


@dataclass(frozen=True, slots=True, order=True)
class WorstCase:
    """A disagreeing pair. `severity` is |difference|, infinite where there is none to give."""

    severity: float
    prediction_id: str
    difference: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class ComparisonSummary:
    """What is known of all pairs. Rates are of the compared pairs and None when there are none; tails of
    those with a number.
    """

    pairs: int
    compared: int
    agreed: int
    agreement_rate: float | None
    agreement_interval: tuple[float, float]  # Wilson, 95 %
    differences: int  # pairs with a numeric difference
    mean_difference: float | None  # signed: shadow − production
    difference_quantiles: dict[str, float]  # signed, by quantile, e.g. "0.5"
    absolute_quantiles: dict[str, float]
    tails: dict[str, float]  # share with |difference| > τ, by τ
    worst: tuple[WorstCase, ...]  # worst first


QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)


class Comparisons:
    """A stream of comparisons in constant memory. `taus` are the thresholds of the tails, `keep` the
    number of worst cases.

    Merging is exact and independent of order, but for the mean's rounding and the sketch's 1 % of each
    quantile.
    """

    def __init__(self, taus: Iterable[float] = (0.05, 0.1, 0.2, 0.5, 1.0), keep: int = 20) -> None:
        self.taus = tuple(sorted(taus))
        self.keep = keep
        self._pairs = self._compared = self._agreed = 0
        self._sum = 0.0
        self._signed = Quantiles()
        self._absolute = Quantiles()
        self._beyond = [0] * len(self.taus)
        self._worst: list[WorstCase] = []  # a heap with the mildest on top

    def add(self, prediction_id: str, comparison: Comparison) -> None:
        """Take in one pair."""
        self._pairs += 1
        if comparison.agreement is not None:
            self._compared += 1
            self._agreed += comparison.agreement
        difference = comparison.difference
        if difference is not None:
            self._sum += difference
            self._signed.add(difference)
            self._absolute.add(abs(difference))
            for i, tau in enumerate(self.taus):
                if abs(difference) <= tau:
                    break
                self._beyond[i] += 1
        if comparison.agreement is False:
            severity = inf if difference is None else abs(difference)
            self._remember(WorstCase(severity, prediction_id, difference, comparison.reason))

    def _remember(self, case: WorstCase) -> None:
        # Ordered by severity, then id, so that which cases are kept does not depend on the order of arrival.
        if self.keep <= 0:
            return
        if len(self._worst) < self.keep:
            heapq.heappush(self._worst, case)
        elif case > self._worst[0]:
            heapq.heapreplace(self._worst, case)

    def merge(self, other: Comparisons) -> None:
        """Add another shard's pairs; `ValueError` when its thresholds differ."""
        if other.taus != self.taus:
            raise ValueError(f"thresholds differ: {self.taus} and {other.taus}")
        self._pairs += other._pairs
        self._compared += other._compared
        self._agreed += other._agreed
        self._sum += other._sum
        self._signed.merge(other._signed)
        self._absolute.merge(other._absolute)
        self._beyond = [a + b for a, b in zip(self._beyond, other._beyond, strict=True)]
        for case in other._worst:
            self._remember(case)

    def summary(self) -> ComparisonSummary:
        """All figures as of now."""
        numbers = self._signed.count
        return ComparisonSummary(
            pairs=self._pairs,
            compared=self._compared,
            agreed=self._agreed,
            agreement_rate=self._agreed / self._compared if self._compared else None,
            agreement_interval=wilson(self._agreed, self._compared),
            differences=numbers,
            mean_difference=self._sum / numbers if numbers else None,
            difference_quantiles=_table(self._signed),
            absolute_quantiles=_table(self._absolute),
            tails={f"{t:g}": n / numbers for t, n in zip(self.taus, self._beyond, strict=True)}
            if numbers
            else {},
            worst=tuple(sorted(self._worst, reverse=True)),
        )

    def state(self) -> states.State:
        """Plain values; `from_state` restores the stream."""
        return {
            "taus": list(self.taus),
            "keep": self.keep,
            "counts": [self._pairs, self._compared, self._agreed, *self._beyond],
            "sum": self._sum,
            "signed": self._signed.state(),
            "absolute": self._absolute.state(),
            "worst": [
                {"prediction_id": c.prediction_id, "difference": c.difference, "reason": c.reason}
                for c in self._worst
            ],
        }

    @classmethod
    def from_state(cls, state: states.State) -> Self:
        """The stream of a `state`; `ValueError` when it is none."""
        made = cls(states.numbers(state, "taus"), states.count(state, "keep"))
        saved = states.counts(state, "counts", 3 + len(made.taus))
        made._pairs, made._compared, made._agreed, *made._beyond = saved
        made._sum = states.number(state, "sum")
        made._signed = Quantiles.from_state(states.entries(state, "signed"))
        made._absolute = Quantiles.from_state(states.entries(state, "absolute"))
        for item in states.items(state, "worst"):
            case = states.as_state(item, "worst")
            known = case.get("difference") is not None
            difference = states.number(case, "difference") if known else None
            severity = inf if difference is None else abs(difference)
            reason = states.text(case, "reason")
            made._remember(WorstCase(severity, states.text(case, "prediction_id"), difference, reason))
        return made


def _table(sketch: Quantiles) -> dict[str, float]:
    found = ((q, sketch.quantile(q)) for q in QUANTILES)
    return {f"{q:g}": value for q, value in found if value is not None}
