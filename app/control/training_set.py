"""Labelled rows streamed out for training, each with its `sample_weight`: recency times inverse
propensity. Constant memory.

The weight says how much a row should count, so that recent data lead without older patterns being lost,
and rows that were unlikely to be labelled, or of one version alone unlikely to be served by it, are not
under-represented.
"""

from __future__ import annotations

import asyncio
import csv
import io
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from math import inf
from typing import TYPE_CHECKING, Any

import msgspec

from app.control.ports import Row, Store
from app.control.training_columns import FIXED, Columns, as_json, feature_names
from app.domain import recency
from app.domain.model import Model
from app.errors import InvalidError, UnavailableError

if TYPE_CHECKING:
    import pyarrow as pa

FORMATS = {
    "csv": "text/csv; charset=utf-8",
    "ndjson": "application/x-ndjson",
    "parquet": "application/vnd.apache.parquet",
}
FALLBACK = "fallback"  # the role of production's answer where the canary had none: given with certainty
MAX_WEIGHT = 100.0  # of the inverse propensity: one row must not outweigh hundreds
PAUSES_S = (0.5, 2.0, 5.0)  # before the store is asked again for what it did not give
CHUNK = 1000  # rows weighed and written at a time
ROW_GROUP = 100_000  # rows at most,
ROW_GROUP_BYTES = 8 * 2**20  # and bytes before they are packed


@dataclass(frozen=True, slots=True)
class TrainingQuery:
    """What to export. `InvalidError` for what makes no sense."""

    model: Model
    version: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    half_life_days: float = 47.0
    flat_days: float = 7.0
    format: str = "csv"
    # Ages count from here, and what was received later does not count: the same again gives the same file.
    as_of: datetime | None = None

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise InvalidError(f"format: one of {', '.join(FORMATS)}")
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise InvalidError("since: must be before until")
        if self.version is not None and self.model.version(self.version) is None:
            raise InvalidError(f"version: {self.version!r} is no version of {self.model.name!r}")
        try:
            recency.weight(0.0, self.half_life_days, self.flat_days)
        except ValueError as error:
            raise InvalidError(str(error)) from None


async def export(query: TrainingQuery, store: Store, now: datetime) -> AsyncIterator[bytes]:
    """The file in pieces, oldest row first, as of now where the query does not say. An error of the store on
    the way is raised: the answer must break off, not end.
    """
    chunks = _weighted(query, store, query.as_of or now)
    first: list[Row] = await anext(chunks, [])
    write = _FORMS[query.format](query.model, first)
    yield await asyncio.to_thread(write.rows, first)
    async for chunk in chunks:
        if piece := await asyncio.to_thread(write.rows, chunk):
            yield piece
    if piece := await asyncio.to_thread(write.end):
        yield piece


async def manifest(query: TrainingQuery, store: Store, now: datetime) -> Row:
    """What an export as of `now` holds: its query, its rows by version, its weights, and the SHA-256 of
    its NDJSON form.
    """
    as_of = query.as_of or now
    digest, rows, total = sha256(), 0, 0.0
    versions: Counter[str] = Counter()
    smallest, largest = inf, 0.0
    encode = msgspec.json.Encoder().encode_lines
    async for chunk in _weighted(query, store, as_of):
        digest.update(await asyncio.to_thread(encode, chunk))
        rows += len(chunk)
        versions.update(str(row["model_version"]) for row in chunk)
        weights = [row["sample_weight"] for row in chunk]
        total += sum(weights)
        smallest, largest = min([smallest, *weights]), max([largest, *weights])
    return {
        "model": query.model.name,
        "query": {
            "version": query.version,
            "since": query.since,
            "until": query.until,
            "half_life_days": query.half_life_days,
            "flat_days": query.flat_days,
            "as_of": as_of,
        },
        "rows": rows,
        "by_version": dict(versions),
        "sample_weight": {"min": smallest if rows else None, "max": largest if rows else None, "sum": total},
        "sha256": digest.hexdigest(),
    }


async def _weighted(query: TrainingQuery, store: Store, as_of: datetime) -> AsyncIterator[list[Row]]:
    """Rows with their weights in chunks of one size, whatever else lies in the store: columns and row groups of
    a file follow from the chunks, and a repeated file must be the same.
    """
    model, end = query.model.name, as_of + timedelta(microseconds=1)
    until = end if query.until is None else min(query.until, end)
    waiting: list[Row] = []
    async for stored in _rows(store, model, query.since, until, query.version, as_of):
        waiting += stored
        while len(waiting) >= CHUNK:
            rows, waiting = waiting[:CHUNK], waiting[CHUNK:]
            yield _weigh(query, as_of, rows)
    if waiting:
        yield _weigh(query, as_of, waiting)


async def _rows(
    store: Store, model: str, since: datetime | None, until: datetime, version: str | None, as_of: datetime
) -> AsyncIterator[list[Row]]:
    """Rows with `review_propensity`. A store that falters in the middle does not spoil a file of millions of rows: it is asked again for
    what follows the last row.
    """
    last: tuple[datetime, str] | None = None
    pauses = iter(PAUSES_S)
    while True:
        try:
            async for rows in store.training_rows(model, since, until, version, as_of, last):
                picked = await store.review_propensities(model, [row["prediction_id"] for row in rows], as_of)
                for row in rows:
                    # Of a label that only a reviewer gave: as likely as its prediction was picked for review.
                    row["review_propensity"] = picked.get(row["prediction_id"])
                last, pauses = (rows[-1]["timestamp"], rows[-1]["prediction_id"]), iter(PAUSES_S)
                yield rows
            return
        except UnavailableError:
            pause = next(pauses, None)
            if last is None or pause is None:  # nothing was given yet: whoever asked can be told
                raise
            await asyncio.sleep(pause)


def _weigh(query: TrainingQuery, as_of: datetime, rows: list[Row]) -> list[Row]:
    for row in rows:
        age = max(0.0, (as_of - row["timestamp"]).total_seconds() / 86_400)
        if row.pop("role") == FALLBACK:  # older rows have the canary's, which did not answer
            row["propensity"] = 1.0
        review = row["review_propensity"]
        # Among the rows of all versions every request is there, whoever answered: none was unlikely.
        routed = 1.0 if query.version is None else row["propensity"]
        chance = routed * (1.0 if review is None else review)
        inverse = min(1.0 / chance, MAX_WEIGHT) if chance > 0 else MAX_WEIGHT
        row["age_days"] = age
        row["sample_weight"] = recency.weight(age, query.half_life_days, query.flat_days) * inverse
    return rows


class _Ndjson:
    """One object a line, `features` as they were."""

    def __init__(self, model: Model, first: Sequence[Row]) -> None:
        self._encode = msgspec.json.Encoder().encode_lines

    def rows(self, rows: Sequence[Row]) -> bytes:
        return self._encode(rows)

    def end(self) -> bytes:
        return b""


class _Csv:
    """Features under `feature.<name>`; those not known from the first rows together as JSON."""

    def __init__(self, model: Model, first: Sequence[Row]) -> None:
        self._features = feature_names(first)
        self._text = io.StringIO(newline="")
        columns = [name for name, _ in FIXED] + ["prediction", "ground_truth"]
        columns += [f"feature.{name}" for name in self._features] + ["more_features"]
        self._writer = csv.writer(self._text)
        self._writer.writerow(columns)

    def rows(self, rows: Sequence[Row]) -> bytes:
        for row in rows:
            features = dict(row["features"] or {})
            cells = [row[name] for name, _ in FIXED] + [row["prediction"], row["ground_truth"]]
            cells += [features.pop(name, None) for name in self._features]
            self._writer.writerow([_cell(value) for value in (*cells, features or None)])
        data = self._text.getvalue().encode()
        self._text.seek(0)
        self._text.truncate()
        return data

    def end(self) -> bytes:
        return b""


def _cell(value: Any) -> Any:
    """Times as RFC 3339, truth values and structures as in JSON."""
    if isinstance(value, datetime):
        return value.isoformat()
    return as_json(value) if isinstance(value, (bool, dict, list)) else value


class _Parquet:
    """Rows become columns as they come, for as Python's objects they take twenty times the memory. Groups are large: the file's
    footer, which stays in memory to the end, grows with their number.
    """

    def __init__(self, model: Model, first: Sequence[Row]) -> None:
        import pyarrow.parquet as pq  # large, and few gateways ever write Parquet

        self._columns = Columns(model.task, first)
        self._sink = _Sink()
        self._writer = pq.ParquetWriter(self._sink, self._columns.schema)
        self._waiting: list[pa.Table] = []

    def rows(self, rows: Sequence[Row]) -> bytes:
        self._waiting.append(self._columns.table(rows))
        tables = self._waiting
        if sum(map(len, tables)) >= ROW_GROUP or sum(table.nbytes for table in tables) >= ROW_GROUP_BYTES:
            self._write_group()
        return self._sink.take()

    def _write_group(self) -> None:
        import pyarrow as pa

        self._writer.write_table(pa.concat_tables(self._waiting))
        self._waiting = []

    def end(self) -> bytes:
        if self._waiting:
            self._write_group()
        self._writer.close()
        return self._sink.take()


class _Sink(io.RawIOBase):
    """A file that is taken away in pieces while it is written."""

    def __init__(self) -> None:
        super().__init__()
        self._pieces: list[bytes] = []
        self._told = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._told

    def write(self, data: Any) -> int:
        piece = bytes(data)
        self._pieces.append(piece)
        self._told += len(piece)
        return len(piece)

    def take(self) -> bytes:
        data = b"".join(self._pieces)
        self._pieces.clear()
        return data


_FORMS: dict[str, type[_Csv] | type[_Ndjson] | type[_Parquet]] = {
    "csv": _Csv,
    "ndjson": _Ndjson,
    "parquet": _Parquet,
}
