"""Daily partitions of `predictions` and `shadow_predictions`, by the time in the id.

They are attached, not created in place: attaching holds up nobody who reads or writes the table.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.rows import id_floor
from app.adapters.schema import PARTITIONED, predictions

_DAY = timedelta(days=1)
_FILL_PERCENT = 50  # of a page of an index, at first
_LOCK = 0x6D67_7061_7274  # "mgpart": one maker at a time


def partition_name(table: str, day: int) -> str:
    """`predictions_20260131` for a day since the epoch."""
    return f"{table}_{_start(day):%Y%m%d}"


def _start(day: int) -> datetime:
    return datetime.fromtimestamp(day * 86_400, UTC)


class Partitions:
    """Remembers which days have their partitions, so that a batch seldom has to ask."""

    def __init__(self) -> None:
        self._there: set[int] = set()

    def missing(self, days: Collection[int]) -> set[int]:
        return set(days) - self._there

    def note(self, days: Collection[int]) -> None:
        self._there.update(days)

    def forget(self) -> None:
        self._there.clear()

    async def make(self, connection: AsyncConnection, days: Collection[int]) -> None:
        await connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
        for table in PARTITIONED:
            there = set(await self._names(connection, table.name))
            for day in sorted(days):
                name = partition_name(table.name, day)
                if name in there:
                    continue
                start = _start(day)
                bounds = f"FROM ('{id_floor(start)}') TO ('{id_floor(start + _DAY)}')"
                await connection.exec_driver_sql(f"CREATE TABLE {name} (LIKE {table.name} INCLUDING ALL)")
                if table is predictions:
                    await self._leave_room(connection, name)
                await connection.exec_driver_sql(
                    f"ALTER TABLE {table.name} ATTACH PARTITION {name} FOR VALUES {bounds}"
                )

    async def _leave_room(self, connection: AsyncConnection, name: str) -> None:
        """A label adds an entry to each index of its prediction. Where its page is full, that costs a split, or a search for room."""
        indexes = sa.text(
            "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = to_regclass(:name) AND indpred IS NULL"
        )
        for index in (await connection.execute(indexes, {"name": name})).scalars().all():
            await connection.exec_driver_sql(f"ALTER INDEX {index} SET (fillfactor = {_FILL_PERCENT})")

    async def older(self, connection: AsyncConnection, day: int) -> list[str]:
        """Partitions that end at or before this day begins."""
        old = []
        for table in PARTITIONED:
            first = partition_name(table.name, day)
            old += [name for name in await self._names(connection, table.name) if name < first]
        return old

    async def _names(self, connection: AsyncConnection, table: str) -> list[str]:
        query = sa.text(
            "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
            "WHERE i.inhparent = to_regclass(:parent)"
        )
        return list((await connection.execute(query, {"parent": table})).scalars())
