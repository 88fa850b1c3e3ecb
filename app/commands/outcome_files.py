"""Reads outcomes from csv, ndjson and parquet files, row by row, in constant memory. Sends nothing."""

from __future__ import annotations

import csv
import datetime
import decimal
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from app.commands.gateway import UsageError

FIELDS = ("prediction_id", "model", "request_id", "ground_truth", "observed_at", "source")
KINDS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_ROWS_AT_ONCE = 1000

Outcome = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file, counted from 1 without a header. `fault` says why it is no outcome."""

    number: int
    outcome: Outcome
    place: int  # bytes of the file read so far; rows for parquet
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """How a file's columns become outcomes."""

    columns: Mapping[str, str]  # outcome field -> column
    constants: Mapping[str, str]  # outcome field -> value for rows that have none
    labels_are: str = "auto"  # auto | text | number; csv only: the other formats have types


def kind_of(path: Path) -> str:
    """`UsageError` when the name does not tell."""
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise UsageError(
            f"{path}: its format is not known by its name; name it with --format csv|ndjson|parquet"
        )
    return kind


def rows(path: Path, kind: str, reading: Reading) -> Iterator[Row]:
    """All rows of the file. `UsageError` when it is no such file or lacks a needed column."""
    source = {"csv": _csv, "ndjson": _ndjson, "parquet": _parquet}[kind]
    try:
        yield from source(path, reading)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None


def size_of(path: Path, kind: str) -> int:
    """What `Row.place` counts up to."""
    if kind != "parquet":
        return path.stat().st_size
    with path.open("rb") as file:
        return int(_parquet_file(path, file).metadata.num_rows)


def _csv(path: Path, reading: Reading) -> Iterator[Row]:
    place = 0
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","

    def lines(file: BinaryIO) -> Iterator[str]:
        nonlocal place
        for number, line in enumerate(file, 1):
            place += len(line)
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                raise UsageError(
                    f"{path}: line {number} is not UTF-8; save the file in that encoding"
                ) from None

    with path.open("rb") as file:
        reader = csv.reader(lines(file), delimiter=delimiter, strict=True)
        try:
            header = next(reader, None)
            _check_columns(path, header or [], reading)
            assert header is not None
            filled = (cells for cells in reader if cells)
            for number, cells in enumerate(filled, 1):
                if len(cells) != len(header):
                    yield Row(number, {}, place, f"has {len(cells)} columns, the header {len(header)}")
                    continue
                found = {name: text for name, text in zip(header, cells, strict=True) if text != ""}
                yield _row(number, found, place, reading, _label(reading.labels_are))
        except csv.Error as error:
            raise UsageError(f"{path}: line {reader.line_num}: {error}") from None


def _ndjson(path: Path, reading: Reading) -> Iterator[Row]:
    place = number = 0
    with path.open("rb") as file:
        for line in file:
            place += len(line)
            if not line.strip():
                continue
            number += 1
            try:
                found = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield Row(number, {}, place, f"is no JSON: {error}")
                continue
            if not isinstance(found, dict):
                yield Row(number, {}, place, "is no JSON object")
                continue
            yield _row(number, found, place, reading)


def _parquet(path: Path, reading: Reading) -> Iterator[Row]:
    number = 0
    with path.open("rb") as file:
        source = _parquet_file(path, file)
        _check_columns(path, source.schema_arrow.names, reading)
        wanted = [reading.columns.get(field, field) for field in FIELDS]
        present = [name for name in dict.fromkeys(wanted) if name in source.schema_arrow.names]
        for batch in source.iter_batches(_ROWS_AT_ONCE, columns=present):
            for found in batch.to_pylist():
                number += 1
                given = {name: value for name, value in found.items() if value is not None}
                yield _row(number, given, number, reading)


def _parquet_file(path: Path, file: BinaryIO) -> Any:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        return ParquetFile(file)
    except ArrowException as error:
        raise UsageError(f"{path}: is no parquet file: {error}") from None


def _check_columns(path: Path, header: list[str], reading: Reading) -> None:
    """An outcome needs its label and what it belongs to."""
    has = {
        field for field in FIELDS if reading.columns.get(field, field) in header or field in reading.constants
    }
    known = f"it has {', '.join(header)}" if header else "it is empty"
    for field, column in reading.columns.items():
        if column not in header:
            raise UsageError(f"{path}: has no column {column!r} for {field}; {known}")
    if len(set(header)) < len(header):
        raise UsageError(f"{path}: names a column twice; {known}")
    if "ground_truth" not in has:
        raise UsageError(
            f"{path}: has no column ground_truth; {known}; name it with --column ground_truth=NAME"
        )
    if "prediction_id" not in has and not {"model", "request_id"} <= has:
        raise UsageError(
            f"{path}: has no column prediction_id (nor model and request_id); {known}; "
            "name it with --column prediction_id=NAME"
        )


def _row(
    number: int,
    found: Mapping[str, Any],
    place: int,
    reading: Reading,
    label: Callable[[str], object] | None = None,
) -> Row:
    """The fields of an outcome from the columns that stand for them; other columns are left out."""
    outcome: Outcome = {}
    for field in FIELDS:
        value = found.get(reading.columns.get(field, field))
        if value is None:
            value = reading.constants.get(field)
        if value is not None:
            outcome[field] = _plain(value)
    truth = outcome.get("ground_truth")
    if truth is None:
        return Row(number, outcome, place, "has no ground_truth")
    if isinstance(truth, float) and not math.isfinite(truth):
        return Row(number, outcome, place, f"ground_truth is {truth}")
    if label is not None and isinstance(truth, str):
        try:
            outcome["ground_truth"] = label(truth)
        except ValueError:
            return Row(number, outcome, place, f"ground_truth {truth!r} is no number")
    if "prediction_id" in outcome:  # it names the prediction by itself
        outcome.pop("request_id", None)
    return Row(number, outcome, place)


def _plain(value: object) -> object:
    """Parquet's types as JSON has them. A time without zone is UTC."""
    if isinstance(value, datetime.datetime):
        return (value if value.tzinfo else value.replace(tzinfo=datetime.UTC)).isoformat()
    if isinstance(value, decimal.Decimal):
        return float(value)
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _label(labels_are: str) -> Callable[[str], object]:
    """A csv cell as the label it stands for."""

    def number(text: str) -> object:
        if _NUMBER.fullmatch(text) is None:
            raise ValueError(text)
        value = float(text)
        if not math.isfinite(value):
            raise ValueError(text)
        return int(text) if text.lstrip("+-").isdigit() and len(text) < 16 else value

    def guess(text: str) -> object:
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        try:
            return number(text)
        except ValueError:
            return text

    readers: dict[str, Callable[[str], object]] = {"auto": guess, "number": number, "text": str}
    return readers[labels_are]
