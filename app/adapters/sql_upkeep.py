"""Retention and erasure, in bounded steps: a day or some thousand rows a transaction, so that the recorder never waits long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import msgspec
import sqlalchemy as sa

from app.adapters.rows import id_floor
from app.adapters.schema import outcomes, prediction_counts, predictions, quarantine, shadow_predictions
from app.adapters.sql_control import audited
from app.adapters.sql_engine import SqlEngine
from app.control.ports import AuditEntry
from app.journal.records import PredictionRecord, decode

_DAY = timedelta(days=1)
_ROWS_AT_ONCE = 5_000
_DEFAULT_DAYS = 400


def day_start(at: datetime) -> datetime:
    return at.replace(hour=0, minute=0, second=0, microsecond=0)


class Upkeep(SqlEngine):
    async def maintain(self, now: datetime, retention_days: Mapping[str, int]) -> None:
        """Whole UTC days go. A model that is no longer configured keeps its rows as long as the one that keeps them longest."""
        longest = max(retention_days.values(), default=_DEFAULT_DAYS)
        oldest = day_start(now - timedelta(days=longest))
        await self.drop_before(oldest)
        async with self.read() as connection:
            c = prediction_counts.c
            first_days = (
                await connection.execute(sa.select(c.model, sa.func.min(c.period)).group_by(c.model))
            ).all()
        for model, first in first_days:
            cutoff = day_start(now - timedelta(days=retention_days.get(model, longest)))
            for day in await self._days(model, first, cutoff):
                await self._delete_day(model, day)
        o = outcomes.c
        by_request = sa.and_(o.subject >= "request:", o.received_at < oldest)
        await self._delete_slowly(outcomes, sa.or_(o.subject < id_floor(oldest), by_request))
        await self._delete_slowly(quarantine, quarantine.c.at < oldest)

    async def drop_before(self, oldest: datetime) -> None:
        """Drop whole partitions, where there are any."""

    async def _days(self, model: str, since: datetime | None, until: datetime | None) -> list[datetime]:
        """UTC days of which anything is stored."""
        c = prediction_counts.c
        query = sa.select(c.period).where(c.model == model).distinct().order_by(c.period)
        if since is not None:
            query = query.where(c.period >= since)
        if until is not None:
            query = query.where(c.period < until)
        async with self.read() as connection:
            return list(
                dict.fromkeys(day_start(period) for period in (await connection.execute(query)).scalars())
            )

    async def _delete_day(self, model: str, day: datetime) -> None:
        for table in (predictions, shadow_predictions):
            c = table.c
            of_day = (
                c.model == model,
                c.prediction_id >= id_floor(day),
                c.prediction_id < id_floor(day + _DAY),
            )
            await self._delete_slowly(table, sa.and_(*of_day))
        c = prediction_counts.c
        async with self.write() as connection:
            await connection.execute(
                sa.delete(prediction_counts).where(c.model == model, c.period >= day, c.period < day + _DAY)
            )

    async def _delete_slowly(self, table: sa.Table, condition: sa.ColumnElement[bool]) -> None:
        keys = list(table.primary_key.columns)
        some = sa.select(*keys).where(condition).limit(_ROWS_AT_ONCE)
        key = keys[0] if len(keys) == 1 else sa.tuple_(*keys)
        while True:
            async with self.write() as connection:
                deleted = (
                    await connection.execute(sa.delete(table).where(condition, key.in_(some)))
                ).rowcount
            if deleted < _ROWS_AT_ONCE:
                return

    async def erase(self, model: str, routing_keys: Sequence[str], audit: AuditEntry) -> int:
        """Also removes quarantined records that hold one of the keys, since they are kept whole."""
        erased = 0
        p, s = predictions.c, shadow_predictions.c
        for day in await self._days(model, None, None):
            in_day = (p.timestamp >= day, p.timestamp < day + _DAY)
            # An id's time may be off the timestamp when a clock was set back, hence the day on either side.
            near = (p.prediction_id >= id_floor(day - _DAY), p.prediction_id < id_floor(day + 2 * _DAY))
            of_key = (p.model == model, p.routing_key.in_(routing_keys), *in_day, *near)
            async with self.write() as connection:
                ids = list((await connection.execute(sa.select(p.prediction_id).where(*of_key))).scalars())
                for start in range(0, len(ids), 500):
                    some = ids[start : start + 500]
                    await connection.execute(
                        sa.update(predictions)
                        .where(p.prediction_id.in_(some))
                        .values(features=None, prediction=None, confidence=None, facts=None, routing_key=None)
                    )
                    await connection.execute(
                        sa.update(shadow_predictions)
                        .where(s.prediction_id.in_(some))
                        .values(prediction=None, difference=None)
                    )
                erased += len(ids)
        quarantined = await self._quarantined(model, routing_keys)
        async with self.write() as connection:
            await connection.execute(sa.delete(quarantine).where(quarantine.c.id.in_(quarantined)))
            await connection.execute(audited(audit))
        return erased

    async def _quarantined(self, model: str, routing_keys: Sequence[str]) -> Sequence[int]:
        found: list[int] = []
        last = 0
        while True:
            q = quarantine.c
            query = sa.select(q.id, q.record).where(q.id > last).order_by(q.id).limit(100)
            async with self.read() as connection:
                rows = (await connection.execute(query)).all()
            found += [number for number, record in rows if _is_of(record, model, routing_keys)]
            if not rows:
                return found
            last = rows[-1][0]


def _is_of(record: bytes, model: str, routing_keys: Sequence[str]) -> bool:
    """Whether a quarantined record is of one of these keys; one that cannot be decoded is, when it holds a key's bytes."""
    try:
        read = decode(record)
    except msgspec.DecodeError:
        return any(key.encode("utf-8", "replace") in record for key in routing_keys)
    return isinstance(read, PredictionRecord) and read.model == model and read.routing_key in routing_keys
