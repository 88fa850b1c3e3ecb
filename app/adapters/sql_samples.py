"""Bounded samples of predictions with their labels, for reports and reviews. What they cost does not grow with the history.

Each reads ranges of an index or single keys; nothing here counts or scans a table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

import sqlalchemy as sa

from app.adapters.schema import outcomes, predictions, reviews
from app.adapters.sql_engine import SqlEngine
from app.adapters.sql_records import counts_in_coverage, fetched, subjects, within
from app.control.ports import Row

SLICES = 20  # equal parts of the time that a sample is spread over
_KEYS_AT_ONCE = 500
_REVIEW = "review"  # the source of outcomes that reviewers gave

_P = predictions.c
_SAMPLED = (
    _P.prediction_id, _P.model_version, _P.timestamp, _P.prediction, _P.confidence, _P.ground_truth,
    _P.ground_truth_timestamp, _P.model, _P.request_id,
)  # fmt: skip
_OFFERED = (
    _P.prediction_id, _P.model_version, _P.timestamp, _P.features, _P.prediction, _P.confidence, _P.facts,
)  # fmt: skip


class Samples(SqlEngine):
    async def sample(
        self, model: str, version: str, since: datetime, until: datetime, limit: int
    ) -> list[Row]:
        """The newest answers of each slice of the time from the oldest one on, labelled or not, newest first."""
        rows: list[Row] = []
        async with self.read() as connection:
            oldest = (
                sa.select(_P.timestamp)
                .where(_P.model == model, _P.model_version == version, *within(predictions, since, until))
                .order_by(_P.timestamp)
                .limit(1)
            )
            since = (await connection.execute(oldest)).scalar_one_or_none() or until
            step = (until - since) / SLICES
            for number in reversed(range(SLICES)):
                lower = since + number * step
                upper = until if number == SLICES - 1 else since + (number + 1) * step
                query = (
                    sa.select(*_SAMPLED)
                    .where(_P.model == model, _P.model_version == version, counts_in_coverage(_P.status))
                    .where(*within(predictions, lower, upper))
                    .order_by(_P.timestamp.desc())
                    .limit(-(-limit // SLICES))
                )
                rows += await fetched(await connection.execute(query))
        return rows

    async def arrivals(self, rows: Sequence[Row]) -> dict[str, datetime]:
        """When the first outcome of each row (with `prediction_id`, `model` and `request_id`) was received, if one was."""
        of = {subject: str(row["prediction_id"]) for row in rows for subject in subjects(row)}
        first: dict[str, datetime] = {}
        o = outcomes.c
        async with self.read() as connection:
            for some in _in_parts(list(of)):
                query = sa.select(o.subject, sa.func.min(o.received_at, type_=o.received_at.type))
                for subject, at in await connection.execute(
                    query.where(o.subject.in_(some)).group_by(o.subject)
                ):
                    known = first.get(of[subject])
                    first[of[subject]] = at if known is None else min(known, at)
        return first

    async def review_propensities(
        self, model: str, ids: Sequence[str], as_of: datetime | None = None
    ) -> dict[str, float]:
        """Of those whose labels came from reviewers alone: the probability with which each was picked for review."""
        r, o = reviews.c, outcomes.c
        done = [r.model == model, r.labelled_at.is_not(None), r.propensity.is_not(None)]
        done += [] if as_of is None else [r.labelled_at <= as_of]
        known = [] if as_of is None else [o.received_at <= as_of]
        async with self.read() as connection:
            if (await connection.execute(sa.select(r.prediction_id).where(*done).limit(1))).first() is None:
                return {}
            found: dict[str, float] = {}
            named: dict[str, str] = {}
            for some in _in_parts(ids):
                query = sa.select(r.prediction_id, r.propensity, _P.model, _P.request_id).join(
                    predictions, _P.prediction_id == r.prediction_id
                )
                result = await connection.execute(query.where(*done, r.prediction_id.in_(some)))
                for row in result.mappings():
                    found[row["prediction_id"]] = row["propensity"]
                    named |= dict.fromkeys(subjects(dict(row)), row["prediction_id"])
            for some in _in_parts(list(named)):
                others = sa.select(o.subject).where(o.subject.in_(some), o.source != _REVIEW, *known)
                for subject in (await connection.execute(others)).scalars():
                    found.pop(named[subject], None)
        return found

    async def unlabelled(self, model: str, versions: Sequence[str], limit: int, at: datetime) -> list[Row]:
        """The newest answers that are neither labelled nor under review at that time: prediction_id, prediction, confidence. At
        most `limit`, shared evenly among the versions.
        """
        r = reviews.c
        taken = (
            sa.exists()
            .where(r.prediction_id == _P.prediction_id)
            .where(sa.or_(r.labelled_at.is_not(None), r.leased_until > at))
        )
        rows: list[Row] = []
        async with self.read() as connection:
            for version in versions:
                query = (
                    sa.select(_P.prediction_id, _P.prediction, _P.confidence)
                    .where(_P.model == model, _P.model_version == version)
                    .where(_P.ground_truth_timestamp.is_(None), _P.prediction.is_not(None), ~taken)
                    .order_by(_P.timestamp.desc())
                    .limit(-(-limit // len(versions)))
                )
                rows += await fetched(await connection.execute(query))
        return rows

    async def offered(self, ids: Sequence[str]) -> list[Row]:
        """What a reviewer sees of these: prediction_id, model_version, timestamp, features, prediction, confidence; and facts."""
        rows: list[Row] = []
        async with self.read() as connection:
            for some in _in_parts(ids):
                query = sa.select(*_OFFERED).where(_P.prediction_id.in_(some))
                rows += await fetched(await connection.execute(query))
        return rows


def _in_parts(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        yield keys[start : start + _KEYS_AT_ONCE]
