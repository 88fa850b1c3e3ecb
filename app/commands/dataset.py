"""A training set as a Hive-partitioned data set of Parquet files, on a local disk or in an object store.

`day=2026-01-31/model_version=v1/part-0.parquet`, so that DuckDB, Spark and pyarrow read it and leave out what they do
not need. The manifest is written last: a directory without one is no whole data set. Credentials are those of the
caller's environment, as the object store's own tools read them; the gateway never learns of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Any, Self
from urllib.parse import quote

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from app.commands.gateway import UsageError
from app.control.training_columns import Columns

MANIFEST = "_manifest.json"  # readers of data sets pass over names that begin so
BATCH = 10_000  # rows in memory, and in a row group
_TIMES = ("timestamp", "ground_truth_timestamp")
_PARTITION = ("day", "model_version")

Row = dict[str, Any]


@dataclass
class _Part:
    """One file that is being written."""

    path: str
    writer: pq.ParquetWriter
    rows: int = 0


@dataclass
class Dataset:
    """An empty place for a data set of a model with this task."""

    filesystem: fs.FileSystem
    root: str
    task: str
    _columns: Columns | None = None
    _open: dict[tuple[str, str], _Part] = field(default_factory=dict)
    _files: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def at(cls, url: str, task: str) -> Self:
        """`UsageError` for a URL that no file system is known for, and for a directory that holds files already."""
        if url.partition("://")[2] == "":  # an object store's client would look for it on the network first
            raise UsageError(f"--output: {url} names no place; write one such as s3://bucket/directory")
        try:
            filesystem, root = fs.FileSystem.from_uri(url)
            held = filesystem.get_file_info(fs.FileSelector(root, allow_not_found=True, recursive=True))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UsageError(f"--output: {url}: {error}") from None
        if any(one.is_file for one in held):
            raise UsageError(f"--output: {url} holds files already; name an empty place")
        return cls(filesystem, root, task)

    def write(self, pieces: Iterable[bytes], query: Mapping[str, Any]) -> dict[str, Any]:
        """An NDJSON export, oldest row first, into files; returns the manifest. Should it break off, what was written is
        removed.
        """
        digest, total, smallest, largest = sha256(), 0, None, None
        weights = 0.0
        try:
            for batch in _batches(pieces):
                rows = []
                for line in batch:
                    digest.update(line + b"\n")
                    rows.append(_row(line))
                found = [row["sample_weight"] for row in rows]
                total += len(rows)
                weights += sum(found)
                smallest = min(found) if smallest is None else min(smallest, *found)
                largest = max(found) if largest is None else max(largest, *found)
                self._add(rows)
            self._close_all()
            manifest = {
                "query": dict(query),
                "rows": total,
                "sample_weight": {"min": smallest, "max": largest, "sum": weights},
                "sha256": digest.hexdigest(),
                "files": self._files,
            }
            self.filesystem.create_dir(self.root, recursive=True)
            with self.filesystem.open_output_stream(f"{self.root}/{MANIFEST}") as file:
                file.write(msgspec.json.format(msgspec.json.encode(manifest)))
        except BaseException as error:
            self._remove()
            if isinstance(error, OSError):
                raise UsageError(f"--output: {self.root}: {error}") from None
            raise
        return manifest

    def _add(self, rows: list[Row]) -> None:
        if self._columns is None:
            self._columns = Columns(self.task, rows)
        groups: dict[tuple[str, str], list[Row]] = {}
        for row in rows:
            groups.setdefault((row["timestamp"].date().isoformat(), row["model_version"]), []).append(row)
        newest = max(day for day, _ in groups)
        for key, some in groups.items():
            part = self._part(key, self._columns)
            # The version stands in the path; a column of the same name would be read twice.
            part.writer.write_table(self._columns.table(some).drop_columns(["model_version"]))
            part.rows += len(some)
        for key in [
            key for key in self._open if key[0] < newest
        ]:  # rows come in order of time: these are whole
            self._close(key)

    def _part(self, key: tuple[str, str], columns: Columns) -> _Part:
        if key not in self._open:
            named = zip(_PARTITION, key, strict=True)
            directory = "/".join(f"{name}={quote(value, safe='')}" for name, value in named)
            self.filesystem.create_dir(f"{self.root}/{directory}", recursive=True)
            number = sum(file["path"].startswith(f"{directory}/") for file in self._files)
            path = f"{directory}/part-{number}.parquet"
            schema = columns.schema.remove(columns.schema.get_field_index("model_version"))
            writer = pq.ParquetWriter(f"{self.root}/{path}", schema, filesystem=self.filesystem)
            self._open[key] = _Part(path, writer)
        return self._open[key]

    def _close(self, key: tuple[str, str]) -> None:
        part = self._open.pop(key)
        part.writer.close()
        self._files.append({"path": part.path, "rows": part.rows})

    def _close_all(self) -> None:
        for key in list(self._open):
            self._close(key)

    def _remove(self) -> None:
        """Best effort: what cannot be removed is at least without a manifest."""
        try:
            self._close_all()
            for file in self._files:
                self.filesystem.delete_file(f"{self.root}/{file['path']}")
        except (pa.ArrowException, OSError):
            return


def _batches(pieces: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Lines end in a line feed and nothing else: texts may hold what other readers take for an end."""
    batch: list[bytes] = []
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        batch += lines
        if len(batch) >= BATCH:
            yield batch
            batch = []
    if rest:
        batch.append(rest)
    if batch:
        yield batch


def _row(line: bytes) -> Row:
    row: Row = msgspec.json.decode(line)
    for name in _TIMES:
        row[name] = datetime.fromisoformat(row[name])
    return row
