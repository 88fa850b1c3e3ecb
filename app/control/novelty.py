"""How little the rows that a model was made from tell about a new one: the local outlier factor (Breunig et
al., SIGMOD 2000).

Slow enough for a thread. Features are encoded the same way for reference and candidates; features that the
reference lacks do not count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Features = Mapping[str, Any]

NEIGHBOURS = 20
MIN_REFERENCE = 100
MAX_CATEGORIES = 20  # of a feature; rarer ones share a column
MAX_COLUMNS = 500
LARGEST = 1e100  # a number beyond is taken for it: squares and their sums must be finite
FURTHEST = 100.0  # deviations: beyond it further is not stranger, and squares would overflow


@dataclass(frozen=True, slots=True)
class Encoding:
    """Numbers in standard deviations, categories as 0 or 1, missing numbers at the mean with a column of
    their own.
    """

    numbers: tuple[tuple[str, float, float], ...]  # name, mean, deviation
    categories: tuple[tuple[str, tuple[str, ...]], ...]

    @classmethod
    def of(cls, rows: Sequence[Features]) -> Encoding:
        """Learned from the reference."""
        numbers, categories = [], []
        for name in sorted({name for row in rows for name in row}):
            values = [row.get(name) for row in rows]
            known = [number for value in values if (number := _number(value)) is not None]
            if len(known) * 2 >= len([value for value in values if value is not None]) and known:
                spread = float(np.std(known))
                numbers.append((name, float(np.mean(known)), spread if spread > 0 else 1.0))
            else:
                counts = Counter(_category(value) for value in values if value is not None)
                categories.append((name, tuple(label for label, _ in counts.most_common(MAX_CATEGORIES))))
        return cls(tuple(numbers[:MAX_COLUMNS]), tuple(categories[:MAX_COLUMNS]))

    def matrix(self, rows: Sequence[Features]) -> Floats:
        """Shape (rows, columns)."""
        columns: list[Floats] = []
        for name, mean, spread in self.numbers:
            numbers = [_number(row.get(name)) for row in rows]
            apart = np.array([0.0 if number is None else number - mean for number in numbers])
            with np.errstate(over="ignore"):  # beyond the furthest in any case
                columns.append(np.clip(apart / spread, -FURTHEST, FURTHEST))
            columns.append(np.array([float(number is None) for number in numbers]))
        for name, labels in self.categories:
            given = [_category(value) if (value := row.get(name)) is not None else None for row in rows]
            columns += [np.array([float(one == label) for one in given]) for label in labels]
            columns.append(np.array([float(one is not None and one not in labels) for one in given]))
        return np.column_stack(columns) if columns else np.zeros((len(rows), 1))


def _number(value: Any) -> float | None:
    """None for what is none; as near to zero as its square has to be to stay finite."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        return None
    return float(min(max(value, -LARGEST), LARGEST))


def _category(value: Any) -> str:
    return str(value)[:100]


@dataclass(frozen=True, slots=True)
class Density:
    """How densely the reference's `rows` lie where."""

    rows: int
    _encoding: Encoding
    _model: Any  # scikit-learn's

    @classmethod
    def fit(cls, reference: Sequence[Features]) -> Density | None:
        """None while the reference is too small, or holds no features."""
        if len(reference) < MIN_REFERENCE or not any(reference):
            return None
        from sklearn.neighbors import LocalOutlierFactor

        encoding = Encoding.of(reference)
        model = LocalOutlierFactor(n_neighbors=NEIGHBOURS, novelty=True)
        model.fit(encoding.matrix(reference))
        return cls(len(reference), encoding, model)

    def scores(self, candidates: Sequence[Features]) -> list[float | None]:
        """One for each: about 1 where the reference is as dense as around its neighbours, larger where it is
        thinner.
        """
        if not candidates:
            return []
        found = -self._model.score_samples(self._encoding.matrix(candidates))
        return [float(score) if isfinite(score) else None for score in found]
