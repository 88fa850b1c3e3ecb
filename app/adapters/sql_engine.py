"""Connections, deadlines, and the border where a driver's exceptions become ours. Knows no table."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.errors import GatewayError, RefusedRowError, UnavailableError


@dataclass(frozen=True, slots=True)
class StorePolicy:
    url: str  # sqlite:///path or postgresql://user:password@host/database
    connect_timeout_s: float = 2.0
    statement_timeout_s: float = 8.0  # asked of the server; the deadline ends what a silent server does not
    deadline_s: float = 10.0  # of one call
    load_deadline_s: float = 60.0  # of one batch of the recorder: slow is better than never
    connections: int = 5


@dataclass(frozen=True, slots=True)
class Driver:
    """What is to be known of a database's driver. `meaning` is that of one of its exceptions, as far as it says more than
    that the database cannot be used.
    """

    meaning: Callable[[BaseException], GatewayError | None]
    errors: tuple[type[Exception], ...]  # all of its own
    lost: tuple[type[Exception], ...] = ()  # those after which nobody knows what state the connection is in


class SqlEngine(ABC):
    """What the parts of the store share: connections to read and to write with, in a transaction each.

    Both raise `UnavailableError` when the database cannot be reached or does not answer within the deadline, and
    `RefusedRowError` when it refuses a value.
    """

    # Where rows lie in partitions, what is newest is looked for in the newest partitions first: ages that end each look.
    horizons: tuple[timedelta, ...] = ()

    def __init__(self, policy: StorePolicy) -> None:
        self.policy = policy

    def now(self) -> datetime:
        return datetime.now(UTC)

    @abstractmethod
    def read(self) -> AbstractAsyncContextManager[AsyncConnection]: ...

    @abstractmethod
    def write(self, deadline_s: float | None = None) -> AbstractAsyncContextManager[AsyncConnection]: ...

    @abstractmethod
    def insert(self, table: sa.Table) -> Any:
        """An insert that can be told `on_conflict_do_…`."""

    @abstractmethod
    async def close(self) -> None: ...

    async def ping(self) -> None:
        async with self.read() as connection:
            await connection.execute(sa.text("SELECT 1 FROM journal_writers LIMIT 1"))


@asynccontextmanager
async def transaction(
    engine: AsyncEngine, deadline_s: float, driver: Driver
) -> AsyncIterator[AsyncConnection]:
    """A connection in a transaction that ends within the deadline; exceptions as `app.errors` has them."""
    # In what state the connection then is, nobody knows.
    lost: tuple[type[BaseException], ...] = (TimeoutError, OSError, asyncio.CancelledError, *driver.lost)
    failed: tuple[type[Exception], ...] = (sa.exc.SQLAlchemyError, *driver.errors)
    try:
        async with asyncio.timeout(deadline_s), engine.connect() as connection:
            try:
                async with connection.begin():
                    yield connection
            except lost:
                await connection.invalidate()
                raise
    except GatewayError:
        raise
    except failed as error:
        raise _translated(error, driver) from error
    except (OverflowError, UnicodeError) as error:  # from a driver that cannot convert a value
        raise RefusedRowError(str(error)) from error
    except TimeoutError as error:
        raise UnavailableError("the database did not answer in time") from error
    except OSError as error:
        raise UnavailableError(f"the database cannot be reached: {error}") from error


UNPREPARED = "the database cannot be used: its tables are missing or old; run `model-gateway migrate`"


def _translated(error: BaseException, driver: Driver) -> GatewayError:
    """What a driver's exception means to a caller: try again later, or this value never."""
    origin: BaseException = error
    if isinstance(error, sa.exc.DBAPIError) and error.orig is not None:
        origin = error.orig.__cause__ or error.orig
    if (meaning := driver.meaning(origin)) is not None:
        return meaning
    if isinstance(origin, ValueError):  # also asyncpg's, for a value that does not fit its column
        return RefusedRowError(str(origin))
    if isinstance(error, sa.exc.TimeoutError):
        return UnavailableError("all connections to the database are busy; raise the number of connections")
    return UnavailableError(f"the database cannot be used: {origin}")
