"""What the path of a request may cost, counted and not timed: no task, no future, one journal write a record."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from app.domain.flags import Flags
from app.domain.model import Canary, ControlMirror, Match, Model, RoutingKey, Version
from app.domain.policy import AuthPolicy, JournalPolicy, ServerPolicy
from app.journal import writer as writer_module
from app.journal.writer import Writer
from app.link.messages import GuardTrip
from app.proxy.plane import Plane
from app.proxy.server import ServerProtocol
from app.proxy.shadow import Shadows
from app.proxy.upstream import Upstream
from tests.client import post, read_answer
from tests.misbehaving import MisbehavingUpstream

REQUESTS = 200


class Nobody:
    def guard_tripped(self, trip: GuardTrip) -> None:
        raise AssertionError(trip)


async def test_a_request_makes_no_task_and_one_journal_write_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    tasks: list[str] = []
    writes: list[int] = []
    real_write = os.write

    def counted_write(file: int, data: bytes) -> int:
        writes.append(file)
        return real_write(file, data)

    def counted_task(
        loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **more: Any
    ) -> asyncio.Task[Any]:
        tasks.append(getattr(work, "__qualname__", "?"))
        return asyncio.Task(work, loop=loop, **more)

    with MisbehavingUpstream() as upstream:
        versions = tuple(Version(name, (upstream.url,)) for name in ("v1", "v2", "v3"))
        model = Model(
            "m",
            "v1",
            versions,
            match=Match("/m", strip=True),
            routing_key=RoutingKey("header", "X-User-Id"),
            canary=Canary(control=ControlMirror(sample=0.0)),
        )
        journal = Writer(JournalPolicy(str(tmp_path)), "w0")
        control = Upstream(loop, (f"unix://{tmp_path}/none",), timeout_s=1.0, connect_timeout_s=1.0)
        plane = Plane(
            loop,
            ServerPolicy(),
            AuthPolicy(),
            journal,
            capture_bytes=65_536,
            control=control,
            privacy_secret=b"",
            guard_listener=Nobody(),
            wall_ns=time.time_ns,
        )
        Shadows(plane)
        plane.apply([model], {"m": Flags("m", 1, "v1", "v2", 50.0, True, True, ("v3",), (), "salt", "r1")})
        connections: set[ServerProtocol] = set()
        server = await loop.create_server(lambda: ServerProtocol(plane, connections), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])

        async def ask(number: int) -> None:
            writer.write(post("/m/ok", X_User_Id=f"u{number}"))
            assert (await read_answer(reader)).status == 200

        def shadows() -> int:
            return journal.records["shadow"]

        for number in range(20):  # connections to all versions exist after these
            await ask(number)
        async with asyncio.timeout(10):
            while shadows() < 20:  # the plane has no event for a test
                await asyncio.sleep(0.01)
        before = dict(journal.records)
        loop.set_task_factory(counted_task)
        monkeypatch.setattr(writer_module.os, "write", counted_write)
        for number in range(REQUESTS):
            await ask(number)
        monkeypatch.undo()
        loop.set_task_factory(None)
        async with asyncio.timeout(10):
            while shadows() < before["shadow"] + REQUESTS:  # as above
                await asyncio.sleep(0.01)
        writer.close()
        server.close()
        plane.close()
        journal.close()
    assert journal.records["prediction"] - before["prediction"] == REQUESTS
    # The last copies may be answered after the last count; each record is one write and nothing else is written.
    assert REQUESTS <= len(writes) <= 2 * REQUESTS
    # A connection to the shadow is opened only when all idle ones are taken: never one a request.
    assert len(tasks) < REQUESTS / 10, tasks
    assert set(tasks) <= {"Endpoint._connect"}
