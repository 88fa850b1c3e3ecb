"""The embedded store: one SQLite file in WAL mode, one writer, several readers. It brings its own schema up to date.

A commit is on disk when it returns (`synchronous=FULL`), since the recorder then deletes the journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from functools import lru_cache
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.util import await_only
from sqlalchemy.util.concurrency import in_greenlet

from app.adapters import migrations
from app.adapters.rows import (
    OUTCOME_COLUMNS,
    PREDICTION_COLUMNS,
    SHADOW_COLUMNS,
    SQLITE,
    Values,
    alike,
    json_bytes,
    json_value,
    plain_scalar,
    sqlite_time,
)
from app.adapters.sql_engine import UNPREPARED, Driver, StorePolicy, transaction
from app.adapters.sql_outcomes import FOUND_COLUMNS, Found, Period, counts_of, join
from app.adapters.sql_store import NewOutcomes, SqlStore
from app.control.ports import Batch
from app.errors import GatewayError, RefusedRowError, UnavailableError

# Rows a statement. The driver gives up Python's lock at each statement and may wait 5 ms to have it back, so one row each would crawl
# while the event loop is busy.
_ROWS_AT_ONCE = 300
# Columns that mostly have one value in rows of one time, each of one type, so that what is equal is the same. In groups, since each set of
# columns makes a statement of its own, and a statement of so many rows takes 2 ms to prepare and most of a MiB as long as it is known.
_OFTEN_ALIKE = (
    ("model",),
    ("model_version", "role", "reason"),
    ("status", "ended", "error", "facts"),
    ("canary_percent", "flags_revision", "rollout_id", "forced"),
    ("request_id",),
    ("source", "actor", "state", "due_at"),
)
_TIMESTAMP = PREDICTION_COLUMNS.index("timestamp")
_KNOWN = "SELECT prediction_id FROM predictions WHERE prediction_id IN (SELECT value FROM json_each(?))"
_MODELS = (
    "SELECT prediction_id, model FROM predictions WHERE prediction_id IN (SELECT value FROM json_each(?))"
)
_KNOWN_OUTCOMES = "SELECT subject, outcome_id FROM outcomes WHERE subject IN (SELECT value FROM json_each(?))"
_FOUND = (
    f"SELECT {', '.join(FOUND_COLUMNS)} FROM predictions "  # noqa: S608  # constants
    "WHERE prediction_id IN (SELECT value FROM json_each(?))"
)
_LABEL = "UPDATE predictions SET ground_truth = ?, ground_truth_timestamp = ? WHERE prediction_id = ?"
_BUSY_MS = 5_000  # how long another process (the command line) may hold the file
# The driver asks every None and truth value how it wants to be stored, and fails at it, at more cost than storing it. So it is told: as
# they are, and as integers, which is what it does in the end.
sqlite3.register_adapter(type(None), {}.get)  # type: ignore[arg-type]  # a function in C that gives None
sqlite3.register_adapter(bool, int)
# Of a connection. The writer looks up many rows that lie apart; what readers read, the operating system has cached already.
_WRITERS_CACHE_KIB = 16_384
_READERS_CACHE_KIB = 4_096


def _meaning(error: BaseException) -> GatewayError | None:
    if isinstance(error, (sqlite3.IntegrityError, sqlite3.DataError)):
        return RefusedRowError(str(error))
    if isinstance(error, sqlite3.Error) and ("no such table" in str(error) or "no such column" in str(error)):
        return UnavailableError(UNPREPARED)
    return None


_SQLITE3 = Driver(_meaning, errors=(sqlite3.Error,))


class Endings:
    """Closes connections whose caller gave up, and owns each close until it is over.

    SQLAlchemy's own way gives up a close as soon as its caller gives up a second time (a deadline within a deadline, both long past in a
    process that stood still): then the driver's thread ends first, and the close waits for it for ever, with nobody to look after it.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def own(self, engine: AsyncEngine) -> None:
        engine.sync_engine.dialect.do_terminate = self._terminate  # type: ignore[method-assign, assignment]  # of this engine alone

    def _terminate(self, connection: Any) -> None:
        if not in_greenlet():  # from the garbage collector: there is nobody who could wait
            connection.driver_connection.stop()
            return
        task = asyncio.create_task(_end(connection.driver_connection), name="sqlite-close")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await_only(asyncio.shield(task))

    async def over(self) -> None:
        """Once nothing is being closed any more; as long as the statement that runs on it takes."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))


async def _end(driver: Any) -> None:
    """It is rolled back first: a cursor that is still referred to somewhere, as in the traceback of its caller, keeps SQLite
    from closing it, and its transaction would lock the file meanwhile.
    """
    with contextlib.suppress(sqlite3.Error, ValueError):
        await driver.rollback()
    await driver.close()


class SqliteStore(SqlStore):
    encoding = SQLITE

    def __init__(self, policy: StorePolicy) -> None:
        super().__init__(policy)
        path = sa.make_url(policy.url).database
        if not path or path == ":memory:":
            raise UnavailableError(
                "store.url: an SQLite store needs a file, such as sqlite:///data/gateway.db"
            )
        self._path = Path(path)
        self._reading = _engine(self._path, policy.connections, "BEGIN", _READERS_CACHE_KIB)
        self._writing = _engine(self._path, 1, "BEGIN IMMEDIATE", _WRITERS_CACHE_KIB)
        self._endings = Endings()
        for engine in (self._reading, self._writing):
            self._endings.own(engine)
        self._writer = asyncio.Lock()
        self._upgrading = asyncio.Lock()
        self._upgraded = False

    async def close(self) -> None:
        await self._reading.dispose()
        await self._writing.dispose()
        await self._endings.over()

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
        async with transaction(engine, deadline_s, _SQLITE3) as connection:
            yield connection

    async def _upgrade(self) -> None:
        async with self._upgrading:
            if self._upgraded:
                return
            try:
                await asyncio.to_thread(self._path.parent.mkdir, parents=True, exist_ok=True)
                if not await asyncio.to_thread(migrations.is_current, self._path):
                    await asyncio.to_thread(migrations.upgrade, self.policy.url)
            except (OSError, sa.exc.SQLAlchemyError) as error:
                raise UnavailableError(
                    f"{self._path} cannot be opened or brought up to date: {error}"
                ) from error
            self._upgraded = True

    async def prediction_models(self, prediction_ids: Sequence[str]) -> dict[str, str]:
        async with self.read() as connection:
            found = await connection.exec_driver_sql(_MODELS, (json_bytes(prediction_ids).decode(),))
            return {row.prediction_id: row.model for row in found}

    async def outcomes_known(self, outcome_ids: Sequence[str], subjects: Sequence[str]) -> set[str]:
        async with self.read() as connection:
            found = await connection.exec_driver_sql(_KNOWN_OUTCOMES, (json_bytes(subjects).decode(),))
            return set(outcome_ids).intersection(row.outcome_id for row in found)

    async def load(self, batch: Batch) -> None:
        """All of it or nothing. Rows already there are left as they are. `RefusedRowError` when a row is refused."""
        made = await self.encoded(batch)
        predictions, shadows, outcomes = made.predictions, made.shadows, made.outcomes
        async with self.write(self.policy.load_deadline_s) as connection:
            new = await _insert_new(connection, predictions)
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
            at = ((values, _time(values[_TIMESTAMP])) for values in new)
            await self.add_counts(connection, counts_of(at, first_labels))
            await self.write_positions(connection, batch.positions)


async def _insert_new(connection: AsyncConnection, predictions: Sequence[Values]) -> Sequence[Values]:
    """Those that were not there already, which is rare: only then is it asked which these are."""
    if not predictions:
        return ()
    driver = await _driver(connection)
    before = driver.total_changes
    await driver.execute_fetchall("SAVEPOINT attempt")
    await _insert(connection, "predictions", PREDICTION_COLUMNS, predictions)
    if driver.total_changes - before == len(predictions):
        return predictions
    await driver.execute_fetchall("ROLLBACK TO attempt")
    ids = json_bytes([values[0] for values in predictions]).decode()
    known = set((await connection.exec_driver_sql(_KNOWN, (ids,))).scalars())
    new = []
    for values in predictions:
        if values[0] not in known:
            known.add(values[0])
            new.append(values)
    await _insert(connection, "predictions", PREDICTION_COLUMNS, new)
    return new


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


async def _driver(connection: AsyncConnection) -> Any:
    """aiosqlite's own connection, in the transaction that SQLAlchemy began."""
    return (await connection.get_raw_connection()).driver_connection


async def _insert(
    connection: AsyncConnection, table: str, columns: tuple[str, ...], values: Sequence[Values]
) -> None:
    """Rows whose key is there already are left as they are; any other refusal is an error.

    Given to the driver itself: SQLAlchemy costs more than the database does when a statement has thousands of parameters.
    """
    if not values:
        return
    driver = await _driver(connection)
    groups = _groups(columns)
    whole = len(values) - len(values) % _ROWS_AT_ONCE
    for start in range(0, whole, _ROWS_AT_ONCE):
        rows = values[start : start + _ROWS_AT_ONCE]
        shared = tuple(chain.from_iterable([group for group in groups if alike(rows, group)]))
        statement, others = _insertion(table, columns, shared, _ROWS_AT_ONCE)
        given_once = [rows[0][number] for number in shared]
        await driver.execute_fetchall(statement, [*given_once, *chain.from_iterable(map(others, rows))])
    if rest := values[whole:]:
        statement, _ = _insertion(table, columns, (), 1)
        await (await driver.executemany(statement, rest)).close()


@lru_cache
def _groups(columns: tuple[str, ...]) -> list[tuple[int, ...]]:
    """Where the columns of each group of `_OFTEN_ALIKE` stand, as far as the table has them."""
    places = {name: number for number, name in enumerate(columns)}
    groups = [tuple([places[name] for name in group if name in places]) for group in _OFTEN_ALIKE]
    return [group for group in groups if group]


@lru_cache
def _insertion(
    table: str, columns: tuple[str, ...], shared: tuple[int, ...], rows: int
) -> tuple[str, Callable[[Values], Values]]:
    """A statement for so many rows, and what of a row it takes beside the values that all of them have: these are given once, before all
    others, since the database copies each value that it is given.
    """
    others = [number for number in range(len(columns)) if number not in shared]
    names = [columns[number] for number in (*shared, *others)]
    # Numbers only for what comes first: SQLite counts on by itself, and would look through all numbers for each that it is told.
    row = ", ".join([*(f"?{place}" for place in range(1, len(shared) + 1)), *("?" * len(others))])
    statement = (
        f"INSERT INTO {table} ({', '.join(names)}) VALUES {', '.join([f'({row})'] * rows)} "  # noqa: S608  # constants
        "ON CONFLICT DO NOTHING"
    )
    return statement, itemgetter(*others)


def _engine(path: Path, connections: int, begin: str, cache_kib: int) -> AsyncEngine:
    engine = create_async_engine(
        sa.URL.create("sqlite+aiosqlite", database=str(path)),
        pool_size=connections,
        max_overflow=0,
        json_serializer=lambda value: json_bytes(value).decode(),
        json_deserializer=json_value,
        hide_parameters=True,  # else features and keys would stand in exceptions, and these in the log
        connect_args={"isolation_level": None, "timeout": _BUSY_MS / 1000},
    )

    @sa.event.listens_for(engine.sync_engine, "connect")
    def configure(connection: Any, _: Any) -> None:
        cursor = connection.cursor()
        for pragma in (
            "journal_mode = WAL",
            "synchronous = FULL",
            "foreign_keys = ON",
            f"cache_size = {-cache_kib}",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @sa.event.listens_for(engine.sync_engine, "begin")
    def start(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine
