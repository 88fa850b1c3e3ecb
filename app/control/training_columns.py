"""The columns of a training set: typed once by the task and the first rows, so that every part of it has the same.

Nothing is lost: a feature that is unknown or does not fit its column stands, as JSON, in `more_features`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any

import msgspec

from app.control.ports import Row
from app.domain.outcome import as_binary, as_class

if TYPE_CHECKING:
    import pyarrow as pa


class Kind(Enum):
    """What a column holds."""

    TEXT = "text"
    NUMBER = "number"
    TRUTH = "truth"
    INSTANT = "instant"


FIXED: tuple[tuple[str, Kind], ...] = (
    ("prediction_id", Kind.TEXT),
    ("model_version", Kind.TEXT),
    ("timestamp", Kind.INSTANT),
    ("confidence", Kind.NUMBER),
    ("ground_truth_timestamp", Kind.INSTANT),
    ("propensity", Kind.NUMBER),
    ("review_propensity", Kind.NUMBER),
    ("latency_ms", Kind.NUMBER),
    ("age_days", Kind.NUMBER),
    ("sample_weight", Kind.NUMBER),
)


_NATURAL = {bool: Kind.TRUTH, int: Kind.NUMBER, float: Kind.NUMBER}


class Columns:
    """Columns `feature.<name>` for the features of the `first` rows."""

    def __init__(self, task: str, first: Sequence[Row]) -> None:
        import pyarrow as pa  # large, and few gateways ever write Parquet

        self._answer = Kind.NUMBER if task in ("binary", "regression") else Kind.TEXT
        self._features = {name: _kind(first, name) for name in feature_names(first)}
        types = {
            Kind.TEXT: pa.string(),
            Kind.NUMBER: pa.float64(),
            Kind.TRUTH: pa.bool_(),
            Kind.INSTANT: pa.timestamp("us", "UTC"),
        }
        columns = [
            *FIXED,
            ("prediction", self._answer),
            ("ground_truth", self._answer),
            *((f"feature.{name}", kind) for name, kind in self._features.items()),
            ("more_features", Kind.TEXT),
        ]
        self.schema = pa.schema([(name, types[kind]) for name, kind in columns])

    def table(self, rows: Sequence[Row]) -> pa.Table:
        """The rows in these columns."""
        import pyarrow as pa

        columns: list[list[Any]] = [[] for _ in self.schema]
        for row in rows:
            for column, value in zip(columns, self._cells(row), strict=True):
                column.append(value)
        arrays = [pa.array(values, field.type) for values, field in zip(columns, self.schema, strict=True)]
        return pa.Table.from_arrays(arrays, schema=self.schema)

    def _cells(self, row: Row) -> list[Any]:
        cells = [row[name] for name, _ in FIXED]
        cells += [_cell(row["prediction"], self._answer), _cell(row["ground_truth"], self._answer)]
        more = dict(row["features"] or {})
        for name, kind in self._features.items():
            fits = _fits(more.get(name), kind)
            cells.append(more.pop(name, None) if fits else None)
        cells.append(as_json(more) if more else None)
        return cells


def feature_names(rows: Sequence[Row]) -> list[str]:
    """All of them, in order of the alphabet."""
    return sorted({name for row in rows for name in (row["features"] or {})})


def as_json(value: Any) -> str:
    """For cells that no column has a type for."""
    return msgspec.json.encode(value).decode()


def _kind(rows: Sequence[Row], name: str) -> Kind:
    """That of most values: a few odd ones do not turn a number into a text."""
    kinds: Counter[Kind] = Counter()
    for row in rows:
        value = (row["features"] or {}).get(name)
        if value is not None:
            kinds[_NATURAL.get(type(value), Kind.TEXT)] += 1
    return kinds.most_common(1)[0][0] if kinds else Kind.TEXT


def _fits(value: Any, kind: Kind) -> bool:
    if kind is Kind.NUMBER:
        return type(value) in (int, float)
    return isinstance(value, bool if kind is Kind.TRUTH else str)


def _cell(value: Any, kind: Kind) -> Any:
    """A prediction or ground truth as its column takes it: a number (a class of a binary task as 0 or 1),
    or a class name.
    """
    if value is None:
        return None
    if kind is Kind.TEXT:
        return as_class(value)
    if isinstance(value, (str, bool)):
        return as_binary(value)
    return value
