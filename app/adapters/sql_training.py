"""The rows of a training set, as they were known at a time. Never more than a chunk of them in memory.

A label that came after that time does not count, whatever it says of when it was observed: the row then has the label that held before,
or is left out.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.schema import outcomes, prediction_counts, predictions
from app.adapters.sql_outcomes import JOINED
from app.adapters.sql_records import EPOCH, LABELLED, QUARTER, RecordReads, fetched, subjects, within
from app.control.ports import Row

_CHUNK = 1000  # rows in memory
_SPAN_ROWS = 20_000  # rows, labelled or not, in which one query looks
_KEYS_AT_ONCE = 500

_P = predictions.c
_O = outcomes.c
_ONLY_HERE = ("model", "request_id", "learned_later")  # what a label is looked up by


class TrainingReads(RecordReads):
    async def training_rows(
        self,
        model: str,
        since: datetime | None,
        until: datetime | None,
        version: str | None,
        as_of: datetime | None = None,
        after: tuple[datetime, str] | None = None,
    ) -> AsyncIterator[list[Row]]:
        """No transaction stays open for as long as a client reads: each chunk is a query of its own, in a span of time that the
        counts say holds a few thousand rows.
        """
        async with self.read() as connection:
            versions = [version] if version is not None else await self.versions_of(connection, model)
            c = prediction_counts.c
            query = (
                sa.select(c.period, sa.cast(sa.func.sum(c.stored), sa.BigInteger))
                .where(c.model == model, c.model_version.in_(versions))
                .group_by(c.period)
                .order_by(c.period)
            )
            periods = [(period, stored) for period, stored in await connection.execute(query)]
        columns = [*LABELLED, _P.role, _P.model, _P.request_id, _learned_later(as_of).label("learned_later")]
        wanted = [_P.model == model, _P.model_version.in_(versions), _P.ground_truth_timestamp.is_not(None)]
        for lower, upper in _spans(periods, since, until):
            if after is not None and upper <= after[0]:
                continue
            while True:
                # One lower bound: given two, SQLite would search by the first and read all between them again and again.
                begin, beyond = lower, []
                if after is not None and after[0] >= lower:
                    begin = after[0]
                    beyond = [sa.or_(_P.timestamp > after[0], _P.prediction_id > after[1])]
                query = (
                    sa.select(*columns)
                    .where(*wanted, *within(predictions, begin, upper), *beyond)
                    .order_by(_P.timestamp, _P.prediction_id)
                    .limit(_CHUNK)
                )
                async with self.read() as connection:
                    rows = await fetched(await connection.execute(query))
                    known = rows if as_of is None else await _as_known(connection, rows, as_of)
                if known:
                    yield [
                        {name: value for name, value in row.items() if name not in _ONLY_HERE}
                        for row in known
                    ]
                if rows:
                    after = rows[-1]["timestamp"], rows[-1]["prediction_id"]
                if len(rows) < _CHUNK:
                    break


def _learned_later(as_of: datetime | None) -> Any:
    """Whether an outcome of the row was received after that time; asked of the database, since it hardly ever is so."""
    if as_of is None:
        return sa.false()
    name = _P.prediction_id
    row_of_one = sa.func.substr(name, 1, sa.func.length(name) - 2)  # `id` and `id:0` are the same row
    other = sa.case((name.like("%:0"), row_of_one), else_=name + ":0")
    request = sa.literal("request:") + _P.model + ":" + _P.request_id
    about_it = (_O.subject.in_([name, other, request]), _O.prediction_id == name, _O.state == JOINED)
    return sa.exists().where(*about_it, _O.received_at > as_of).correlate(predictions)


async def _as_known(connection: AsyncConnection, rows: Sequence[Row], as_of: datetime) -> list[Row]:
    """The rows with the labels that held at that time; less those that had none yet."""
    later = {subject: row for row in rows if row["learned_later"] for subject in subjects(row)}
    if not later:
        return list(rows)
    held: dict[str, sa.RowMapping] = {}
    keys = list(later)
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        query = (
            sa.select(_O.prediction_id, _O.ground_truth, _O.observed_at)
            .where(_O.subject.in_(keys[start : start + _KEYS_AT_ONCE]), _O.state == JOINED)
            .where(_O.received_at <= as_of)
            # Of several the newest observed holds, then the last received: the last one here.
            .order_by(_O.observed_at, _O.received_at, _O.outcome_id)
        )
        for found in (await connection.execute(query)).mappings():
            before = held.get(found["prediction_id"])
            if before is None or before["observed_at"] <= found["observed_at"]:
                held[found["prediction_id"]] = found
    known = []
    for row in rows:
        if row["learned_later"]:
            label = held.get(row["prediction_id"])
            if label is None:
                continue
            row["ground_truth"], row["ground_truth_timestamp"] = label["ground_truth"], label["observed_at"]
        known.append(row)
    return known


def _spans(
    periods: Sequence[tuple[datetime, int]], since: datetime | None, until: datetime | None
) -> Iterator[tuple[datetime, datetime]]:
    """Neighbouring periods put together, as long as they hold few rows, and cut to what was asked for."""

    def within_both(lower: datetime, upper: datetime) -> tuple[datetime, datetime]:
        return (
            lower if since is None else max(lower, since),
            upper if until is None else min(upper, until),
        )

    start: datetime | None = None
    rows = 0
    end = EPOCH
    for period, stored in periods:
        if (since is not None and period + QUARTER <= since) or (until is not None and period >= until):
            continue
        if start is not None and rows + stored > _SPAN_ROWS:
            yield within_both(start, end)
            start, rows = None, 0
        start = period if start is None else start
        rows += stored
        end = period + QUARTER
    if start is not None:
        yield within_both(start, end)
