"""The store in one SQLite file, for one host: the embedded default. One process opens it; writes go one after another.

Write-ahead logging, so that reads and the recorder do not wait for each other. SQLite's own documentation: wal.html, pragma.html.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from app.adapters import schema
from app.adapters.rows import (
    OUTCOME_COLUMNS,
    PREDICTION_COLUMNS,
    SHADOW_COLUMNS,
    SQLITE,
    encode_batch,
)
from app.adapters.schema import sqlite_time
from app.adapters.sql_control import ControlState
from app.adapters.sql_engine import StorePolicy, transaction
from app.adapters.sql_learning import LearningState
from app.adapters.sql_records import RecordReads, aliases, period_of
from app.control.ports import (
    AuditEntry,
    Batch,
    Ledger,
    Position,
    PredictionRow,
    WriterCounts,
    outcome_subject,
)

_PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=NORMAL",  # the journal on disk is deleted only after a commit; a lost last commit is loaded again
    "PRAGMA busy_timeout=5000",
    "PRAGMA foreign_keys=ON",
    "PRAGMA cache_size=-16000",
    "PRAGMA temp_store=MEMORY",
)
_LOOKUP = 500
_FIRST_LOOK_S, _LAST_LOOK_S = 1.0, 3600.0
_ERASED = "features = NULL, prediction = NULL, confidence = NULL, routing_key = NULL, request_id = NULL, facts = NULL"


def _insert(table: str, columns: Sequence[str]) -> str:
    places = ", ".join("?" * len(columns))
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places}) ON CONFLICT DO NOTHING"  # noqa: S608  # constants


_INSERT_PREDICTION = _insert("predictions", PREDICTION_COLUMNS)
_INSERT_SHADOW = _insert("shadow_predictions", SHADOW_COLUMNS)
_INSERT_OUTCOME = _insert("outcomes", OUTCOME_COLUMNS)
_COUNT = (
    "INSERT INTO prediction_counts (model, model_version, period, stored, predictions, labelled) VALUES (?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (model, model_version, period) DO UPDATE SET stored = stored + excluded.stored, "
    "predictions = predictions + excluded.predictions, labelled = labelled + excluded.labelled"
)


class SqliteStore(ControlState, LearningState, RecordReads):
    def __init__(self, policy: StorePolicy) -> None:
        super().__init__(policy)
        path = policy.url.removeprefix("sqlite:///")
        self._engine = create_async_engine(
            f"sqlite+aiosqlite:///{path}", pool_size=policy.connections, connect_args={"timeout": 5.0}
        )
        sa.event.listen(self._engine.sync_engine, "connect", _prepare)
        self._writing = asyncio.Lock()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        async with transaction(self._engine, self.policy.deadline_s) as connection:
            yield connection

    @asynccontextmanager
    async def write(self, deadline_s: float | None = None) -> AsyncIterator[AsyncConnection]:
        async with (
            self._writing,
            transaction(self._engine, deadline_s or self.policy.deadline_s) as connection,
        ):
            await connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection

    def insert(self, table: sa.Table) -> Any:
        return sqlite.insert(table)

    async def close(self) -> None:
        await self._engine.dispose()

    # ---- the recorder's side

    async def load(self, batch: Batch) -> None:
        predictions, shadows, outcomes = encode_batch(batch, SQLITE)
        now = sqlite_time(self.now())
        async with self.write(self.policy.load_deadline_s) as connection:
            if predictions:
                new = await self._unknown(connection, batch.predictions)
                await connection.exec_driver_sql(_INSERT_PREDICTION, predictions)
                if counted := _counted(new):
                    await connection.exec_driver_sql(_COUNT, counted)
            if shadows:
                await connection.exec_driver_sql(_INSERT_SHADOW, shadows)
            if outcomes:
                await connection.exec_driver_sql(
                    _INSERT_OUTCOME, [(*values, "waiting", now) for values in outcomes]
                )
            if batch.quarantine:
                await connection.execute(
                    sqlite.insert(schema.quarantine).on_conflict_do_nothing(),
                    [
                        {
                            "writer": row.writer,
                            "segment": row.segment,
                            "byte_offset": row.offset,
                            "kind": row.kind,
                            "reason": row.reason,
                            "record": row.record,
                            "at": row.at,
                        }
                        for row in batch.quarantine
                    ],
                )
            await self._put_positions(connection, batch.positions)

    async def _unknown(
        self, connection: AsyncConnection, rows: Sequence[PredictionRow]
    ) -> list[PredictionRow]:
        """Those that are not stored yet: only they count. Nearly always all of them."""
        known: set[str] = set()
        for start in range(0, len(rows), _LOOKUP):
            ids = [row.prediction_id for row in rows[start : start + _LOOKUP]]
            query = sa.select(schema.predictions.c.prediction_id).where(
                schema.predictions.c.prediction_id.in_(ids)
            )
            known.update((await connection.execute(query)).scalars())
        return [row for row in rows if row.prediction_id not in known] if known else list(rows)

    async def _put_positions(self, connection: AsyncConnection, positions: Sequence[Position]) -> None:
        if not positions:
            return
        table = schema.journal_positions
        statement = sqlite.insert(table)
        columns = ("byte_offset", "records", "stored", "quarantined", "torn", "complete")
        await connection.execute(
            statement.on_conflict_do_update(
                index_elements=["writer", "segment"],
                set_={name: statement.excluded[name] for name in columns},
            ),
            [
                {
                    "writer": p.writer,
                    "segment": p.segment,
                    "byte_offset": p.offset,
                    "records": p.records,
                    "stored": p.stored,
                    "quarantined": p.quarantined,
                    "torn": p.torn,
                    "complete": p.complete,
                }
                for p in positions
            ],
        )

    async def positions(self, writers: Sequence[str]) -> list[Position]:
        c = schema.journal_positions.c
        query = sa.select(
            c.writer, c.segment, c.byte_offset, c.records, c.stored, c.quarantined, c.torn, c.complete
        ).where(c.writer.in_(writers))
        async with self.read() as connection:
            return [Position(*row) for row in await connection.execute(query)]

    async def put_writer_counts(self, counts: Sequence[WriterCounts]) -> None:
        if not counts:
            return
        statement = sqlite.insert(schema.journal_writers)
        columns = ("host", "received", "dropped", "closed")
        async with self.write() as connection:
            await connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["writer"],
                    set_={name: statement.excluded[name] for name in columns},
                    # What a closed writer's account says stays: its counts file may be gone half-way.
                    where=schema.journal_writers.c.closed.is_(False),
                ),
                [
                    {
                        "writer": one.writer,
                        "host": one.host,
                        "received": one.received,
                        "dropped": one.dropped,
                        "closed": one.closed,
                    }
                    for one in counts
                ],
            )

    async def ledger(self, host: str) -> Ledger:
        writers, positions = schema.journal_writers.c, schema.journal_positions.c
        async with self.read() as connection:
            rows = (
                await connection.execute(
                    sa.select(writers.received, writers.dropped).where(writers.host == host)
                )
            ).all()
            sums = (
                await connection.execute(
                    sa.select(
                        sa.func.coalesce(sa.func.sum(positions.stored), 0),
                        sa.func.coalesce(sa.func.sum(positions.quarantined), 0),
                        sa.func.coalesce(sa.func.sum(positions.torn), 0),
                    ).where(positions.writer.in_(sa.select(writers.writer).where(writers.host == host)))
                )
            ).one()
        dropped: dict[str, int] = defaultdict(int)
        for _, reasons in rows:
            for reason, count in reasons.items():
                dropped[reason] += count
        return Ledger(sum(row[0] for row in rows), dict(dropped), *sums)

    # ---- outcomes

    async def join_waiting_outcomes(self, limit: int) -> int:
        o = schema.outcomes.c
        now = self.now()
        due = (
            sa.select(o.subject, o.outcome_id, o.prediction_id, o.model, o.request_id, o.received_at)
            .where(o.state == "waiting", o.due_at <= now)
            .order_by(o.due_at)
            .limit(limit)
        )
        async with self.write() as connection:
            waiting = (await connection.execute(due)).all()
            if not waiting:
                return 0
            found = await self._find(connection, waiting)
            settled: list[tuple[Any, ...]] = []
            joined: set[str] = set()
            for row, hit in zip(waiting, found, strict=True):
                if hit is None:
                    age = (now - row.received_at).total_seconds()
                    wait = min(_LAST_LOOK_S, max(_FIRST_LOOK_S, age / 4))
                    settled.append(("waiting", row.prediction_id, sqlite_time(now + timedelta(seconds=wait))))
                elif row.model is not None and hit[1] != row.model:
                    settled.append(("wrong_model", row.prediction_id, None))
                else:
                    settled.append(("joined", hit[0], None))
                    joined.add(hit[0])
            await connection.exec_driver_sql(
                "UPDATE outcomes SET state = ?, prediction_id = ?, due_at = ? WHERE subject = ? AND outcome_id = ?",
                [
                    (*values, row.subject, row.outcome_id)
                    for values, row in zip(settled, waiting, strict=True)
                ],
            )
            await self._label(connection, sorted(joined))
            return len(joined)

    async def _find(
        self, connection: AsyncConnection, waiting: Sequence[Any]
    ) -> list[tuple[str, str] | None]:
        """(prediction id, model) for each waiting outcome, None while its prediction is not stored."""
        p = schema.predictions.c
        by_id: dict[str, str] = {}
        ids = {
            name
            for row in waiting
            if row.prediction_id
            for name in (row.prediction_id, *aliases(row.prediction_id))
        }
        for some in _pieces(sorted(ids)):
            rows = await connection.execute(
                sa.select(p.prediction_id, p.model).where(p.prediction_id.in_(some))
            )
            by_id.update((row[0], row[1]) for row in rows)
        by_request: dict[tuple[str, str], str] = {}
        for model in {row.model for row in waiting if not row.prediction_id}:
            requests = sorted(
                {row.request_id for row in waiting if not row.prediction_id and row.model == model}
            )
            for some in _pieces(requests):
                rows = await connection.execute(
                    sa.select(p.request_id, p.prediction_id)
                    .where(p.model == model, p.request_id.in_(some))
                    .order_by(p.prediction_id.desc())  # of several with one request id the first
                )
                by_request.update(((model, row[0]), row[1]) for row in rows)
        result: list[tuple[str, str] | None] = []
        for row in waiting:
            if row.prediction_id:
                names = (row.prediction_id, *aliases(row.prediction_id))
                name = next((name for name in names if name in by_id), None)
                result.append((name, by_id[name]) if name is not None else None)
            else:
                name = by_request.get((row.model, row.request_id))
                result.append((name, row.model) if name is not None else None)
        return result

    async def _label(self, connection: AsyncConnection, ids: Sequence[str]) -> None:
        """Give each prediction its newest outcome; a prediction that gets its first counts as labelled."""
        p, o = schema.predictions.c, schema.outcomes.c
        for some in _pieces(ids):
            before = (
                await connection.execute(
                    sa.select(
                        p.prediction_id,
                        p.model,
                        p.model_version,
                        p.timestamp,
                        p.status,
                        p.request_id,
                        p.ground_truth_timestamp,
                    ).where(p.prediction_id.in_(some))
                )
            ).all()
            subjects = {name for row in before for name in (row.prediction_id, *aliases(row.prediction_id))}
            subjects |= {outcome_subject(None, row.model, row.request_id) for row in before if row.request_id}
            best: dict[str, Any] = {}
            outcomes = await connection.execute(
                sa.select(o.prediction_id, o.ground_truth, o.observed_at)
                .where(o.subject.in_(sorted(subjects)), o.prediction_id.in_(some), o.state == "joined")
                .order_by(o.observed_at, o.received_at, o.outcome_id)
            )
            for row in outcomes:
                best[row.prediction_id] = row  # the last is the newest
            await connection.exec_driver_sql(
                "UPDATE predictions SET ground_truth = ?, ground_truth_timestamp = ? WHERE prediction_id = ?",
                [
                    (schema.sqlite_scalar(row.ground_truth), sqlite_time(row.observed_at), identity)
                    for identity, row in best.items()
                ],
            )
            first = [
                (row.model, row.model_version, sqlite_time(period_of(row.timestamp)), 0, 0, 1)
                for row in before
                if row.ground_truth_timestamp is None
                and row.prediction_id in best
                and 200 <= row.status < 300
            ]
            if first:
                await connection.exec_driver_sql(_COUNT, first)

    # ---- upkeep

    async def maintain(self, now: datetime, retention_days: dict[str, int]) -> None:
        """Rows beyond retention go, a few thousand at a time, so that the recorder never waits long."""
        for model, days in retention_days.items():
            limit = sqlite_time(now - timedelta(days=days))
            for table in ("predictions", "shadow_predictions"):
                while True:
                    async with self.write() as connection:
                        gone = await connection.exec_driver_sql(
                            f"DELETE FROM {table} WHERE rowid IN "  # noqa: S608  # constants
                            f"(SELECT rowid FROM {table} WHERE model = ? AND timestamp < ? LIMIT 5000)",
                            (model, limit),
                        )
                    if gone.rowcount < 5000:
                        break

    async def erase(self, model: str, routing_key: str, audit: AuditEntry) -> int:
        async with self.write() as connection:
            ids = list(
                (
                    await connection.exec_driver_sql(
                        "SELECT prediction_id FROM predictions WHERE model = ? AND routing_key = ?",
                        (model, routing_key),
                    )
                ).scalars()
            )
            for some in _pieces(ids):
                places = ", ".join("?" * len(some))
                await connection.exec_driver_sql(
                    f"UPDATE predictions SET {_ERASED} WHERE prediction_id IN ({places})",  # noqa: S608  # constants
                    tuple(some),
                )
                await connection.exec_driver_sql(
                    f"UPDATE shadow_predictions SET prediction = NULL, confidence = NULL WHERE prediction_id IN ({places})",  # noqa: S608
                    tuple(some),
                )
            await connection.execute(
                sa.insert(schema.audit_log).values(
                    at=audit.at,
                    actor=audit.actor,
                    origin=audit.origin,
                    action=audit.action,
                    model=audit.model,
                    reason=audit.reason,
                    before=audit.before,
                    after=audit.after,
                )
            )
        return len(ids)


def _counted(rows: Iterable[PredictionRow]) -> list[tuple[Any, ...]]:
    sums: dict[tuple[str, str, str], list[int]] = {}
    for row in rows:
        counts = sums.setdefault(
            (row.model, row.model_version, sqlite_time(period_of(row.timestamp))), [0, 0]
        )
        counts[0] += 1
        counts[1] += 200 <= row.status < 300
    return [(*key, stored, answered, 0) for key, (stored, answered) in sums.items()]


def _pieces(names: Sequence[str]) -> Iterable[Sequence[str]]:
    return (names[start : start + _LOOKUP] for start in range(0, len(names), _LOOKUP))


def _prepare(connection: Any, _: object) -> None:
    # The driver's own transaction handling is off: this store says BEGIN itself.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in _PRAGMAS:
        cursor.execute(pragma)
    cursor.close()
