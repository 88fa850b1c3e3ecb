"""Joins outcomes to their predictions. `join` decides, without touching the database; the rest reads what it needs and writes it down.

The newest observed outcome holds, whatever the order of arrival; all are kept. An outcome whose prediction is not stored yet waits and is
looked at again, ever less often, so that outcomes of unknown predictions cost next to nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.rows import PREDICTION_COLUMNS, Values
from app.adapters.schema import outcomes, prediction_counts, predictions
from app.adapters.sql_engine import SqlEngine
from app.adapters.sql_records import QUARTER, aliases, period_of
from app.control.ports import Scalar

WAITING, JOINED, WRONG_MODEL = "waiting", "joined", "wrong_model"
FOUND_COLUMNS = ("prediction_id", "model", "model_version", "timestamp", "status", "ground_truth_timestamp")

Period = tuple[str, str, datetime]  # model, version, quarter of an hour

_KEYS_AT_ONCE = 500
_SOONEST = timedelta(seconds=1)
_LATEST = timedelta(days=1)
_NEVER = datetime.min.replace(tzinfo=UTC)
_COLUMN = {name: place for place, name in enumerate(PREDICTION_COLUMNS)}
_STATUS, _MODEL, _VERSION = _COLUMN["status"], _COLUMN["model"], _COLUMN["model_version"]


class Found(msgspec.Struct, frozen=True, gc=False):
    """What must be known of a stored prediction to label it."""

    prediction_id: str
    model: str
    version: str
    timestamp: datetime
    status: int
    labelled_at: datetime | None = None


class Claim(msgspec.Struct, frozen=True, gc=False):
    """An outcome that wants to label `target`; None while that is unknown."""

    outcome_id: str
    target: str | None
    model: str | None
    ground_truth: Scalar
    observed_at: datetime
    received_at: datetime


@dataclass(slots=True)
class Join:
    states: list[str] = field(default_factory=list)  # of each claim
    labels: dict[str, tuple[Scalar, datetime]] = field(
        default_factory=dict
    )  # by prediction: those that change
    first_labels: Counter[Period] = field(
        default_factory=Counter
    )  # predictions with status 2xx that had no label before


def join(claims: Sequence[Claim], found: Mapping[str, Found]) -> Join:
    """Decide which outcomes label which predictions. Of several for one prediction the newest observed holds, then the last received."""
    decided = Join()
    holds: dict[str, Claim] = {}
    for claim in claims:
        prediction = found.get(claim.target) if claim.target else None
        if prediction is None:
            decided.states.append(WAITING)
        elif claim.model is not None and claim.model != prediction.model:
            decided.states.append(WRONG_MODEL)
        else:
            decided.states.append(JOINED)
            other = holds.get(prediction.prediction_id)
            if other is None or _order(other) < _order(claim):
                holds[prediction.prediction_id] = claim
    begin = end = _NEVER  # of the last one's period, as in `counts_of`
    for prediction_id, claim in holds.items():
        prediction = found[prediction_id]
        if prediction.labelled_at is None or prediction.labelled_at <= claim.observed_at:
            decided.labels[prediction_id] = (claim.ground_truth, claim.observed_at)
            if prediction.labelled_at is None and 200 <= prediction.status < 300:
                if not begin <= prediction.timestamp < end:
                    begin = period_of(prediction.timestamp)
                    end = begin + QUARTER
                decided.first_labels[prediction.model, prediction.version, begin] += 1
    return decided


def _order(claim: Claim) -> tuple[datetime, datetime, str]:
    return claim.observed_at, claim.received_at, claim.outcome_id


def next_look(received_at: datetime, now: datetime) -> datetime:
    """When to look again for the prediction of an outcome that waits: after a quarter of the time it has waited."""
    return now + min(max((now - received_at) / 4, _SOONEST), _LATEST)


Counts = Mapping[Period, tuple[int, int, int]]  # stored, predictions, labelled


def counts_of(rows: Iterable[tuple[Values, datetime]], first_labels: Mapping[Period, int]) -> Counts:
    """What new prediction rows (encoded, with their time) and first labels add to `prediction_counts`."""
    sums: dict[Period, list[int]] = {}
    begin = end = _NEVER  # of the last row's period: those of a batch mostly lie in one
    for values, at in rows:
        if not begin <= at < end:
            begin = period_of(at)
            end = begin + QUARTER
        total = sums.setdefault((values[_MODEL], values[_VERSION], begin), [0, 0, 0])
        total[0] += 1
        total[1] += 200 <= values[_STATUS] < 300
    for period, labels in first_labels.items():
        sums.setdefault(period, [0, 0, 0])[2] += labels
    return {period: (total[0], total[1], total[2]) for period, total in sums.items()}


class OutcomeJoins(SqlEngine):
    async def add_counts(self, connection: AsyncConnection, counts: Counts) -> None:
        """Always in the same order, so that two recorders never wait for each other in a circle."""
        if not counts:
            return
        rows = [
            {
                "model": model, "model_version": version, "period": period, "stored": stored, "predictions": answered,
                "labelled": labelled,
            }
            for (model, version, period), (stored, answered, labelled) in sorted(counts.items())
        ]  # fmt: skip
        await connection.execute(self._count_more, rows)

    @cached_property
    def _count_more(self) -> Any:
        table = prediction_counts
        statement = self.insert(table)
        sums = {
            name: table.c[name] + statement.excluded[name] for name in ("stored", "predictions", "labelled")
        }
        keys = ["model", "model_version", "period"]
        return statement.on_conflict_do_update(index_elements=keys, set_=sums)

    async def join_waiting_outcomes(self, limit: int) -> int:
        now = self.now()
        o = outcomes.c
        due = (
            sa.select(
                o.subject,
                o.outcome_id,
                o.prediction_id,
                o.model,
                o.request_id,
                o.ground_truth,
                o.observed_at,
                o.received_at,
            )
            .where(o.state == WAITING, o.due_at <= now)
            .order_by(o.due_at)
            .limit(limit)
        )
        async with self.read() as connection:  # the usual case: nothing is due, and no writer is held up
            if (await connection.execute(due.limit(1))).first() is None:
                return 0
        async with self.write() as connection:
            waiting = (await connection.execute(due.with_for_update(skip_locked=True))).mappings().all()
            found = await self._predictions_of(connection, waiting)
            claims = []
            for row in waiting:
                named = [row["prediction_id"], *aliases(row["prediction_id"])] if row["prediction_id"] else []
                key = (row["model"], row["request_id"])
                target = next((name for name in named if name in found), None) or found.by_request.get(key)
                claims.append(
                    Claim(
                        row["outcome_id"],
                        target,
                        row["model"],
                        row["ground_truth"],
                        row["observed_at"],
                        row["received_at"],
                    )
                )
            decided = join(claims, found)
            if decided.labels:
                p = predictions.c
                labelling = (
                    sa.update(predictions)
                    .where(p.prediction_id == sa.bindparam("target"))
                    .values(
                        ground_truth=sa.bindparam("truth"), ground_truth_timestamp=sa.bindparam("observed")
                    )
                )
                labels = sorted(decided.labels.items())
                await connection.execute(
                    labelling,
                    [{"target": key, "truth": truth, "observed": at} for key, (truth, at) in labels],
                )
            await self.add_counts(connection, counts_of((), decided.first_labels))
            settled = (
                sa.update(outcomes)
                .where(o.subject == sa.bindparam("of_subject"), o.outcome_id == sa.bindparam("of_outcome"))
                .values(
                    state=sa.bindparam("to_state"),
                    prediction_id=sa.bindparam("to_prediction"),
                    due_at=sa.bindparam("to_due"),
                )
            )
            changes: list[dict[str, Any]] = []
            for row, claim, state in zip(waiting, claims, decided.states, strict=True):
                changes.append(
                    {
                        "of_subject": row["subject"],
                        "of_outcome": row["outcome_id"],
                        "to_state": state,
                        "to_prediction": claim.target if state == JOINED else row["prediction_id"],
                        "to_due": next_look(row["received_at"], now) if state == WAITING else None,
                    }
                )
            await connection.execute(settled, changes)
            return decided.states.count(JOINED)

    async def _predictions_of(self, connection: AsyncConnection, waiting: Sequence[sa.RowMapping]) -> _Known:
        known = _Known()
        ids = [
            name
            for row in waiting
            if row["prediction_id"]
            for name in (row["prediction_id"], *aliases(row["prediction_id"]))
        ]
        requests = [(row["model"], row["request_id"]) for row in waiting if not row["prediction_id"]]
        columns = [predictions.c[name] for name in FOUND_COLUMNS]
        p = predictions.c
        for start in range(0, len(ids), _KEYS_AT_ONCE):
            some = p.prediction_id.in_(ids[start : start + _KEYS_AT_ONCE])
            query = sa.select(*columns).where(some).order_by(p.prediction_id).with_for_update(key_share=True)
            for row in await connection.execute(query):
                known[row[0]] = Found(*row)
        for start in range(0, len(requests), _KEYS_AT_ONCE):
            some = sa.tuple_(p.model, p.request_id).in_(requests[start : start + _KEYS_AT_ONCE])
            query = (
                sa.select(p.request_id, *columns)
                .where(some)
                .order_by(p.prediction_id)
                .with_for_update(key_share=True)
            )
            for row in await connection.execute(query):
                request_id, found = row[0], Found(*row[1:])
                known[found.prediction_id] = found
                known.by_request.setdefault((found.model, request_id), found.prediction_id)
        return known


class _Known(dict[str, Found]):
    """Predictions by id, and the first of each request: its row 0 when it has several."""

    def __init__(self) -> None:
        super().__init__()
        self.by_request: dict[tuple[str, str], str] = {}
