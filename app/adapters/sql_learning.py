"""What the monitor and the reviewers keep: reviews, baselines, retraining decisions. Only small tables, one row at a time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from app.adapters import schema
from app.adapters.sql_engine import SqlEngine
from app.control.ports import Row, Scalar

_REVIEW = ("model", "strategy", "score", "propensity", "leased_until", "leased_by")


class LearningState(SqlEngine):
    async def put_reviews(self, rows: Sequence[Row], at: datetime) -> set[str]:
        """Lease them; returns the ids that could be. What was labelled keeps its label, and what another holds at the time
        `at` stays with that one.
        """
        if not rows:
            return set()
        table = schema.reviews
        statement = self.insert(table)
        again = statement.on_conflict_do_update(
            index_elements=["prediction_id"],
            set_={name: statement.excluded[name] for name in _REVIEW},
            where=sa.and_(
                table.c.labelled_at.is_(None),
                sa.or_(table.c.leased_until.is_(None), table.c.leased_until <= at),
            ),
        ).returning(table.c.prediction_id)
        leased: set[str] = set()
        async with self.write() as connection:
            # One after the other in the order of their ids: two reviewers' leases never wait for each other in a circle.
            for row in sorted(rows, key=lambda one: str(one["prediction_id"])):
                values = {"prediction_id": row["prediction_id"], **{name: row.get(name) for name in _REVIEW}}
                leased |= set((await connection.execute(again, values)).scalars())
        return leased

    async def reviews_taken(self, model: str, since: datetime, at: datetime) -> int:
        """How many labels reviewers gave after `since`, and how many items they hold at the time `at`."""
        r = schema.reviews.c
        query = sa.select(sa.func.count()).where(
            r.model == model, sa.or_(r.labelled_at > since, r.leased_until > at)
        )
        async with self.read() as connection:
            return int((await connection.execute(query)).scalar_one())

    async def finish_review(self, prediction_id: str, label: Scalar, actor: str, at: datetime) -> bool:
        """True when the review was open; the first label stands."""
        table = schema.reviews
        open_one = (table.c.prediction_id == prediction_id, table.c.labelled_at.is_(None))
        values: dict[str, Any] = {
            "label": label,
            "labelled_by": actor,
            "labelled_at": at,
            "leased_until": None,
        }
        async with self.write() as connection:
            done = await connection.execute(sa.update(table).where(*open_one).values(values))
            return bool(done.rowcount)

    async def put_baseline(self, model: str, baseline: Row, sample: Row | None = None) -> None:
        """Earlier ones are kept; the newest counts."""
        values = {"model": model, "at": self.now(), "data": baseline, "sample": sample}
        async with self.write() as connection:
            await connection.execute(sa.insert(schema.baselines).values(values))

    async def baseline(self, model: str) -> Row | None:
        table = schema.baselines
        query = sa.select(table.c.data).where(table.c.model == model).order_by(table.c.id.desc()).limit(1)
        async with self.read() as connection:
            found: Row | None = (await connection.execute(query)).scalar_one_or_none()
            return found

    async def newest_baseline(self, model: str) -> int | None:
        """Its number: another one says that there is a newer baseline."""
        table = schema.baselines
        query = sa.select(sa.func.max(table.c.id)).where(table.c.model == model)
        async with self.read() as connection:
            found: int | None = (await connection.execute(query)).scalar_one_or_none()
            return found

    async def baseline_sample(self, number: int) -> Row | None:
        """What was given with that baseline."""
        query = sa.select(schema.baselines.c.sample).where(schema.baselines.c.id == number)
        async with self.read() as connection:
            found: Row | None = (await connection.execute(query)).scalar_one_or_none()
            return found

    async def add_retraining_decision(self, decision: Row) -> None:
        """Needs `model`, `should_retrain`, `reason`, `urgency`; `at` (also in seconds since the epoch) is now when not given; the rest
        is kept as it is.
        """
        at = decision.get("at")
        if isinstance(at, float):
            at = datetime.fromtimestamp(at, UTC)
        values = {
            "model": decision["model"],
            "at": self.now() if at is None else at,
            "should_retrain": decision["should_retrain"],
            "reason": decision["reason"],
            "urgency": decision["urgency"],
            "data": decision,
        }
        async with self.write() as connection:
            await connection.execute(sa.insert(schema.retraining_decisions).values(values))

    async def told_to_retrain(self, model: str) -> Row | None:
        """The newest that calls for retraining and was told; one that does not say was."""
        table = schema.retraining_decisions
        told = sa.func.coalesce(table.c.data["told"].as_boolean(), sa.true())
        query = (
            sa.select(table.c.data, table.c.at)
            .where(table.c.model == model, table.c.should_retrain, told)
            .order_by(table.c.id.desc())
            .limit(1)
        )
        async with self.read() as connection:
            found = (await connection.execute(query)).first()
            return None if found is None else {**found.data, "at": found.at}

    async def retraining_decisions(self, model: str, limit: int) -> list[Row]:
        """Newest first, as they were given, with `at`."""
        table = schema.retraining_decisions
        query = sa.select(table.c.data, table.c.at).where(table.c.model == model)
        async with self.read() as connection:
            rows = await connection.execute(query.order_by(table.c.id.desc()).limit(limit))
            return [{**data, "at": at} for data, at in rows]
