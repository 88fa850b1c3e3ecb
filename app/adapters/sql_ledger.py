"""The recorder's book-keeping: how far each segment is stored, and what each writer received. Counts are absolute, so writing them
twice is harmless.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.schema import journal_positions, journal_writers, quarantine
from app.adapters.sql_engine import SqlEngine
from app.control.ports import Ledger, Position, QuarantineRow, WriterCounts

_SUMS = ("records", "stored", "quarantined", "torn")


class LedgerKeeping(SqlEngine):
    async def positions(self, writers: Sequence[str]) -> list[Position]:
        c = journal_positions.c
        query = sa.select(journal_positions).where(c.writer.in_(writers)).order_by(c.writer, c.segment)
        async with self.read() as connection:
            return [
                Position(
                    writer=row["writer"],
                    segment=row["segment"],
                    offset=row["byte_offset"],
                    records=row["records"],
                    stored=row["stored"],
                    quarantined=row["quarantined"],
                    torn=row["torn"],
                    complete=row["complete"],
                )
                for row in (await connection.execute(query)).mappings()
            ]

    async def write_positions(self, connection: AsyncConnection, positions: Sequence[Position]) -> None:
        """Never backwards: should two recorders read one journal, the one behind changes nothing."""
        if not positions:
            return
        rows = [
            {"byte_offset": position.offset, **{k: v for k, v in asdict(position).items() if k != "offset"}}
            for position in positions
        ]
        await connection.execute(self._keep_position, rows)

    @cached_property
    def _keep_position(self) -> Any:
        statement = self.insert(journal_positions)
        new = {name: statement.excluded[name] for name in ("byte_offset", *_SUMS, "complete")}
        ahead = statement.excluded.byte_offset >= journal_positions.c.byte_offset
        return statement.on_conflict_do_update(index_elements=["writer", "segment"], set_=new, where=ahead)

    async def write_quarantine(self, connection: AsyncConnection, rows: Sequence[QuarantineRow]) -> None:
        if not rows:
            return
        statement = self.insert(quarantine)
        values: list[dict[str, Any]] = []
        for row in rows:
            fields = asdict(row)
            fields["byte_offset"] = fields.pop("offset")
            fields["reason"] = fields["reason"].replace("\0", "\\0").encode("utf-8", "replace").decode()
            values.append(fields)
        once = statement.on_conflict_do_nothing(index_elements=["writer", "segment", "byte_offset"])
        await connection.execute(once, values)

    async def quarantined(self, prediction_id: str) -> str | None:
        q = quarantine.c
        query = sa.select(q.reason).where(q.prediction_id == prediction_id, q.kind == "prediction")
        async with self.read() as connection:
            reason: str | None = (
                await connection.execute(query.order_by(q.id.desc()).limit(1))
            ).scalar_one_or_none()
            return reason

    async def put_writer_counts(self, counts: Sequence[WriterCounts]) -> None:
        if not counts:
            return
        statement = self.insert(journal_writers)
        new = {name: statement.excluded[name] for name in ("host", "received", "dropped", "closed")}
        upsert = statement.on_conflict_do_update(index_elements=["writer"], set_=new)
        async with self.write() as connection:
            await connection.execute(upsert, [asdict(count) for count in counts])

    async def ledger(self, host: str, without: Sequence[str] = ()) -> Ledger:
        w, p = journal_writers.c, journal_positions.c
        of_host = sa.and_(w.host == host, w.writer.not_in(without))
        read = (
            sa.select(*(sa.func.sum(p[name]) for name in _SUMS))
            .join(journal_writers, w.writer == p.writer)
            .where(of_host)
        )
        async with self.read() as connection:
            received, dropped = 0, dict[str, int]()
            for total, reasons in await connection.execute(sa.select(w.received, w.dropped).where(of_host)):
                received += total
                for reason, number in reasons.items():
                    dropped[reason] = dropped.get(reason, 0) + number
            _, stored, quarantined, torn = (
                int(total or 0) for total in (await connection.execute(read)).one()
            )
            return Ledger(received, dropped, stored, quarantined, torn)
