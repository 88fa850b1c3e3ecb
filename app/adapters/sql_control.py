"""What the control plane keeps: flags, registered versions, rollouts, and who changed what. Every change with its audit entry in one
transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from app.adapters import schema
from app.adapters.sql_engine import SqlEngine
from app.control.ports import AuditEntry, Row
from app.domain.flags import Flags
from app.domain.model import Model, Version
from app.errors import ConflictError, RefusedRowError, StaleRevisionError


class ControlState(SqlEngine):
    # ---- flags

    async def flags(self) -> list[Flags]:
        async with self.read() as connection:
            return [_flags(row) for row in (await connection.execute(sa.select(schema.flags))).mappings()]

    async def put_flags(self, flags: Flags, expected_revision: int, audit: AuditEntry) -> Flags:
        if flags.revision != expected_revision + 1:
            raise ValueError(f"revision {flags.revision} does not follow {expected_revision}")
        values = {**asdict(flags), "changed_at": audit.at}
        values["shadow_versions"] = list(flags.shadow_versions)
        values["disabled_versions"] = list(flags.disabled_versions)
        table = schema.flags
        async with self.write() as connection:
            if expected_revision == 0:  # the file's flags, which the store does not have
                statement: Any = self.insert(table).values(values).on_conflict_do_nothing()
            else:
                current = (table.c.model == flags.model, table.c.revision == expected_revision)
                statement = sa.update(table).where(*current).values(values)
            if (await connection.execute(statement)).rowcount != 1:
                query = sa.select(table.c.revision).where(table.c.model == flags.model)
                raise StaleRevisionError(expected_revision, (await connection.execute(query)).scalar() or 0)
            await connection.execute(audited(audit))
        return flags

    # ---- models and versions

    async def put_models(self, models: Sequence[Model], at: datetime) -> None:
        """Describe the configured models to those who read the tables."""
        rows = [
            {
                "model": m.name,
                "protocol": m.protocol,
                "task": m.task,
                "production": m.production,
                "updated_at": at,
            }
            for m in models
        ]
        if not rows:
            return
        statement = self.insert(schema.models)
        new = {name: statement.excluded[name] for name in ("protocol", "task", "production", "updated_at")}
        async with self.write() as connection:
            await connection.execute(
                statement.on_conflict_do_update(index_elements=["model"], set_=new), rows
            )

    async def versions(self) -> list[tuple[str, Version]]:
        async with self.read() as connection:
            rows = (await connection.execute(sa.select(schema.versions))).mappings()
            return [
                (
                    row["model"],
                    Version(
                        name=row["version"],
                        urls=tuple(row["urls"]),
                        timeout_s=row["timeout_s"],
                        connect_timeout_s=row["connect_timeout_s"],
                        metadata=tuple((key, value) for key, value in row["metadata"]),
                    ),
                )
                for row in rows
            ]

    async def version_times(self, model: str, version: str) -> dict[str, datetime | None]:
        rollouts, events = schema.rollouts, schema.rollout_events.c
        versions, counts = schema.versions.c, schema.prediction_counts.c
        stands = (rollouts.c.candidate == version, rollouts.c.state == "promoted", events.kind == "promote")
        queries = {
            "promoted": sa.select(sa.func.max(events.at, type_=events.at.type))
            .join(rollouts, rollouts.c.id == events.rollout_id)
            .where(rollouts.c.model == model, *stands),
            "registered": sa.select(versions.registered_at).where(
                versions.model == model, versions.version == version
            ),
            "first_seen": sa.select(sa.func.min(counts.period, type_=counts.period.type)).where(
                counts.model == model, counts.model_version == version
            ),
        }
        async with self.read() as connection:
            return {
                name: (await connection.execute(query)).scalar_one_or_none()
                for name, query in queries.items()
            }

    async def put_version(self, model: str, version: Version, audit: AuditEntry) -> None:
        values = {
            "urls": list(version.urls),
            "timeout_s": version.timeout_s,
            "connect_timeout_s": version.connect_timeout_s,
            "metadata": [list(pair) for pair in version.metadata],
            "registered_at": audit.at,
            "registered_by": audit.actor,
        }
        statement = self.insert(schema.versions).values(model=model, version=version.name, **values)
        async with self.write() as connection:
            await connection.execute(
                statement.on_conflict_do_update(index_elements=["model", "version"], set_=values)
            )
            await connection.execute(audited(audit))

    async def delete_version(self, model: str, version: str, audit: AuditEntry) -> None:
        table = schema.versions
        async with self.write() as connection:
            await connection.execute(
                sa.delete(table).where(table.c.model == model, table.c.version == version)
            )
            await connection.execute(audited(audit))

    # ---- audit

    async def append_audit(self, entry: AuditEntry) -> None:
        async with self.write() as connection:
            await connection.execute(audited(entry))

    async def audit(self, model: str | None, limit: int) -> list[Row]:
        table = schema.audit_log
        query = sa.select(table).order_by(table.c.id.desc()).limit(limit)
        if model is not None:
            query = query.where(table.c.model == model)
        async with self.read() as connection:
            rows = (await connection.execute(query)).mappings()
            return [{key: value for key, value in row.items() if key != "id"} for row in rows]

    # ---- rollouts

    async def open_rollouts(self) -> list[Row]:
        table = schema.rollouts
        query = sa.select(table.c.data).where(table.c.ended_at.is_(None)).order_by(table.c.model)
        async with self.read() as connection:
            return list((await connection.execute(query)).scalars())

    async def rollouts(self, model: str, limit: int) -> list[Row]:
        table = schema.rollouts
        newest = (table.c.started_at.desc(), table.c.id.desc())
        query = sa.select(table.c.data).where(table.c.model == model).order_by(*newest).limit(limit)
        async with self.read() as connection:
            return list((await connection.execute(query)).scalars())

    async def rollout(self, rollout_id: str) -> Row | None:
        table, events = schema.rollouts, schema.rollout_events
        columns = (events.c.at, events.c.kind, events.c.reason, events.c.figures)
        query = sa.select(*columns).where(events.c.rollout_id == rollout_id).order_by(events.c.id)
        async with self.read() as connection:
            found = await connection.execute(sa.select(table.c.data).where(table.c.id == rollout_id))
            data = found.scalar_one_or_none()
            if data is None:
                return None
            of_it = (await connection.execute(query)).mappings()
            return {**data, "events": [{**event, "at": event["at"].timestamp()} for event in of_it]}

    async def save_rollout(self, rollout: Row, events: Sequence[Row]) -> None:
        values = {
            "model": rollout["model"],
            "candidate": rollout.get("candidate"),
            "state": rollout.get("state"),
            "started_at": _instant(rollout["started_at"]),
            "ended_at": None if rollout.get("ended_at") is None else _instant(rollout["ended_at"]),
            "data": {key: value for key, value in rollout.items() if key != "events"},
        }
        statement = self.insert(schema.rollouts).values(id=rollout["id"], **values)
        rows = [
            {
                "rollout_id": rollout["id"],
                "at": _instant(event["at"]),
                "kind": event["kind"],
                "reason": event["reason"],
                "figures": event.get("figures"),
            }
            for event in events
        ]
        try:
            async with self.write() as connection:
                await connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=values))
                if rows:
                    await connection.execute(sa.insert(schema.rollout_events), rows)
        except RefusedRowError as error:
            if any(name in str(error) for name in ("rollouts_one_open", "rollouts.model")):
                raise ConflictError(f"model {rollout['model']!r} has an open rollout already") from error
            raise


def _instant(at: datetime | float) -> datetime:
    """A time as the domain has it (seconds since the epoch), or as it is."""
    return at if isinstance(at, datetime) else datetime.fromtimestamp(at, UTC)


def _flags(row: sa.RowMapping) -> Flags:
    values = {key: value for key, value in row.items() if key != "changed_at"}
    values["shadow_versions"] = tuple(row["shadow_versions"])
    values["disabled_versions"] = tuple(row["disabled_versions"])
    return Flags(**values)


def audited(entry: AuditEntry) -> Any:
    """The statement that writes an audit entry."""
    return sa.insert(schema.audit_log).values(asdict(entry))
