"""Tables that are uploaded: NDJSON, CSV and Parquet into rows, within bounds. A file that cannot be read
is the caller's mistake (422).
"""

from __future__ import annotations

import io
from typing import Any

from app.api import strict_json
from app.errors import InvalidError

KINDS = {
    "application/x-ndjson": "ndjson",
    "application/ndjson": "ndjson",
    "application/jsonl": "ndjson",
    "text/csv": "csv",
    "application/vnd.apache.parquet": "parquet",
    "application/x-parquet": "parquet",
}
MAX_ROWS = 200_000
MAX_UNPACKED = 512 * 1024 * 1024  # of a Parquet file, by its own footer


def rows(kind: str, data: bytes) -> list[dict[str, Any]]:
    """The rows of a file of this content type."""
    import pyarrow as pa

    if not data:
        raise InvalidError("the file is empty")
    read = {"ndjson": _ndjson, "csv": _csv, "parquet": _parquet}[KINDS[kind]]
    try:
        return read(data)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InvalidError(f"the file cannot be read as {KINDS[kind]}: {str(error)[:200]}") from None


def _ndjson(data: bytes) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            value = strict_json.parse(line)
        except InvalidError as error:
            raise InvalidError(f"line {number}: {error}") from None
        if not isinstance(value, dict):
            raise InvalidError(f"line {number}: a row is an object")
        _check_rows(len(found) + 1)
        found.append(value)
    return found


def _csv(data: bytes) -> list[dict[str, Any]]:
    from pyarrow import csv

    table = csv.read_csv(io.BytesIO(data))
    _check_rows(table.num_rows)
    result: list[dict[str, Any]] = table.to_pylist()
    return result


def _parquet(data: bytes) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(io.BytesIO(data))
    _check_rows(file.metadata.num_rows)
    groups = range(file.metadata.num_row_groups)
    if sum(file.metadata.row_group(group).total_byte_size for group in groups) > MAX_UNPACKED:
        raise InvalidError(f"the file unpacks to more than {MAX_UNPACKED} bytes")
    result: list[dict[str, Any]] = file.read().to_pylist()
    return result


def _check_rows(number: int) -> None:
    if number > MAX_ROWS:
        raise InvalidError(f"more than {MAX_ROWS} rows; send a sample")
