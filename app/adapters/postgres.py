"""The production store: PostgreSQL 14 or later, also behind pgbouncer in transaction mode (no state outlives a transaction).

The recorder's rows go in by `COPY`, straight into the partitions. That one of them is there already is rare (a second recorder on the same
journal, a restored database); then the known ones are taken out and the batch goes in again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.partitions import Partitions
from app.adapters.postgres_url import engine_of
from app.adapters.rows import OUTCOME_COLUMNS, POSTGRES, PREDICTION_COLUMNS, SHADOW_COLUMNS, Values, day_of
from app.adapters.schema import prediction_counts
from app.adapters.sql_engine import UNPREPARED, Driver, StorePolicy, transaction
from app.adapters.sql_outcomes import FOUND_COLUMNS, JOINED, Found, Period, counts_of, join
from app.adapters.sql_store import NewOutcomes, SqlStore
from app.control.ports import Batch, Scalar
from app.errors import GatewayError, RefusedRowError, UnavailableError

_ATTEMPTS = 5
_TIMESTAMP = PREDICTION_COLUMNS.index("timestamp")
_TARGET = OUTCOME_COLUMNS.index("prediction_id")

_KNOWN = "SELECT p.prediction_id FROM unnest($1::text[]) AS k(id) JOIN predictions p ON p.prediction_id = k.id WHERE {bounds}"
_KNOWN_SHADOWS = (
    "SELECT p.prediction_id, p.model_version, p.role FROM unnest($1::text[]) AS k(id) "
    "JOIN shadow_predictions p ON p.prediction_id = k.id WHERE {bounds}"
)
# The bounds let the planner leave out partitions; each row then finds its own by its id.
_BOUNDS = "p.prediction_id >= $2 AND p.prediction_id <= $3"
# `OFFSET 0` keeps the planner from reading the whole table instead of looking up each key, as it would while a table that was filled a
# moment ago is small in its statistics.
_MODELS = (
    "SELECT p.prediction_id, p.model FROM unnest($1::text[]) AS k(id) "  # noqa: S608  # constants
    f"CROSS JOIN LATERAL (SELECT * FROM predictions p WHERE p.prediction_id = k.id AND {_BOUNDS} OFFSET 0) AS p"
)
_OUTCOMES_ABOUT = (
    "SELECT o.outcome_id FROM unnest($1::text[]) AS k(subject) "
    "CROSS JOIN LATERAL (SELECT outcome_id FROM outcomes WHERE subject = k.subject OFFSET 0) AS o"
)
_KNOWN_OUTCOMES = (
    "SELECT o.subject, o.outcome_id FROM unnest($1::text[], $2::text[]) AS k(subject, outcome_id) "
    "JOIN outcomes o ON o.subject = k.subject AND o.outcome_id = k.outcome_id"
)
# Most outcomes are the first of their prediction, and name it by its id: these are joined and kept in one go, without a look before, and
# only sums come back, of what `counts_in_coverage`, by the periods of `period_of`. Given in the order of the ids, so that two recorders
# do not wait for each other in a circle.
_JOIN_FIRST = f"""
WITH done AS (
  UPDATE predictions p SET ground_truth = k.truth::jsonb, ground_truth_timestamp = k.at
  FROM unnest($1::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[], $8::timestamptz[], $9::text[], $10::text[])
    AS k(id, subject, outcome_id, truth, at, received_at, source, actor)
  WHERE p.prediction_id = k.id AND {_BOUNDS} AND p.ground_truth_timestamp IS NULL
  RETURNING k.*, p.model, p.model_version, p.timestamp, p.status
), kept AS (
  INSERT INTO outcomes
    (subject, outcome_id, prediction_id, ground_truth, observed_at, received_at, source, actor, state)
  SELECT subject, outcome_id, id, truth::jsonb, at, received_at, source, actor, '{JOINED}' FROM done
)
SELECT
  model, model_version, date_bin(INTERVAL '15 minutes', timestamp, TIMESTAMPTZ 'epoch'),
  count(*) FILTER (WHERE status BETWEEN 200 AND 299), array_agg(id)
FROM done GROUP BY 1, 2, 3
"""  # noqa: S608  # constants
_JOINED_COLUMNS = [
    OUTCOME_COLUMNS.index(name)
    for name in ("subject", "outcome_id", "ground_truth", "observed_at", "received_at", "source", "actor")
]
_FOUND = (
    f"SELECT {', '.join('p.' + name for name in FOUND_COLUMNS)} FROM unnest($1::text[]) AS k(id) "  # noqa: S608  # constants
    f"JOIN predictions p ON p.prediction_id = k.id WHERE {_BOUNDS} ORDER BY p.prediction_id FOR NO KEY UPDATE OF p"
)
_LABEL = (
    "UPDATE predictions p SET ground_truth = k.truth, ground_truth_timestamp = k.at "  # noqa: S608  # constants
    "FROM unnest($1::text[], $4::jsonb[], $5::timestamptz[]) AS k(id, truth, at) "
    f"WHERE p.prediction_id = k.id AND {_BOUNDS}"
)


def _meaning(error: BaseException) -> GatewayError | None:
    if not isinstance(error, asyncpg.PostgresError):
        return None
    state = error.sqlstate or ""
    if state in ("42P01", "42703", "3F000"):
        return UnavailableError(UNPREPARED)
    # 22 data, 23 integrity, 54 program limits (nesting, sizes), P0 raised by a trigger: the value will never be taken.
    said = error.args[0] if error.args else ""  # without DETAIL, which may repeat the row
    if state[:2] in ("22", "23", "54", "P0") or state in ("42804", "44000"):
        return RefusedRowError(f"{state}: {said}")
    return UnavailableError(f"the database cannot be used: {state}: {said}")


_ASYNCPG = Driver(
    _meaning,
    errors=(asyncpg.PostgresError, asyncpg.InterfaceError),
    lost=(asyncpg.PostgresConnectionError, asyncpg.InterfaceError),
)


class PostgresStore(SqlStore):
    # Rows lie in partitions of a day: what is newest is looked for in the last day first, then in the last week and so on.
    horizons = (timedelta(days=1), timedelta(days=8), timedelta(days=64))
    encoding = POSTGRES

    def __init__(self, policy: StorePolicy) -> None:
        super().__init__(policy)
        self._engine = engine_of(policy)
        self._partitions = Partitions()

    async def close(self) -> None:
        await self._engine.dispose()

    def insert(self, table: sa.Table) -> Any:
        return postgresql.insert(table)

    def read(self) -> AbstractAsyncContextManager[AsyncConnection]:
        return transaction(self._engine, self.policy.deadline_s, _ASYNCPG)

    @asynccontextmanager
    async def write(self, deadline_s: float | None = None) -> AsyncIterator[AsyncConnection]:
        deadline_s = deadline_s or self.policy.deadline_s
        async with transaction(self._engine, deadline_s, _ASYNCPG) as connection:
            limit = f"{int(deadline_s * 1000)}ms"
            # For this transaction only: nothing may be left behind on a connection that pgbouncer hands on.
            await connection.execute(
                sa.text(
                    "SELECT set_config('statement_timeout', :limit, true), set_config('lock_timeout', :limit, true)"
                ),
                {"limit": limit},
            )
            yield connection

    async def prediction_models(self, prediction_ids: Sequence[str]) -> dict[str, str]:
        if not prediction_ids:
            return {}
        bounds = min(prediction_ids), max(prediction_ids)
        async with self.read() as connection:
            return dict(await (await _driver(connection)).fetch(_MODELS, prediction_ids, *bounds))

    async def outcomes_known(self, outcome_ids: Sequence[str], subjects: Sequence[str]) -> set[str]:
        async with self.read() as connection:
            found = await (await _driver(connection)).fetch(_OUTCOMES_ABOUT, subjects)
            return set(outcome_ids).intersection(record[0] for record in found)

    async def load(self, batch: Batch) -> None:
        """All of it or nothing. Rows already there are left as they are. `RefusedRowError` when a row is refused."""
        made = await self.encoded(batch)
        predictions, shadows, outcomes, fresh = made.predictions, made.shadows, made.outcomes, made.fresh
        days = {day_of(values[0]) for values in predictions} | {day_of(values[0]) for values in shadows}
        for _ in range(_ATTEMPTS):
            if missing := self._partitions.missing(days):
                async with self.write() as connection:
                    await self._partitions.make(connection, missing)
                self._partitions.note(missing)
            try:
                async with self.write(self.policy.load_deadline_s) as connection:
                    await self._load(connection, batch, predictions, shadows, fresh)
                    return
            except _RepeatError as repeat:
                if repeat.partitions:
                    self._partitions.forget()
                    continue
            async with self.read() as connection:
                driver = await _driver(connection)
                predictions, shadows = await _without_known(driver, predictions, shadows)
                known = await _known_outcomes(driver, outcomes, self.policy.load_deadline_s)
            fresh = NewOutcomes(batch.outcomes, outcomes, known)
        raise UnavailableError(
            "other recorders keep loading the same rows; is their journal directory shared?"
        )

    async def _load(
        self,
        connection: AsyncConnection,
        batch: Batch,
        predictions: Sequence[Values],
        shadows: Sequence[Values],
        fresh: NewOutcomes,
    ) -> None:
        driver = await _driver(connection)
        limit_s = self.policy.load_deadline_s
        await _copy(driver, "predictions", PREDICTION_COLUMNS, predictions, limit_s)
        await _copy(driver, "shadow_predictions", SHADOW_COLUMNS, shadows, limit_s)
        first_labels: Counter[Period] = Counter()
        if fresh.claims:
            joined = await _join_first(driver, fresh.plain, first_labels, limit_s)
            others = fresh.without(joined)
            decided = join(others.claims, await _found(driver, others, limit_s))
            await _label(driver, decided.labels, limit_s)
            settled = others.decided(decided, datetime.now(UTC))
            await _copy(driver, "outcomes", OUTCOME_COLUMNS, settled, limit_s)
            first_labels += decided.first_labels
        await self.write_quarantine(connection, batch.quarantine)
        new = ((values, values[_TIMESTAMP]) for values in predictions)
        await self.add_counts(connection, counts_of(new, first_labels))
        await self.write_positions(connection, batch.positions)

    async def maintain(self, now: datetime, retention_days: Mapping[str, int]) -> None:
        today = int(now.timestamp() // 86_400)
        if missing := self._partitions.missing(set(range(today, today + 8))):
            async with self.write() as connection:
                await self._partitions.make(connection, missing)
            self._partitions.note(missing)
        await super().maintain(now, retention_days)

    async def drop_before(self, oldest: datetime) -> None:
        last = int(oldest.timestamp() // 86_400)
        async with self.read() as connection:
            old = await self._partitions.older(connection, last)
        for name in old:
            async with self.write() as connection:
                await connection.exec_driver_sql("SET LOCAL lock_timeout = '2s'")  # else try again in an hour
                await connection.exec_driver_sql(f"DROP TABLE {name}")
        if old:
            self._partitions.forget()
            async with self.write() as connection:
                await connection.execute(
                    sa.delete(prediction_counts).where(prediction_counts.c.period < oldest)
                )


class _RepeatError(Exception):
    """The batch has to go in again: because partitions are missing, or because some rows are there already."""

    def __init__(self, *, partitions: bool) -> None:
        super().__init__()
        self.partitions = partitions


async def _driver(connection: AsyncConnection) -> Any:
    """asyncpg's own connection, in the transaction that SQLAlchemy began."""
    return (await connection.get_raw_connection()).driver_connection


async def _copy(
    driver: Any, table: str, columns: Sequence[str], values: Sequence[Values], limit_s: float
) -> None:
    if not values:
        return
    try:
        await driver.copy_records_to_table(table, records=values, columns=columns, timeout=limit_s)
    except asyncpg.UniqueViolationError as error:
        raise _RepeatError(partitions=False) from error
    except asyncpg.CheckViolationError as error:
        if "no partition" not in str(error):
            raise
        raise _RepeatError(partitions=True) from error


async def _without_known(
    driver: Any, predictions: Sequence[Values], shadows: Sequence[Values]
) -> tuple[list[Values], list[Values]]:
    """Rows that are not stored yet, each once."""
    known: set[Any] = {
        record[0] for record in await _by_id(driver, _KNOWN.format(bounds=_BOUNDS), predictions)
    }
    known |= {
        tuple(record) for record in await _by_id(driver, _KNOWN_SHADOWS.format(bounds=_BOUNDS), shadows)
    }
    fresh: list[Values] = []
    for values in predictions:
        if values[0] not in known:
            known.add(values[0])
            fresh.append(values)
    fresh_shadows: list[Values] = []
    for values in shadows:
        key = (values[0], values[2], values[3])
        if key not in known:
            known.add(key)
            fresh_shadows.append(values)
    return fresh, fresh_shadows


async def _by_id(driver: Any, query: str, values: Sequence[Values]) -> list[Any]:
    ids = [one[0] for one in values]
    return list(await driver.fetch(query, ids, min(ids), max(ids))) if ids else []


async def _known_outcomes(driver: Any, encoded: Sequence[Values], limit_s: float) -> set[tuple[str, str]]:
    if not encoded:
        return set()
    keys = [values[0] for values in encoded], [values[1] for values in encoded]
    return {
        (subject, outcome) for subject, outcome in await driver.fetch(_KNOWN_OUTCOMES, *keys, timeout=limit_s)
    }


async def _join_first(
    driver: Any, plain: Sequence[Values], first_labels: Counter[Period], limit_s: float
) -> set[str]:
    """Join those whose prediction is there and has no label so far: these predictions, and what is to be counted for them."""
    if not plain:
        return set()
    ids = [values[_TARGET] for values in plain]
    columns = [[values[place] for values in plain] for place in _JOINED_COLUMNS]
    joined: set[str] = set()
    try:
        sums = await driver.fetch(_JOIN_FIRST, ids, ids[0], ids[-1], *columns, timeout=limit_s)
    except asyncpg.UniqueViolationError as error:
        raise _RepeatError(partitions=False) from error
    for model, version, period, labels, predictions in sums:
        if labels:
            first_labels[model, version, period] += labels
        joined.update(predictions)
    return joined


async def _found(driver: Any, fresh: NewOutcomes, limit_s: float) -> dict[str, Found]:
    """Their predictions, as far as they are stored, locked."""
    targets = list({claim.target for claim in fresh.claims if claim.target})
    if not targets:
        return {}
    found = await driver.fetch(_FOUND, targets, min(targets), max(targets), timeout=limit_s)
    return {record[0]: Found(*record) for record in found}


async def _label(driver: Any, labels: Mapping[str, tuple[Scalar, datetime]], limit_s: float) -> None:
    if not labels:
        return
    ids = sorted(labels)
    truths = [POSTGRES.scalar(labels[key][0]) for key in ids]
    times = [labels[key][1] for key in ids]
    await driver.execute(_LABEL, ids, ids[0], ids[-1], truths, times, timeout=limit_s)
