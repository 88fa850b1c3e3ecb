"""Live rows of one stretch of time, counted against the reference in memory that does not grow with the
rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np

from app.domain import state as states
from app.domain.drift.cell import KINDS, Cell, Kind, Row, as_float, category_of, kind_of
from app.domain.drift.psi import Floats
from app.domain.drift.reference import Baseline, CategoryReference, FeatureReference, NumberReference

MAX_NEW = 50  # new categories, and new features, that are kept by name; further ones are only counted
_FURTHEST = 1e300  # a row's distance counts as no more, so that sums stay finite


class NumberCounts:
    """Live numbers of one feature: counts by the reference's fine bins, and how far they lie beyond its
    ends.
    """

    def __init__(self, reference: NumberReference) -> None:
        self.counts: Floats = np.zeros(len(reference.counts))
        self.below = self.above = 0  # rows beyond the reference's smallest and largest number
        self.below_by = self.above_by = 0.0  # sums of the distances
        self.kinds: Counter[Kind] = Counter()

    def add(self, values: Sequence[Cell], reference: NumberReference) -> None:
        self.kinds.update(kind_of(v) for v in values)
        numbers = np.array([as_float(v) for v in values if kind_of(v) == "number"])
        if len(numbers) == 0:
            return
        self.counts += np.bincount(reference.bin_of(numbers), minlength=len(self.counts))
        lowest, highest = float(reference.edges[0]), float(reference.edges[-1])
        under, over = numbers[numbers < lowest], numbers[numbers > highest]
        self.below += len(under)
        self.above += len(over)
        self.below_by += _apart(under, lowest)
        self.above_by += _apart(over, highest)

    def merge(self, other: NumberCounts) -> None:
        self.counts = self.counts + other.counts
        self.below += other.below
        self.above += other.above
        self.below_by += other.below_by
        self.above_by += other.above_by
        self.kinds += other.kinds

    def state(self) -> states.State:
        return {
            "counts": [float(c) for c in self.counts],
            "beyond": [self.below, self.above],
            "by": [self.below_by, self.above_by],
            "kinds": {str(kind): count for kind, count in self.kinds.items()},
        }

    def restore(self, state: states.State) -> None:
        self.counts = np.array(states.numbers(state, "counts", len(self.counts)))
        self.below, self.above = states.counts(state, "beyond", 2)
        self.below_by, self.above_by = states.numbers(state, "by", 2)
        self.kinds = _kinds(state)


def _apart(numbers: Floats, end: float) -> float:
    """The sum of their distances from an end. An infinity would swallow it; that counts as beyond, at no
    distance.
    """
    with np.errstate(over="ignore"):
        distances = abs(numbers[np.isfinite(numbers)] - end)
    return float(np.minimum(distances, _FURTHEST).sum())


class CategoryCounts:
    """Live categories of one feature; new ones by name up to a bound."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()  # of categories that the reference lists
        self.new: Counter[str] = Counter()
        self.unseen = 0  # rows whose category the reference does not list, named in `new` or not
        self.kinds: Counter[Kind] = Counter()

    def add(self, values: Sequence[Cell], reference: CategoryReference) -> None:
        self.kinds.update(kind_of(v) for v in values)
        for name, times in Counter(category_of(v) for v in values if kind_of(v) == reference.kind).items():
            if name in reference.counts:
                self.counts[name] += times
            else:
                self.unseen += times
                if name in self.new or len(self.new) < MAX_NEW:
                    self.new[name] += times

    def merge(self, other: CategoryCounts) -> None:
        self.counts += other.counts
        self.unseen += other.unseen
        self.kinds += other.kinds
        self.new = Counter(dict((self.new + other.new).most_common(MAX_NEW)))

    def state(self) -> states.State:
        return {
            "counts": dict(self.counts),
            "new": dict(self.new),
            "unseen": self.unseen,
            "kinds": {str(kind): count for kind, count in self.kinds.items()},
        }

    def restore(self, state: states.State) -> None:
        self.counts = states.counter(state, "counts")
        self.new = states.counter(state, "new")
        self.unseen = states.count(state, "unseen")
        self.kinds = _kinds(state)


class KindCounts:
    """A feature of which only the kinds are compared."""

    def __init__(self) -> None:
        self.kinds: Counter[Kind] = Counter()

    def add(self, values: Sequence[Cell]) -> None:
        self.kinds.update(kind_of(v) for v in values)

    def merge(self, other: KindCounts) -> None:
        self.kinds += other.kinds

    def state(self) -> states.State:
        return {"kinds": {str(kind): count for kind, count in self.kinds.items()}}

    def restore(self, state: states.State) -> None:
        self.kinds = _kinds(state)


LiveCounts = NumberCounts | CategoryCounts | KindCounts


def _kinds(state: states.State) -> Counter[Kind]:
    saved = states.counter(state, "kinds")
    return Counter({kind: saved[kind] for kind in KINDS if kind in saved})


def _empty(reference: FeatureReference) -> LiveCounts:
    if isinstance(reference, NumberReference):
        return NumberCounts(reference)
    return CategoryCounts() if isinstance(reference, CategoryReference) else KindCounts()


class LiveWindow:
    """Live rows of one window. `hours` of the week that it covers let it be held against the same hours
    of the reference.
    """

    def __init__(self, baseline: Baseline, name: str = "", hours: frozenset[int] = frozenset()) -> None:
        self.baseline = baseline
        self.name = name
        self.hours = hours
        self.rows = 0
        self.features: dict[str, LiveCounts] = {n: _empty(r) for n, r in baseline.features.items()}
        self.unknown: Counter[str] = Counter()  # features that the reference does not have

    def add(self, rows: Sequence[Row]) -> None:
        """Take in a batch; a feature that a row lacks is missing there."""
        self.rows += len(rows)
        for name, live in self.features.items():
            values = [row.get(name) for row in rows]
            reference = self.baseline.features[name]
            match live, reference:
                case NumberCounts(), NumberReference():
                    live.add(values, reference)
                case CategoryCounts(), CategoryReference():
                    live.add(values, reference)
                case KindCounts(), _:
                    live.add(values)
        for row in rows:
            for name in row.keys() - self.features.keys():
                if name in self.unknown or len(self.unknown) < MAX_NEW:
                    self.unknown[name] += 1

    def merge(self, other: LiveWindow) -> None:
        """Add another shard's rows; `ValueError` when it counts other features."""
        if other.features.keys() != self.features.keys():
            raise ValueError("windows of different baselines do not add up")
        self.rows += other.rows
        self.hours |= other.hours
        self.unknown = Counter(dict((self.unknown + other.unknown).most_common(MAX_NEW)))
        for name, live in self.features.items():
            theirs = other.features[name]
            match live, theirs:
                case NumberCounts(), NumberCounts():
                    live.merge(theirs)
                case CategoryCounts(), CategoryCounts():
                    live.merge(theirs)
                case KindCounts(), KindCounts():
                    live.merge(theirs)
                case _:
                    raise ValueError(f"feature {name!r} is counted in different ways")

    def state(self) -> states.State:
        """Plain values; `from_state` restores the window."""
        features: Mapping[str, states.State] = {name: live.state() for name, live in self.features.items()}
        return {
            "name": self.name,
            "hours": sorted(self.hours),
            "rows": self.rows,
            "unknown": dict(self.unknown),
            "features": features,
        }

    @classmethod
    def from_state(cls, baseline: Baseline, state: states.State) -> Self:
        """The window of a `state` made against this baseline; `ValueError` when it is none."""
        made = cls(baseline, states.text(state, "name"), frozenset(states.counts(state, "hours")))
        made.rows = states.count(state, "rows")
        made.unknown = states.counter(state, "unknown")
        saved = dict(states.nested(state, "features"))
        if saved.keys() != made.features.keys():
            raise ValueError("state field 'features' belongs to another baseline")
        for name, live in made.features.items():
            live.restore(saved[name])
        return made
