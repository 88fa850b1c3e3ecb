"""Reads of predictions, shadows, outcomes and coverage. None of them may take longer because more history is stored.

Newest rows come from an index in time order; counts come from `prediction_counts`. Rows of several versions are read per version
and merged, since the indexes begin with model and version.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from app.adapters.rows import id_floor
from app.adapters.schema import outcomes, prediction_counts, predictions, shadow_predictions
from app.adapters.sql_engine import SqlEngine
from app.control.ports import Row, outcome_subject
from app.domain.prediction import row_id

_KEYS_AT_ONCE = 500  # of one IN list
_SLICE = 250  # rows made at a time
QUARTER = timedelta(minutes=15)
_SKEW = timedelta(days=1)  # an id's time may be off its row's timestamp by a clock that was set back

_P = predictions.c
LABELLED = (
    _P.prediction_id, _P.model_version, _P.timestamp, _P.prediction, _P.confidence, _P.ground_truth,
    _P.ground_truth_timestamp, _P.propensity, _P.latency_ms, _P.features,
)  # fmt: skip
_RECENT = (_P.prediction_id, _P.model_version, _P.timestamp, _P.features, _P.prediction, _P.confidence)


def period_of(at: datetime) -> datetime:
    """The quarter of an hour that `at` lies in."""
    return at.replace(minute=at.minute - at.minute % 15, second=0, microsecond=0)


def counts_in_coverage(status: Any) -> Any:
    """Only answers that can have a truth are waited for."""
    return (status >= 200) & (status < 300)


def within(table: sa.Table, since: datetime | None, until: datetime | None) -> list[Any]:
    """since <= timestamp < until; the same bounds on the id let PostgreSQL leave out partitions."""
    bounds: list[Any] = []
    if since is not None:
        bounds += [table.c.timestamp >= since, table.c.prediction_id >= id_floor(since - _SKEW)]
    if until is not None:
        bounds += [table.c.timestamp < until, table.c.prediction_id < id_floor(until + _SKEW)]
    return bounds


class RecordReads(SqlEngine):
    async def prediction(self, prediction_id: str) -> Row | None:
        async with self.read() as connection:
            found = None
            for candidate in (prediction_id, *aliases(prediction_id)):
                result = await connection.execute(sa.select(predictions).where(_P.prediction_id == candidate))
                found = result.mappings().one_or_none()
                if found is not None:
                    break
            if found is None:
                return None
            row = dict(found)
            of_it = shadow_predictions.c.prediction_id == row["prediction_id"]
            shadows = await connection.execute(
                sa.select(shadow_predictions).where(of_it).order_by(shadow_predictions.c.model_version)
            )
            row["shadow"] = [dict(shadow) for shadow in shadows.mappings()]
            named = [row["prediction_id"], *aliases(row["prediction_id"])]
            if row["request_id"] is not None:
                named.append(outcome_subject(None, row["model"], row["request_id"]))
            about_it = await connection.execute(
                sa.select(outcomes)
                .where(outcomes.c.subject.in_(named), outcomes.c.prediction_id == row["prediction_id"])
                .order_by(
                    outcomes.c.observed_at.desc(), outcomes.c.received_at.desc(), outcomes.c.outcome_id.desc()
                )
            )
            row["outcomes"] = [dict(outcome) for outcome in about_it.mappings()]
            return row

    async def predictions_brief(self, ids: Sequence[str]) -> dict[str, Row]:
        columns = (_P.prediction_id, _P.model, _P.model_version, _P.prediction, _P.confidence, _P.features)
        found: dict[str, Row] = {}
        async with self.read() as connection:
            for start in range(0, len(ids), _KEYS_AT_ONCE):
                some = _P.prediction_id.in_(ids[start : start + _KEYS_AT_ONCE])
                result = await connection.execute(sa.select(*columns).where(some))
                for row in result.mappings():
                    found[row["prediction_id"]] = {k: v for k, v in row.items() if k != "prediction_id"}
        return found

    async def labelled(
        self, model: str, version: str | None, since: datetime | None, until: datetime | None, limit: int
    ) -> list[Row]:
        conditions = [_P.ground_truth_timestamp.is_not(None)]
        return await self._newest(predictions, LABELLED, conditions, model, version, since, until, limit)

    async def answers(
        self, model: str, version: str, since: datetime | None, until: datetime | None, limit: int
    ) -> list[Row]:
        conditions = [counts_in_coverage(_P.status)]
        return await self._newest(predictions, LABELLED, conditions, model, version, since, until, limit)

    async def recent(self, model: str, version: str | None, since: datetime | None, limit: int) -> list[Row]:
        return await self._newest(predictions, _RECENT, [], model, version, since, None, limit)

    async def coverage(self, model: str, since: datetime | None, until: datetime | None) -> list[Row]:
        """Whole quarters of an hour come from the counts, what is left over at either end from the rows."""
        first = None if since is None else -(-(since - EPOCH) // QUARTER) * QUARTER + EPOCH
        last = None if until is None else (until - EPOCH) // QUARTER * QUARTER + EPOCH
        totals: dict[str, list[int]] = {}

        def add(rows: Any) -> None:
            for version, stored, labels in rows:
                sums = totals.setdefault(version, [0, 0])
                sums[0] += stored
                sums[1] += labels

        async with self.read() as connection:
            versions = await self.versions_of(connection, model)

            async def count_rows(lower: datetime | None, upper: datetime | None) -> None:
                add(await connection.execute(_counted(model, versions, lower, upper)))

            if first is not None and last is not None and first > last:  # within one quarter
                await count_rows(since, until)
            else:
                counts = prediction_counts.c
                whole = [counts.model == model]
                whole += [] if first is None else [counts.period >= first]
                whole += [] if last is None else [counts.period < last]
                sums = (
                    sa.cast(sa.func.sum(count), sa.BigInteger)
                    for count in (counts.predictions, counts.labelled)
                )
                query = sa.select(counts.model_version, *sums).where(*whole).group_by(counts.model_version)
                add(await connection.execute(query))
                if since != first:
                    await count_rows(since, first)
                if until != last:
                    await count_rows(last, until)
        return [
            {"model_version": version, "predictions": stored, "labelled": labels}
            for version, (stored, labels) in sorted(totals.items())
            if stored
        ]

    async def shadow_pairs(self, model: str, version: str, since: datetime | None, limit: int) -> list[Row]:
        s = shadow_predictions.c
        columns = (
            s.prediction_id, s.timestamp, s.role, s.model_version, _P.model_version.label("production_version"),
            _P.prediction, s.prediction.label("shadow_prediction"), _P.confidence, s.confidence.label("shadow_confidence"),
            _P.latency_ms, s.latency_ms.label("shadow_latency_ms"), _P.status, s.status.label("shadow_status"),
            s.difference, s.agreement, s.error, _P.features, _P.ground_truth,
        )  # fmt: skip
        joined = shadow_predictions.join(predictions, s.prediction_id == _P.prediction_id)
        return await self._newest(
            shadow_predictions, columns, [s.role != "failed"], model, version, since, None, limit, joined
        )

    async def rollout_pairs(
        self,
        rollout_id: str,
        model: str,
        version: str,
        since: datetime,
        until: datetime,
        limit: int,
        *,
        labelled: bool,
    ) -> list[Row]:
        s = shadow_predictions.c
        columns = (
            s.prediction_id, s.timestamp, s.role, _P.model_version.label("production_version"),
            _P.prediction, s.prediction.label("shadow_prediction"), _P.confidence, s.confidence.label("shadow_confidence"),
            _P.latency_ms, _P.status, s.status.label("shadow_status"), _P.ground_truth,
        )  # fmt: skip
        conditions = [s.role != "failed", _P.rollout_id == rollout_id, _P.forced.is_(False)]
        conditions += [_P.ground_truth_timestamp.is_not(None)] if labelled else []
        joined = shadow_predictions.join(predictions, s.prediction_id == _P.prediction_id)
        return await self._newest(
            shadow_predictions, columns, conditions, model, version, since, until, limit, joined
        )

    async def rollout_labels(
        self, rollout_id: str, model: str, since: datetime, until: datetime, limit: int
    ) -> list[Row]:
        columns = (
            _P.prediction_id, _P.model_version, _P.role, _P.timestamp, _P.prediction, _P.confidence, _P.ground_truth,
            _P.canary_percent,
        )  # fmt: skip
        conditions = [
            _P.ground_truth_timestamp.is_not(None),
            _P.rollout_id == rollout_id,
            _P.forced.is_(False),
            _P.role.in_(("production", "canary")),
        ]
        return await self._newest(predictions, columns, conditions, model, None, since, until, limit)

    async def _newest(
        self,
        table: sa.Table,
        columns: Sequence[Any],
        conditions: Sequence[Any],
        model: str,
        version: str | None,
        since: datetime | None,
        until: datetime | None,
        limit: int,
        source: Any = None,
    ) -> list[Row]:
        rows: list[Row] = []
        async with self.read() as connection:
            names = [version] if version is not None else await self.versions_of(connection, model)
            for name in names:
                missing = limit
                for lower, upper in self._looks(since, until):
                    query = (
                        sa.select(*columns)
                        .select_from(table if source is None else source)
                        .where(table.c.model == model, table.c.model_version == name, *conditions)
                        .where(*within(table, lower, upper))
                        .order_by(table.c.timestamp.desc())
                        .limit(missing)
                    )
                    found = await fetched(await connection.execute(query))
                    rows += found
                    missing -= len(found)
                    if missing <= 0:
                        break
        if len(names) > 1:
            rows.sort(key=lambda row: row["timestamp"], reverse=True)
        return rows[:limit]

    def _looks(
        self, since: datetime | None, until: datetime | None
    ) -> list[tuple[datetime | None, datetime | None]]:
        """Spans of time, newest first, that cover what was asked for: each leaves out the partitions of the others."""
        spans: list[tuple[datetime | None, datetime | None]] = []
        upper, now = until, self.now() if until is None else until
        for age in self.horizons:
            lower = now - age
            if since is not None and lower <= since:
                break
            spans.append((lower, upper))
            upper = lower
        return [*spans, (since, upper)]

    async def versions_of(self, connection: Any, model: str) -> list[str]:
        counts = prediction_counts.c
        query = sa.select(counts.model_version).where(counts.model == model).distinct()
        return list((await connection.execute(query)).scalars())


async def fetched(result: Any) -> list[Row]:
    """All rows, made in slices: the event loop has other work too."""
    rows: list[Row] = []
    for part in result.mappings().partitions(_SLICE):
        rows += [dict(row) for row in part]
        if len(part) == _SLICE:
            await asyncio.sleep(0)
    return rows


def aliases(prediction_id: str) -> tuple[str, ...]:
    """Other ids of the same row: an answer with one row is stored under the bare id, one with several from `id:0` on."""
    if prediction_id.endswith(":0"):
        return (prediction_id[:-2],)
    return () if ":" in prediction_id else (row_id(prediction_id, 0),)


def subjects(row: Row) -> list[str]:
    """What senders of outcomes may have called a prediction (with `prediction_id`, `model` and `request_id`)."""
    identifier: Any = row["prediction_id"]
    named = [identifier, *aliases(identifier)]
    if row["request_id"] is not None:
        named.append(outcome_subject(None, row["model"], row["request_id"]))
    return named


def _counted(model: str, versions: Sequence[str], since: datetime | None, until: datetime | None) -> Any:
    return (
        sa.select(_P.model_version, sa.func.count(), sa.func.count(_P.ground_truth_timestamp))
        .where(_P.model == model, _P.model_version.in_(versions))  # named, so that the index is of use
        .where(counts_in_coverage(_P.status), *within(predictions, since, until))
        .group_by(_P.model_version)
    )


EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
