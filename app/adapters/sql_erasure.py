"""Erasure of what is stored about routing keys: in bounded steps, each whole in itself, so that the recorder never waits long and
whoever repeats one that was broken off goes on where it ended.

Rows of predictions stay, since counts of requests do; what they said of anybody goes, and with it all that others said about them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.rows import id_floor
from app.adapters.schema import (
    outcomes,
    prediction_counts,
    predictions,
    quarantine,
    reviews,
    shadow_predictions,
)
from app.adapters.sql_control import audited
from app.adapters.sql_engine import SqlEngine
from app.adapters.sql_records import counts_in_coverage, period_of
from app.control.ports import AuditEntry, outcome_subject
from app.domain.prediction import format_id
from app.domain.routing import ERASED
from app.journal.records import OutcomeRecord, PredictionRecord, Record, ShadowRecord, decode

_DAY = timedelta(days=1)
_ROWS_AT_ONCE = 100
_RECORDS_AT_ONCE = 100
_BEHIND_ROWS = ";"  # the character after the colon in front of a row's number

# What a record that cannot be decoded may hold of an id: 16 bytes as msgpack writes them, or its text.
_RAW_ID = re.compile(rb"(?=\xc4\x10(.{16}))", re.DOTALL)
_TEXT_ID = re.compile(rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(slots=True)
class _Traces:
    """Under what the data of the keys may be kept beside their predictions."""

    model: str
    routing_keys: Sequence[str]
    ids: set[str] = field(default_factory=set)  # of predictions, without the row
    requests: set[str] = field(default_factory=set)  # the clients' own ids

    def is_of_key(self, record: Record | bytes) -> bool:
        """A prediction of one of the keys; of one that cannot be decoded, whether it holds a key's bytes."""
        if isinstance(record, bytes):
            return any(key.encode("utf-8", "replace") in record for key in self.routing_keys)
        return (
            isinstance(record, PredictionRecord)
            and record.model == self.model
            and record.routing_key in self.routing_keys
        )

    def is_about(self, record: Record | bytes) -> bool:
        """A shadow's answer or an outcome to one of the predictions."""
        match record:
            case bytes():
                found = {format_id(raw) for raw in _RAW_ID.findall(record)}
                found |= {text.decode() for text in _TEXT_ID.findall(record)}
                return not self.ids.isdisjoint(found)
            case ShadowRecord():
                return format_id(record.prediction_id) in self.ids
            case OutcomeRecord():
                return record.prediction_id.partition(":")[0] in self.ids or (
                    record.model == self.model and record.request_id in self.requests
                )
            case PredictionRecord():
                return False


class Erasure(SqlEngine):
    async def erase(self, model: str, routing_keys: Sequence[str], audit: AuditEntry) -> int:
        """Remove what is kept under routing keys of a model: features, prediction, label, the key and what follows from it, the
        client's own id; shadows' answers, outcomes, reviews; records in quarantine. Returns how many predictions were found.

        What arrived since for predictions that were erased before goes too.
        """
        traces = _Traces(model, routing_keys)
        erased = 0
        for day in await stored_days(self, model):
            for some in _in_parts(await self._ids_of(traces, day)):
                erased += await self._erase_rows(some, traces)
        ids, requests = set(traces.ids), set(traces.requests)
        numbers = [number async for number, record in self._quarantined() if _note(traces, record)]
        for some in _in_parts(sorted(traces.ids - ids)):  # without a row that is stored
            async with self.write() as connection:
                await _erase_about(connection, model, some, sorted(traces.requests - requests))
        numbers += [number async for number, record in self._quarantined() if traces.is_about(record)]
        for some in _in_parts(numbers):
            async with self.write() as connection:
                await connection.execute(sa.delete(quarantine).where(quarantine.c.id.in_(some)))
        async with self.write() as connection:
            await connection.execute(audited(audit))
        return erased

    async def _ids_of(self, traces: _Traces, day: datetime) -> Sequence[str]:
        p = predictions.c
        earlier = sa.and_(p.routing_key.is_(None), p.reason == ERASED)
        query = sa.select(p.prediction_id).where(
            p.model == traces.model,
            sa.or_(p.routing_key.in_(traces.routing_keys), earlier),
            p.timestamp >= day,
            p.timestamp < day + _DAY,
            # An id's time may be off the timestamp when a clock was set back, hence the day on either side.
            p.prediction_id >= id_floor(day - _DAY),
            p.prediction_id < id_floor(day + 2 * _DAY),
        )
        async with self.read() as connection:
            return list((await connection.execute(query)).scalars())

    async def _erase_rows(self, ids: Sequence[str], traces: _Traces) -> int:
        p = predictions.c
        these = p.prediction_id.in_(ids)
        columns = (
            p.prediction_id, p.model_version, p.timestamp, p.status, p.request_id, p.routing_key, p.ground_truth_timestamp,
        )  # fmt: skip
        async with self.write() as connection:
            query = sa.select(*columns).where(these).order_by(p.prediction_id).with_for_update()
            rows = (await connection.execute(query)).all()
            requests = sorted({row.request_id for row in rows if row.request_id is not None})
            bases = sorted({row.prediction_id.partition(":")[0] for row in rows})
            traces.ids.update(bases)
            traces.requests.update(requests)
            await connection.execute(
                sa.update(predictions)
                .where(these)
                .values(
                    features=None,
                    prediction=None,
                    confidence=None,
                    ground_truth=None,
                    ground_truth_timestamp=None,
                    request_id=None,
                    routing_key=None,
                    bucket=None,
                    reason=ERASED,
                    facts=None,
                )
            )
            labels = Counter(
                (row.model_version, period_of(row.timestamp))
                for row in rows
                if row.ground_truth_timestamp is not None and counts_in_coverage(row.status)
            )
            c = prediction_counts.c
            for (version, period), count in sorted(labels.items()):
                of_it = (c.model == traces.model, c.model_version == version, c.period == period)
                fewer = sa.update(prediction_counts).where(*of_it).values(labelled=c.labelled - count)
                await connection.execute(fewer)
            await _erase_about(connection, traces.model, bases, requests)
        return sum(row.routing_key in traces.routing_keys for row in rows)

    async def _quarantined(self) -> AsyncIterator[tuple[int, Record | bytes]]:
        """Number and record, as bytes when it cannot be decoded."""
        q = quarantine.c
        last = 0
        while True:
            query = sa.select(q.id, q.record).where(q.id > last).order_by(q.id).limit(_RECORDS_AT_ONCE)
            async with self.read() as connection:
                rows = (await connection.execute(query)).all()
            for number, record in rows:
                yield number, decoded(record)
            if not rows:
                return
            last = rows[-1][0]


def _note(traces: _Traces, record: Record | bytes) -> bool:
    """Whether a record in quarantine is of the key; if so, what belongs to it will be looked for as well."""
    if not traces.is_of_key(record):
        return False
    if isinstance(record, PredictionRecord):
        traces.ids.add(format_id(record.prediction_id))
        if record.request_id is not None:
            traces.requests.add(record.request_id)
    return True


async def _erase_about(
    connection: AsyncConnection, model: str, ids: Sequence[str], requests: Sequence[str]
) -> None:
    """What shadows answered to these predictions, and what anybody said about them. `ids` are without rows: a shadow may have answered
    with another number of rows than production, and an outcome may name one that there never was.
    """
    await connection.execute(
        sa.update(shadow_predictions)
        .where(_any_row(shadow_predictions.c.prediction_id, ids))
        .values(prediction=None, confidence=None, difference=None, agreement=None)
    )
    await connection.execute(sa.delete(reviews).where(_any_row(reviews.c.prediction_id, ids)))
    o = outcomes.c
    await connection.execute(sa.delete(outcomes).where(_any_row(o.subject, ids)))
    for some in _in_parts(requests):
        # A client may use an id again, for another key: what has joined that one's prediction is not ours.
        subjects = [outcome_subject(None, model, request) for request in some]
        ours = sa.or_(o.prediction_id.is_(None), _any_row(o.prediction_id, ids))
        await connection.execute(sa.delete(outcomes).where(o.subject.in_(subjects), ours))


def _any_row(column: sa.ColumnElement[str], ids: Sequence[str]) -> sa.ColumnElement[bool]:
    """`id` itself or `id:row`, as ranges, which an index finds and partitions are left out by."""
    return sa.or_(sa.false(), *(sa.and_(column >= base, column < f"{base}{_BEHIND_ROWS}") for base in ids))


def _in_parts(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), _ROWS_AT_ONCE):
        yield items[start : start + _ROWS_AT_ONCE]


def decoded(record: bytes) -> Record | bytes:
    """A quarantined record; its bytes when they are none."""
    try:
        return decode(record)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return bytes(record)


async def stored_days(engine: SqlEngine, model: str, until: datetime | None = None) -> list[datetime]:
    """UTC days of which anything is stored."""
    c = prediction_counts.c
    query = sa.select(c.period).where(c.model == model).distinct().order_by(c.period)
    if until is not None:
        query = query.where(c.period < until)
    async with engine.read() as connection:
        periods = (await connection.execute(query)).scalars()
        return list(dict.fromkeys(day_start(period) for period in periods))


def day_start(at: datetime) -> datetime:
    """Midnight before it, UTC."""
    return at.replace(hour=0, minute=0, second=0, microsecond=0)
