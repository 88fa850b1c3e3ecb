"""What becomes of an SQLite connection whose caller gave up: its end has an owner, whoever gives up meanwhile."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from app.adapters.sql_engine import StorePolicy
from app.adapters.sqlite import SqliteStore
from tests.control_parts import tables, until


class Held:
    """An SQL function that holds its connection's thread until it is let go."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.free = threading.Event()

    def __call__(self) -> int:
        self.reached.set()
        self.free.wait(20.0)
        return 1


@contextmanager
def complaints() -> Iterator[list[dict[str, Any]]]:
    """What the event loop says of tasks and futures that nobody looks after."""
    found: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: found.append(context))
    yield found
    loop.set_exception_handler(None)


def opened(path: Path) -> SqliteStore:
    path.write_bytes(tables())
    return SqliteStore(StorePolicy(f"sqlite:///{path}"))


async def query(store: SqliteStore, held: Held, *, write: bool) -> None:
    async with store.write() if write else store.read() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        assert driver is not None
        await driver.create_function("hold", 0, held)
        await connection.exec_driver_sql("SELECT hold()")


def ending() -> bool:
    """A connection's end is under way."""
    return any(task.get_name() == "sqlite-close" for task in asyncio.all_tasks())


@pytest.mark.parametrize("write", [False, True])
async def test_a_caller_that_gives_up_twice_leaves_no_task_without_an_owner(
    tmp_path: Path, write: bool
) -> None:
    store, held = opened(tmp_path / "gateway.db"), Held()
    with complaints() as found:
        asking = asyncio.create_task(query(store, held, write=write))
        await asyncio.to_thread(held.reached.wait)
        asking.cancel()  # as a deadline does,
        await until(ending)
        asking.cancel()  # and another one that passed while everything stood still
        held.free.set()
        with pytest.raises(asyncio.CancelledError):
            await asking
        async with store.write() as connection:  # and the file is free
            await connection.exec_driver_sql("UPDATE quarantine SET reason = ''")
        await store.close()
        assert not ending()
        del asking
        gc.collect()
        await asyncio.sleep(0)
    assert found == []


async def test_closing_waits_for_the_end_of_a_connection_that_was_given_up(tmp_path: Path) -> None:
    store, held = opened(tmp_path / "gateway.db"), Held()
    asking = asyncio.create_task(query(store, held, write=True))
    await asyncio.to_thread(held.reached.wait)
    asking.cancel()
    await until(ending)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    closing = asyncio.create_task(store.close())
    assert not (await asyncio.wait({closing}, timeout=0.05))[0]  # the thread is still busy
    held.free.set()
    await closing
    await until(lambda: not any("_connection_worker" in one.name for one in threading.enumerate()))
