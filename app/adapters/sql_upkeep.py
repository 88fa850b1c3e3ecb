"""Retention, in bounded steps: a day or some thousand rows a transaction, so that the recorder never waits long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from app.adapters.rows import id_floor
from app.adapters.schema import (
    outcomes,
    prediction_counts,
    predictions,
    quarantine,
    reviews,
    shadow_predictions,
)
from app.adapters.sql_engine import SqlEngine, StorePolicy
from app.adapters.sql_erasure import day_start, decoded, stored_days
from app.adapters.sql_outcomes import WAITING
from app.control.ports import outcome_subject

_DAY = timedelta(days=1)
_ROWS_AT_ONCE = 5_000
_RECORDS_AT_ONCE = 100
_DEFAULT_DAYS = 400
_EVER = datetime.min.replace(tzinfo=UTC)
_BY_REQUEST = (
    "request:"  # begins the subject of an outcome that was sent for a request; ids begin with a digit
)


class Upkeep(SqlEngine):
    def __init__(self, policy: StorePolicy) -> None:
        super().__init__(policy)
        self._swept: dict[str | None, datetime] = {}  # until when a model's quarantine was looked through

    async def maintain(self, now: datetime, retention_days: Mapping[str, int]) -> None:
        """Whole UTC days go, with all that belongs to them. A model that is no longer configured keeps its rows as long as the one that
        keeps them longest.
        """
        longest = max(retention_days.values(), default=_DEFAULT_DAYS)
        oldest = day_start(now - timedelta(days=longest))
        await self.drop_before(oldest)
        async with self.read() as connection:
            stored = set(
                (await connection.execute(sa.select(prediction_counts.c.model).distinct())).scalars()
            )
        for model in sorted(stored.union(retention_days)):
            cutoff = day_start(now - timedelta(days=retention_days.get(model, longest)))
            for day in await stored_days(self, model, cutoff):
                await self._delete_day(model, day)
            await self._delete_outcomes(model, cutoff)
        o = outcomes.c
        by_request = sa.and_(o.subject >= _BY_REQUEST, o.received_at < oldest)
        await self._delete_slowly(outcomes, sa.or_(o.subject < id_floor(oldest), by_request))
        await self._delete_slowly(reviews, reviews.c.prediction_id < id_floor(oldest))
        await self._delete_slowly(quarantine, quarantine.c.at < oldest)
        await self._delete_quarantined(now, retention_days)

    async def drop_before(self, oldest: datetime) -> None:
        """Drop whole partitions, where there are any."""

    async def _delete_day(self, model: str, day: datetime) -> None:
        await self._delete_joined(model, day)
        for table in (reviews, shadow_predictions, predictions):
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

    async def _delete_joined(self, model: str, day: datetime) -> None:
        """The outcomes of a day's predictions. Most do not name their model; their prediction does, as long as it is there."""
        p, o = predictions.c, outcomes.c
        of_model = (p.model == model, p.prediction_id < id_floor(day + _DAY))
        after = p.prediction_id >= id_floor(day)
        while True:
            some = sa.select(p.prediction_id).where(*of_model, after).order_by(p.prediction_id)
            async with self.read() as connection:
                ids = (await connection.execute(some.limit(_ROWS_AT_ONCE))).scalars().all()
            if not ids:
                return
            first, last = (
                ids[0].partition(":")[0],
                ids[-1].partition(":")[0],
            )  # an outcome may name another row
            theirs = sa.select(p.prediction_id).where(*of_model, after, p.prediction_id <= ids[-1])
            async with self.write() as connection:
                await connection.execute(
                    sa.delete(outcomes).where(
                        o.subject >= first,
                        o.subject < f"{last};",
                        sa.or_(o.model == model, o.prediction_id.in_(theirs)),
                    )
                )
            after = p.prediction_id > ids[-1]

    async def _delete_outcomes(self, model: str, cutoff: datetime) -> None:
        """Those that are no stored prediction's by their name: sent for a request, or waiting for a prediction that is gone."""
        o = outcomes.c
        subject = outcome_subject(None, model, "")
        of_model = (o.subject >= subject, o.subject < f"{subject[:-1]};", o.model == model)
        old = sa.or_(o.received_at < cutoff, o.prediction_id < id_floor(cutoff))
        await self._delete_slowly(outcomes, sa.and_(*of_model, old))
        waiting = (o.state == WAITING, o.model == model, o.subject < id_floor(cutoff))
        await self._delete_slowly(outcomes, sa.and_(*waiting))

    async def _delete_quarantined(self, now: datetime, retention_days: Mapping[str, int]) -> None:
        """Records are kept whole, so that only decoding them tells whose they are: each once for each time it might have to go at. One
        that cannot be decoded, or an outcome that names no model, may be any model's: it goes with those that are kept shortest.
        """
        shortest = min(retention_days.values(), default=_DEFAULT_DAYS)
        kept_for: dict[int, list[str | None]] = {shortest: [None]}
        for model, days in retention_days.items():
            kept_for.setdefault(days, []).append(model)
        for days, models in kept_for.items():
            cutoff = day_start(now - timedelta(days=days))
            since = min(self._swept.get(model, _EVER) for model in models)
            if since < cutoff:
                await self._delete_quarantined_of(models, since, cutoff)
                self._swept |= dict.fromkeys(models, cutoff)

    async def _delete_quarantined_of(
        self, models: Sequence[str | None], since: datetime, cutoff: datetime
    ) -> None:
        q = quarantine.c
        last = 0
        while True:
            query = sa.select(q.id, q.record).where(q.id > last, q.at < cutoff).order_by(q.id)
            if since > _EVER:
                query = query.where(q.at >= since)
            async with self.read() as connection:
                rows = (await connection.execute(query.limit(_RECORDS_AT_ONCE))).all()
            if not rows:
                return
            theirs = [number for number, record in rows if _model_of(record) in models]
            if theirs:
                async with self.write() as connection:
                    await connection.execute(sa.delete(quarantine).where(q.id.in_(theirs)))
            last = rows[-1][0]

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


def _model_of(record: bytes) -> str | None:
    """Whose a quarantined record is, as far as it says so."""
    found = decoded(record)
    return None if isinstance(found, bytes) else found.model or None
