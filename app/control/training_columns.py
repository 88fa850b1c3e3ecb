"""The columns of a training set: typed once by the task and the first rows, so that every part of it has the same.

Nothing is lost: a feature that is unknown or does not fit its column stands, as JSON, in `more_features`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import pyarrow as pa

from app.control.ports import Row
from app.domain.outcome import as_binary, as_class

FIXED: tuple[tuple[str, Any], ...] = (
    ("prediction_id", pa.string()),
    ("model_version", pa.string()),
    ("timestamp", pa.timestamp("us", "UTC")),
    ("confidence", pa.float64()),
    ("ground_truth_timestamp", pa.timestamp("us", "UTC")),
    ("propensity", pa.float64()),
    ("review_propensity", pa.float64()),
    ("latency_ms", pa.float64()),
    ("age_days", pa.float64()),
    ("sample_weight", pa.float64()),
)


_NATURAL = {bool: pa.bool_(), int: pa.float64(), float: pa.float64()}


class Columns:
    """Columns `feature.<name>` for the features of the `first` rows."""

    def __init__(self, task: str, first: Sequence[Row]) -> None:
        self._answer = pa.float64() if task in ("binary", "regression") else pa.string()
        self._features = {name: _kind(first, name) for name in feature_names(first)}
        self.schema = pa.schema(
            [
                *FIXED,
                ("prediction", self._answer),
                ("ground_truth", self._answer),
                *((f"feature.{name}", kind) for name, kind in self._features.items()),
                ("more_features", pa.string()),
            ]
        )

    def table(self, rows: Sequence[Row]) -> pa.Table:
        """The rows in these columns."""
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


def _kind(rows: Sequence[Row], name: str) -> pa.DataType:
    """That of most values: a few odd ones do not turn a number into a text."""
    kinds: Counter[pa.DataType] = Counter()
    for row in rows:
        value = (row["features"] or {}).get(name)
        if value is not None:
            kinds[_NATURAL.get(type(value), pa.string())] += 1
    return kinds.most_common(1)[0][0] if kinds else pa.string()


def _fits(value: Any, kind: pa.DataType) -> bool:
    if pa.types.is_floating(kind):
        return type(value) in (int, float)
    return isinstance(value, bool if pa.types.is_boolean(kind) else str)


def _cell(value: Any, kind: pa.DataType) -> Any:
    """A prediction or ground truth as its column takes it: a number (a class of a binary task as 0 or 1),
    or a class name.
    """
    if value is None:
        return None
    if pa.types.is_string(kind):
        return as_class(value)
    if isinstance(value, (str, bool)):
        return as_binary(value)
    return value
