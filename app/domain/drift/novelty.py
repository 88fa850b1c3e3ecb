"""How unusual one row is against the reference, for review: the model may be sure and wrong where it has
seen nothing.

Each feature's value has a surprisal, −log of its share or density in the reference; what exceeds the
feature's ordinary surprisal by more than a margin adds to the score. Features are taken one by one, so a
combination that is unusual though each of its parts is common is not seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, log

import numpy as np

from app.domain.drift.cell import Cell, Kind, Row, as_float, category_of, kind_of
from app.domain.drift.reference import Baseline, CategoryReference, FeatureReference, NumberReference

MARGIN = 2.0  # nats above the ordinary that any row shows in some feature
_NARROWEST = 1e-3  # of a bin, in standard deviations: a repeated value is no infinite density


@dataclass(frozen=True, slots=True)
class Novelty:
    """`score` in nats, 0 for an ordinary row; `features` are those that add to it, most unusual first."""

    score: float
    features: tuple[tuple[str, float], ...]


class Rarity:
    """The reference's surprisals, worked out once for many rows."""

    def __init__(self, baseline: Baseline) -> None:
        self._features: dict[str, _Feature] = {}
        for name, reference in baseline.features.items():
            match reference:
                case NumberReference() if reference.rows:
                    self._features[name] = _Number(reference)
                case CategoryReference() if reference.rows:
                    self._features[name] = _Category(reference)
                case _:
                    self._features[name] = _Kinds(reference)

    def of(self, row: Row) -> Novelty:
        """The novelty of a row. Features that the reference lacks do not count: they are a drift finding."""
        beyond = [
            (name, excess)
            for name, feature in self._features.items()
            if (excess := feature.surprisal(row.get(name)) - feature.ordinary - MARGIN) > 0
        ]
        beyond.sort(key=lambda pair: pair[1], reverse=True)
        return Novelty(sum(excess for _, excess in beyond), tuple(beyond))


class _Kinds:
    """Surprisal of a value's kind; alone for features without a distribution, and for values of an odd
    kind.
    """

    def __init__(self, reference: FeatureReference) -> None:
        self._kinds: Mapping[Kind, int] = reference.kinds
        self._rows = sum(reference.kinds.values())
        shares = [count / self._rows for count in reference.kinds.values() if count]
        self.ordinary = -sum(p * log(p) for p in shares)

    def surprisal(self, value: Cell) -> float:
        return -log((self._kinds.get(kind_of(value), 0) + 0.5) / (self._rows + 1))


class _Number(_Kinds):
    def __init__(self, reference: NumberReference) -> None:
        super().__init__(reference)
        self._reference = reference
        self._unit = reference.sigma or 1.0
        counts = reference.counts.copy()
        if len(counts) > 2:  # the first bin holds the smallest value only: it belongs to its neighbour
            counts[1] += counts[0]
            counts[0] = 0
        widths = np.full(len(counts), _NARROWEST)
        widths[1:-1] = np.maximum(np.diff(reference.edges) / self._unit, _NARROWEST)
        self._surprisals = np.log(widths) - np.log((counts + 0.5) / (reference.rows + 1))
        self.ordinary += float(counts @ self._surprisals) / reference.rows

    def surprisal(self, value: Cell) -> float:
        found = super().surprisal(value)
        if kind_of(value) != "number":
            return found
        edges, number = self._reference.edges, as_float(value)
        beyond = max(float(edges[0]) - number, number - float(edges[-1]), 0.0) / self._unit
        if beyond > 0:
            distance = log(1 + beyond) if isfinite(beyond) else 100.0
            return found + log(2 * (self._reference.rows + 1)) + distance
        place = int(np.searchsorted(edges, number, side="left"))
        return found + float(self._surprisals[max(place, 1) if len(edges) > 1 else place])


class _Category(_Kinds):
    def __init__(self, reference: CategoryReference) -> None:
        super().__init__(reference)
        self._reference = reference
        self._total = reference.rows + 0.5 * (len(reference.counts) + 1)
        self.ordinary += sum(
            count / reference.rows * -log((count + 0.5) / self._total) for count in reference.counts.values()
        )

    def surprisal(self, value: Cell) -> float:
        found = super().surprisal(value)
        if kind_of(value) != self._reference.kind:
            return found
        count = self._reference.counts.get(category_of(value), 0)
        return found - log((count + 0.5) / self._total)


_Feature = _Kinds | _Number | _Category
