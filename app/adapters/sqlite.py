"""The embedded store: one SQLite file in WAL mode, one writer, several readers. It brings its own schema up to date.

A commit is on disk when it returns (`synchronous=FULL`), since the recorder then deletes the journal.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from app.adapters import migrations, rows
from app.adapters.rows import (
    OUTCOME_COLUMNS,
    PREDICTION_COLUMNS,
    SHADOW_COLUMNS,
    SQLITE,
    Values,
    json_bytes,
    json_value,
)
from app.adapters.schema import plain_scalar, sqlite_time
from app.adapters.sql_engine import StorePolicy, transaction
from app.adapters.sql_outcomes import FOUND_COLUMNS, Found, Period, counts_of, join
from app.adapters.sql_store import NewOutcomes, SqlStore
from app.control.ports import Batch
from app.errors import UnavailableError

# Rows a statement. The driver gives up Python's lock at each statement and may wait 5 ms to have it back, so one row each would crawl
# while the event loop is busy.
_ROWS_AT_ONCE = 100
_KNOWN = "SELECT prediction_id FROM predictions WHERE prediction_id IN (SELECT value FROM json_each(?))"
_KNOWN_OUTCOMES = "SELECT subject, outcome_id FROM outcomes WHERE subject IN (SELECT value FROM json_each(?))"
_FOUND = (
    f"SELECT {', '.join(FOUND_COLUMNS)} FROM predictions "  # noqa: S608  # constants
    "WHERE prediction_id IN (SELECT value FROM json_each(?))"
)
_LABEL = "UPDATE predictions SET ground_truth = ?, ground_truth_timestamp = ? WHERE prediction_id = ?"
_BUSY_MS = 5_000  # how long another process (the command line) may hold the file


class SqliteStore(SqlStore):
    def __init__(self, policy: StorePolicy) -> None:
        super().__init__(policy)
        path = sa.make_url(policy.url).database
        if not path or path == ":memory:":
            raise UnavailableError(
                "store.url: an SQLite store needs a file, such as sqlite:///data/gateway.db"
            )
        self._path = Path(path)
        self._reading = _engine(self._path, policy.connections, "BEGIN")
        self._writing = _engine(self._path, 1, "BEGIN IMMEDIATE")
        self._writer = asyncio.Lock()
        self._upgrading = asyncio.Lock()
        self._upgraded = False

    async def close(self) -> None:
        await self._reading.dispose()
        await self._writing.dispose()

    def insert(self, table: sa.Table) -> Any:
        return sqlite.insert(table)

    def read(self) -> AbstractAsyncContextManager[AsyncConnection]:
        return self._transaction(self._reading, self.policy.deadline_s)

    @asynccontextmanager
    async def write(self, deadline_s: float | None = None) -> AsyncIterator[AsyncConnection]:
        async with (
            self._writer,
            self._transaction(self._writing, deadline_s or self.policy.deadline_s) as connection,
        ):
            yield connection

    @asynccontextmanager
    async def _transaction(self, engine: AsyncEngine, deadline_s: float) -> AsyncIterator[AsyncConnection]:
        if not self._upgraded:
            await self._upgrade()
        async with transaction(engine, deadline_s) as connection:
            yield connection

    async def _upgrade(self) -> None:
        async with self._upgrading:
            if self._upgraded:
                return
            try:
                await asyncio.to_thread(self._path.parent.mkdir, parents=True, exist_ok=True)
                await asyncio.to_thread(migrations.upgrade, self.policy.url)
            except (OSError, sa.exc.SQLAlchemyError) as error:
                raise UnavailableError(
                    f"{self._path} cannot be opened or brought up to date: {error}"
                ) from error
            self._upgraded = True

    async def load(self, batch: Batch) -> None:
        """All of it or nothing. Rows already there are left as they are. `RefusedRowError` when a row is refused."""
        predictions, shadows, outcomes = rows.encode_batch(batch, SQLITE)
        async with self.write(self.policy.load_deadline_s) as connection:
            known = await _known_ids(connection, [values[0] for values in predictions])
            new = []
            for values, row in zip(predictions, batch.predictions, strict=True):
                if values[0] not in known:
                    known.add(values[0])
                    new.append((values, row.timestamp))
            await _insert(connection, "predictions", PREDICTION_COLUMNS, [values for values, _ in new])
            await _insert(connection, "shadow_predictions", SHADOW_COLUMNS, shadows)
            first_labels: Mapping[Period, int] = {}
            if outcomes:
                fresh = NewOutcomes(batch.outcomes, outcomes, await _known_outcomes(connection, outcomes))
                decided = join(fresh.claims, await _found(connection, fresh))
                labels = [
                    (plain_scalar(truth), sqlite_time(at), key) for key, (truth, at) in decided.labels.items()
                ]
                if labels:
                    await connection.exec_driver_sql(_LABEL, labels)
                await _insert(
                    connection,
                    "outcomes",
                    OUTCOME_COLUMNS,
                    fresh.decided(decided, sqlite_time(datetime.now(UTC))),
                )
                first_labels = decided.first_labels
            await self.write_quarantine(connection, batch.quarantine)
            await self.add_counts(connection, counts_of(new, first_labels))
            await self.write_positions(connection, batch.positions)


async def _known_ids(connection: AsyncConnection, ids: Sequence[str]) -> set[str]:
    result = await connection.exec_driver_sql(_KNOWN, (json_bytes(ids).decode(),))
    return set(result.scalars())


async def _known_outcomes(connection: AsyncConnection, encoded: Sequence[Values]) -> set[tuple[str, str]]:
    subjects = json_bytes([values[0] for values in encoded]).decode()
    result = await connection.exec_driver_sql(_KNOWN_OUTCOMES, (subjects,))
    return {(row.subject, row.outcome_id) for row in result}


async def _found(connection: AsyncConnection, fresh: NewOutcomes) -> dict[str, Found]:
    targets = json_bytes([claim.target for claim in fresh.claims if claim.target]).decode()
    rows_found = (await connection.exec_driver_sql(_FOUND, (targets,))).mappings()
    return {
        row["prediction_id"]: Found(
            row["prediction_id"],
            row["model"],
            row["model_version"],
            _time(row["timestamp"]),
            row["status"],
            _time(row["ground_truth_timestamp"]) if row["ground_truth_timestamp"] is not None else None,
        )
        for row in rows_found
    }


_time = datetime.fromisoformat


async def _insert(
    connection: AsyncConnection, table: str, columns: Sequence[str], values: Sequence[Values]
) -> None:
    """Rows whose key is there already are left as they are; any other refusal is an error."""
    row = f"({', '.join('?' * len(columns))})"
    head = f"INSERT INTO {table} ({', '.join(columns)}) VALUES "  # noqa: S608  # constants
    tail = " ON CONFLICT DO NOTHING"
    whole = len(values) - len(values) % _ROWS_AT_ONCE
    for start in range(0, whole, _ROWS_AT_ONCE):
        flat = tuple(value for one in values[start : start + _ROWS_AT_ONCE] for value in one)
        await connection.exec_driver_sql(f"{head}{', '.join([row] * _ROWS_AT_ONCE)}{tail}", flat)
    if rest := list(values[whole:]):
        await connection.exec_driver_sql(f"{head}{row}{tail}", rest)


def _engine(path: Path, connections: int, begin: str) -> AsyncEngine:
    engine = create_async_engine(
        sa.URL.create("sqlite+aiosqlite", database=str(path)),
        pool_size=connections,
        max_overflow=0,
        json_serializer=lambda value: json_bytes(value).decode(),
        json_deserializer=json_value,
        connect_args={"isolation_level": None, "timeout": _BUSY_MS / 1000},
    )

    @sa.event.listens_for(engine.sync_engine, "connect")
    def configure(connection: Any, _: Any) -> None:
        cursor = connection.cursor()
        for pragma in (
            "journal_mode = WAL",
            "synchronous = FULL",
            "foreign_keys = ON",
            "cache_size = -16384",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @sa.event.listens_for(engine.sync_engine, "begin")
    def start(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine
