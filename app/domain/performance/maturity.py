"""Which predictions may be scored, and how complete their labels are.

Labels come late, and often sooner for one class than for the other, so the labels known of young
predictions are a biased sample. Only cohorts older than the horizon are scored; two versions are compared
over predictions of the same age; and figures are withheld while too few of the mature predictions are
labelled.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from app.domain import state as states
from app.domain.interval import wilson
from app.domain.performance.figure import Figure, withheld

TENTHS = tuple(i / 10 for i in range(1, 10))


@dataclass(frozen=True, slots=True)
class Window:
    """Predictions from `since` to before `until`, seconds since the epoch."""

    since: float
    until: float

    @property
    def empty(self) -> bool:
        """Whether no time lies in it."""
        return self.until <= self.since


def is_mature(predicted_at: float, now: float, horizon_s: float) -> bool:
    """Whether a prediction is as old as the label horizon."""
    return now - predicted_at >= horizon_s


def mature_window(since: float, until: float, now: float, horizon_s: float) -> Window:
    """The part of a window whose predictions are all mature."""
    return Window(since, min(until, now - horizon_s))


def common_window(arms: Mapping[str, Window], now: float, horizon_s: float) -> tuple[Window, str]:
    """The mature time in which every arm answered, so that all are scored at the same age; with the
    reason.
    """
    if not arms:
        return Window(0.0, 0.0), "no versions to compare"
    since = max(w.since for w in arms.values())
    both = Window(since, min(w.until for w in arms.values()))
    if both.empty:
        return both, f"{' and '.join(sorted(arms))} never answered at the same time"
    mature = mature_window(both.since, both.until, now, horizon_s)
    if mature.empty:
        return mature, f"nothing that all answered is {horizon_s:.0f} s old yet"
    return mature, "mature and common to all"


@dataclass(frozen=True, slots=True)
class CoverageCell:
    """Labelled predictions of one part; `share` with Wilson's interval, None for no predictions."""

    part: str
    predictions: int
    labelled: int
    share: float | None
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class CoverageReport:
    """`mature` is over all versions. `uneven` is the p-value of equal coverage over scores; small: labels
    are selected.
    """

    mature: CoverageCell
    by_version: tuple[CoverageCell, ...]  # mature only
    by_score: tuple[CoverageCell, ...]  # mature only, by score range
    by_age: tuple[CoverageCell, ...]  # all, by periods of age from the youngest
    uneven: float | None


class CoverageTally:
    """Counts of predictions and labels by version, period of prediction and range of score; grows with
    periods only.

    `edges` are the inner boundaries of the score ranges, say deciles of the reference scores; tenths by
    default.
    """

    def __init__(self, period_s: float = 86_400.0, edges: Sequence[float] = TENTHS) -> None:
        if not period_s > 0:
            raise ValueError(f"period_s must be positive, but is {period_s}")
        self.period_s = period_s
        self.edges = tuple(sorted(edges))
        self._cells: dict[tuple[str, int, int], list[int]] = {}  # -> predictions, labelled

    def predicted(self, version: str, at: float, score: float | None, times: int = 1) -> None:
        """Count predictions made at a time (seconds since the epoch); a score that is None or NaN has its
        own range.
        """
        self._cell(version, at, score)[0] += times

    def labelled(self, version: str, at: float, score: float | None, times: int = 1) -> None:
        """Count labels by the time and score of their prediction; a correction is not counted again."""
        self._cell(version, at, score)[1] += times

    def _cell(self, version: str, at: float, score: float | None) -> list[int]:
        place = -1 if score is None or score != score else bisect_right(self.edges, score)
        return self._cells.setdefault((version, int(at // self.period_s), place), [0, 0])

    def merge(self, other: CoverageTally) -> None:
        """Add another tally's counts; `ValueError` when its periods or ranges differ."""
        if (other.period_s, other.edges) != (self.period_s, self.edges):
            raise ValueError("periods or score ranges differ")
        for key, (predictions, labels) in other._cells.items():
            cell = self._cells.setdefault(key, [0, 0])
            cell[0] += predictions
            cell[1] += labels

    def forget(self, before: float) -> None:
        """Drop the periods that ended before a time."""
        self._cells = {k: c for k, c in self._cells.items() if (k[1] + 1) * self.period_s > before}

    def report(self, now: float, horizon_s: float) -> CoverageReport:
        """Coverage as of now; a period is mature when its youngest prediction is."""
        versions: dict[str, list[list[int]]] = {}
        places: dict[int, list[list[int]]] = {}
        ages: dict[int, list[list[int]]] = {}
        for (version, period, place), cell in sorted(self._cells.items()):
            ages.setdefault(int((now - period * self.period_s) // self.period_s), []).append(cell)
            if now - (period + 1) * self.period_s >= horizon_s:
                versions.setdefault(version, []).append(cell)
                places.setdefault(place, []).append(cell)
        by_score = tuple(_cell(self._range(place), cells) for place, cells in sorted(places.items()))
        return CoverageReport(
            mature=_cell("all", [cell for cells in versions.values() for cell in cells]),
            by_version=tuple(_cell(version, cells) for version, cells in versions.items()),
            by_score=by_score,
            by_age=tuple(_cell(f"{a * self.period_s:.0f} s", cells) for a, cells in sorted(ages.items())),
            uneven=_uneven(by_score),
        )

    def _range(self, place: int) -> str:
        if place < 0:
            return "unknown"
        low = f"{self.edges[place - 1]:g}" if place else "-inf"
        high = f"{self.edges[place]:g}" if place < len(self.edges) else "inf"
        return f"{low}..{high}"

    def state(self) -> states.State:
        """Plain values; `from_state` restores the tally."""
        cells: list[states.Value] = [
            [version, period, place, *counts] for (version, period, place), counts in self._cells.items()
        ]
        return {"period_s": self.period_s, "edges": list(self.edges), "cells": cells}

    @classmethod
    def from_state(cls, state: states.State) -> Self:
        """The tally of a `state`; `ValueError` when it is none."""
        made = cls(states.number(state, "period_s"), states.numbers(state, "edges"))
        for cell in states.items(state, "cells"):
            match cell:
                case [str(version), int(period), int(place), int(predictions), int(labels)]:
                    made._cells[version, period, place] = [predictions, labels]
                case _:
                    raise ValueError(f"state field 'cells' holds {cell!r}")
        return made


def _cell(part: str, cells: Iterable[Sequence[int]]) -> CoverageCell:
    counts = list(cells)
    predictions, labels = sum(c[0] for c in counts), sum(c[1] for c in counts)
    labels = min(labels, predictions)  # a label may be counted before its prediction
    low, high = wilson(labels, predictions)
    return CoverageCell(part, predictions, labels, labels / predictions if predictions else None, low, high)


def _uneven(cells: Sequence[CoverageCell]) -> float | None:
    """Pearson's χ² test that coverage is the same in all parts; None with fewer than two, or nothing to
    tell apart.
    """
    from scipy.special import chdtrc

    used = [c for c in cells if c.predictions]
    total, labels = sum(c.predictions for c in used), sum(c.labelled for c in used)
    if len(used) < 2 or labels in (0, total):
        return None
    share = labels / total
    statistic = sum(
        (c.labelled - c.predictions * share) ** 2 / (c.predictions * share * (1 - share)) for c in used
    )
    return float(chdtrc(len(used) - 1, statistic))


def covered(figures: Iterable[Figure], coverage: CoverageCell, minimum: float) -> tuple[Figure, ...]:
    """The figures, all withheld while less than `minimum` (0..1) of the mature predictions are labelled."""
    if coverage.share is not None and coverage.share >= minimum:
        return tuple(figures)
    if coverage.share is None:
        reason = "no prediction is mature yet"
    else:
        reason = f"{coverage.share:.1%} of mature predictions are labelled, {minimum:.1%} are needed"
    return tuple(withheld(f.name, reason, f.n) for f in figures)
