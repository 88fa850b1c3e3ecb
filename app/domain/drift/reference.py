"""The reference: each feature's distribution in the data that live rows are held against. Made once, then
only read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import frexp
from typing import Self

import numpy as np
from numpy.typing import NDArray

from app.domain import state as states
from app.domain.drift.cell import KINDS, Cell, Kind, Row, as_float, category_of, kind_of
from app.domain.drift.psi import Floats

FINE = 200  # quantile bins kept of a number
COARSE = 10  # bins of PSI, each with about a tenth of the reference
MAX_CATEGORIES = 1000  # kept of a categorical feature, the most frequent
HOURS = 168  # of a week
_LARGE = 1e100  # beyond it squares and sums would not stay finite


@dataclass(frozen=True, slots=True)
class NumberReference:
    """A number's distribution. `counts` (e + 1,) of values by `edges` (e,), bin i holding those in (eᵢ₋₁,
    eᵢ].
    """

    edges: Floats
    counts: Floats
    mean: float
    sigma: float
    kinds: Mapping[Kind, int]
    hourly: Mapping[int, Floats] = field(default_factory=dict)  # coarse counts by hour of the week

    @property
    def rows(self) -> int:
        """Rows that hold a number."""
        return int(self.counts.sum())

    @property
    def finite(self) -> bool:
        """Whether any number is; of infinities alone there is no mean, no deviation, and no end."""
        return bool(self.counts[:-1].any())

    def bin_of(self, values: Floats) -> NDArray[np.intp]:
        """The fine bin of each value."""
        return np.searchsorted(self.edges, values, side="left").astype(np.intp)

    def groups(self) -> NDArray[np.intp]:
        """The coarse bin of each fine bin: neighbours joined to about a tenth of the reference each."""
        need = self.counts.sum() / COARSE
        group = np.zeros(len(self.counts), dtype=np.intp)
        current, held = 0, 0.0
        for i, count in enumerate(self.counts):
            if held and held + count / 2 > need:  # nearer to a tenth without it
                current, held = current + 1, 0.0
            group[i] = current
            held += float(count)
        if current and held < need / 2:
            group[group == current] = current - 1
        return group

    def coarse(self, counts: Floats) -> Floats:
        """Fine counts joined to coarse ones."""
        group = self.groups()
        return np.bincount(group, counts, int(group[-1]) + 1).astype(np.float64)


@dataclass(frozen=True, slots=True)
class CategoryReference:
    """A categorical feature's counts; `rest` counts rows of categories beyond the `MAX_CATEGORIES` most
    frequent.
    """

    counts: Mapping[str, int]
    rest: int
    kinds: Mapping[Kind, int]
    kind: Kind = "text"

    @property
    def rows(self) -> int:
        """Rows that hold a category."""
        return sum(self.counts.values()) + self.rest


@dataclass(frozen=True, slots=True)
class OtherReference:
    """A feature of lists or objects, or one that was always missing: only its kinds can be compared."""

    kinds: Mapping[Kind, int]

    @property
    def rows(self) -> int:
        """Rows that hold anything."""
        return sum(self.kinds.values()) - self.kinds.get("missing", 0)


FeatureReference = NumberReference | CategoryReference | OtherReference


def describe(values: Sequence[Cell], hours: Sequence[int] = ()) -> FeatureReference:
    """The reference of one feature, by its most frequent kind; `hours` of the week (0..167) for each
    value, or none.
    """
    kinds: Counter[Kind] = Counter(kind_of(v) for v in values)
    present = [kind for kind in KINDS if kind != "missing" and kinds[kind]]
    main: Kind = max(present, key=lambda kind: kinds[kind], default="missing")
    if main == "number":
        return _describe_number(values, hours, kinds)
    if main == "text" or main == "truth":
        counts = Counter(category_of(v) for v in values if kind_of(v) == main)
        kept = dict(counts.most_common(MAX_CATEGORIES))
        return CategoryReference(kept, counts.total() - sum(kept.values()), kinds, main)
    return OtherReference(kinds)


def _describe_number(
    values: Sequence[Cell], hours: Sequence[int], kinds: Mapping[Kind, int]
) -> NumberReference:
    chosen = [i for i, v in enumerate(values) if kind_of(v) == "number"]
    numbers = np.array([as_float(values[i]) for i in chosen])
    finite = numbers[np.isfinite(numbers)]
    if len(finite) == 0:
        return NumberReference(np.zeros(1), np.array([0.0, float(len(numbers))]), 0.0, 0.0, kinds)
    # Order statistics, not interpolated: an edge is a value that occurs, so atoms stay whole.
    edges = np.unique(np.quantile(finite, np.linspace(0, 1, FINE + 1), method="inverted_cdf"))
    unit = unit_of(finite)
    mean, sigma = float((finite / unit).mean() * unit), float((finite / unit).std() * unit)
    made = NumberReference(edges, np.zeros(len(edges) + 1), mean, sigma, kinds)
    bins = made.bin_of(numbers)
    counts = np.bincount(bins, minlength=len(edges) + 1).astype(np.float64)
    made = NumberReference(edges, counts, made.mean, made.sigma, kinds)
    if not hours:
        return made
    group = made.groups()
    when = np.array([hours[i] for i in chosen])
    hourly = {
        int(hour): np.bincount(group[bins[when == hour]], minlength=int(group[-1]) + 1).astype(np.float64)
        for hour in np.unique(when)
    }
    return NumberReference(edges, counts, made.mean, made.sigma, kinds, hourly)


def unit_of(numbers: Floats) -> float:
    """What to reckon in, so that squares and sums of these finite numbers stay finite: 1, or for very large ones
    the power of two below the largest, by which dividing loses no digit.
    """
    largest = float(abs(numbers).max(initial=0.0))
    return 1.0 if largest <= _LARGE else 2.0 ** (frexp(largest)[1] - 1)


@dataclass(frozen=True, slots=True)
class Baseline:
    """All features' references and the number of rows they were made from."""

    features: Mapping[str, FeatureReference]
    rows: int

    @classmethod
    def from_rows(cls, rows: Iterable[Row], hours: Sequence[int] = ()) -> Self:
        """Made from whole rows, kept in memory meanwhile; a feature that a row lacks is missing there."""
        kept = list(rows)
        if hours and len(hours) != len(kept):
            raise ValueError(f"{len(hours)} hours for {len(kept)} rows")
        names = sorted({name for row in kept for name in row})
        return cls({name: describe([row.get(name) for row in kept], hours) for name in names}, len(kept))

    def state(self) -> states.State:
        """Plain values; `from_state` restores the baseline."""
        return {"rows": self.rows, "features": {n: _saved(f) for n, f in self.features.items()}}

    @classmethod
    def from_state(cls, state: states.State) -> Self:
        """The baseline of a `state`; `ValueError` when it is none."""
        return cls(
            {name: _restored(saved) for name, saved in states.nested(state, "features")},
            states.count(state, "rows"),
        )


def hour_of_week(unix_s: float) -> int:
    """0..167 in UTC, 0 being Monday 0:00 to 1:00."""
    return int(unix_s // 3600 + 72) % HOURS  # the epoch was a Thursday


def _saved(reference: FeatureReference) -> states.State:
    kinds: dict[str, states.Value] = {str(kind): count for kind, count in reference.kinds.items()}
    match reference:
        case NumberReference():
            return {
                "type": "number",
                "kinds": kinds,
                "edges": [float(e) for e in reference.edges],
                "counts": [float(c) for c in reference.counts],
                "moments": [reference.mean, reference.sigma],
                "hourly": {str(h): [float(c) for c in counts] for h, counts in reference.hourly.items()},
            }
        case CategoryReference():
            return {
                "type": "category",
                "kinds": kinds,
                "kind": reference.kind,
                "counts": dict(reference.counts),
                "rest": reference.rest,
            }
        case OtherReference():
            return {"type": "other", "kinds": kinds}


def _restored(state: states.State) -> FeatureReference:
    saved = states.counter(state, "kinds")
    kinds: dict[Kind, int] = {kind: saved[kind] for kind in KINDS if kind in saved}
    match states.text(state, "type"):
        case "number":
            edges = np.array(states.numbers(state, "edges"))
            counts = np.array(states.numbers(state, "counts", len(edges) + 1))
            mean, sigma = states.numbers(state, "moments", 2)
            hourly = states.entries(state, "hourly")
            kept = {int(hour): np.array(states.numbers(hourly, hour)) for hour in hourly}
            return NumberReference(edges, counts, mean, sigma, kinds, kept)
        case "category":
            kind: Kind = "truth" if states.text(state, "kind") == "truth" else "text"
            return CategoryReference(
                states.counter(state, "counts"), states.count(state, "rest"), kinds, kind
            )
        case "other":
            return OtherReference(kinds)
        case unknown:
            raise ValueError(f"state field 'type' is {unknown!r}")
