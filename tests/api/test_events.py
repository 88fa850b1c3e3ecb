"""/admin/events over real sockets: what is told, taken up again, and who is let go."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn

from app.api.admin.events import facts
from app.control.changes import KEPT, MAX_LISTENERS, Changes
from tests.control_parts import ADMIN, Control, control, until

EVENTS = "/admin/events"
FLAGS = "/admin/models/credit/flags"


class Served:
    """The application on a Unix socket, its changes looked at as in the control process."""

    def __init__(self, parts: Control, path: Path) -> None:
        self.parts = parts
        self.path = path
        self.services = parts.application.state.services
        self.changes: Changes = self.services.changes
        self.degraded: list[str] = []

    def client(self) -> httpx2.AsyncClient:
        transport = httpx2.AsyncHTTPTransport(uds=str(self.path))
        return httpx2.AsyncClient(transport=transport, base_url="http://gateway", headers=ADMIN, timeout=10.0)

    def told(self, reason: str) -> int:
        return self.changes.dropped[reason]

    def clients(self) -> int:
        return int(next(one.value for one in self.changes.series() if one.name == "gateway_event_clients"))


@contextlib.asynccontextmanager
async def served(directory: Path) -> AsyncIterator[Served]:
    async with control(directory) as parts:
        path = directory / "api.sock"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            server = uvicorn.Server(uvicorn.Config(parts.application, log_config=None, lifespan="off"))
            gateway = Served(parts, path)
            parts.flags.subscribe(gateway.changes.touch)
            looking = asyncio.create_task(
                gateway.changes.run(lambda: facts(gateway.services, gateway.degraded))
            )
            serving = asyncio.create_task(server._serve([listener]))
            await until(lambda: server.started)
            try:
                yield gateway
            finally:
                gateway.changes.close()
                server.should_exit = True
                await serving
                looking.cancel()
                await asyncio.gather(looking, return_exceptions=True)


class Stream:
    """One client's events, as they come."""

    def __init__(self, reply: httpx2.Response) -> None:
        self.reply = reply
        self.comments = 0
        self._lines = reply.aiter_lines()

    async def next(self) -> dict[str, Any]:
        event: dict[str, Any] = {}
        async with asyncio.timeout(10.0):
            async for line in self._lines:
                if line.startswith(":"):
                    self.comments += 1
                elif line:
                    name, _, value = line.partition(": ")
                    event[name] = json.loads(value) if name == "data" else value
                elif "event" in event:
                    return event
        raise EOFError

    async def until(self, kind: str) -> dict[str, Any]:
        while (event := await self.next())["event"] != kind:
            pass
        return event


@contextlib.asynccontextmanager
async def following(gateway: Served, **headers: str) -> AsyncIterator[Stream]:
    async with (
        gateway.client() as client,
        client.stream("GET", EVENTS, headers={k.replace("_", "-"): v for k, v in headers.items()}) as reply,
    ):
        assert reply.status_code == 200
        assert reply.headers["content-type"].startswith("text/event-stream")
        yield Stream(reply)


async def test_changes_are_told_as_they_happen(tmp_path: Path) -> None:
    async with served(tmp_path) as gateway, gateway.client() as client, following(gateway) as stream:
        assert (await stream.next())["data"] == {"resumed": False}
        await until(lambda: gateway.changes._known is not None)
        await client.patch(FLAGS, json={"shadow_versions": ["v2"], "reason": "look"})
        told = await stream.until("flag")
        assert told["data"] == {"model": "credit", "revision": 1, "durable": True}
        await client.patch(FLAGS, json={"shadow_versions": [], "reason": "enough"})
        begun = (await client.post("/admin/models/credit/rollouts", json={"candidate": "v2"})).json()
        told = await stream.until("rollout")
        assert (told["data"]["rollout"], told["data"]["state"]) == (begun["id"], begun["state"])
        await client.post(f"/admin/models/credit/rollouts/{begun['id']}/rollback", json={"reason": "no"})
        assert (await stream.until("rollout"))["data"] == {"model": "credit", "rollout": None}
        gateway.degraded = ["store"]
        assert (await stream.until("gateway"))["data"] == {"degraded": ["store"]}


async def test_who_comes_back_hears_what_was_missed_or_that_it_cannot_be_told(tmp_path: Path) -> None:
    async with served(tmp_path) as gateway:
        async with following(gateway) as stream:
            last = (await stream.next())["id"]
        for number in range(3):
            gateway.changes.publish("flag", {"n": number})
        async with following(gateway, Last_Event_ID=last) as stream:
            assert (await stream.next())["data"] == {"resumed": True}
            assert [(await stream.next())["data"]["n"] for _ in range(3)] == [0, 1, 2]
        for number in range(KEPT + 1):
            gateway.changes.publish("flag", {"n": number})
        for lost in (last, "another-7", "7", "-", f"{last.partition('-')[0]}-999999999"):
            async with following(gateway, Last_Event_ID=lost) as stream:
                assert (await stream.next())["data"] == {"resumed": False}, lost


async def test_a_quiet_stream_is_kept_open_until_its_token_ends(tmp_path: Path) -> None:
    async with served(tmp_path) as gateway:
        gateway.changes.heartbeat_s = 0.02
        async with following(gateway) as stream:
            await stream.next()
            await until(lambda: gateway.changes._known is not None)
            reading = asyncio.create_task(stream.next())
            await until(lambda: stream.comments >= 2)
            gateway.services.auth._tokens.clear()
            with pytest.raises(EOFError):
                await reading
        await until(lambda: gateway.clients() == 0)


async def test_clients_are_limited_and_make_room_when_they_leave(tmp_path: Path) -> None:
    async with served(tmp_path) as gateway, gateway.client() as client:
        async with following(gateway) as stream:
            await stream.next()
            others = [gateway.changes.listen() for _ in range(MAX_LISTENERS - 1)]
            refused = await client.get(EVENTS)
            assert (refused.status_code, refused.json()["code"], gateway.told("limit")) == (
                503,
                "unavailable",
                1,
            )
            assert refused.headers["retry-after"]
            for one in others:
                gateway.changes.leave(one)
        await until(lambda: gateway.clients() == 0)


async def test_a_client_that_does_not_read_is_dropped_and_delays_nobody(tmp_path: Path) -> None:
    async with served(tmp_path) as gateway, following(gateway) as stream:
        await stream.next()
        gateway.changes.give_up_s = 0.2
        with socket.socket(socket.AF_UNIX) as silent:
            silent.connect(str(gateway.path))
            silent.sendall(
                f"GET {EVENTS} HTTP/1.1\r\nHost: gateway\r\nAuthorization: {ADMIN['Authorization']}\r\n\r\n".encode()
            )
            await until(lambda: gateway.clients() == 2)
            for number in range(100_000):
                gateway.changes.publish("flag", {"n": number, "padding": "x" * 4096})
                assert (await stream.until("flag"))["data"]["n"] == number
                if gateway.told("slow"):
                    break
        assert gateway.told("slow") == 1
        await until(lambda: gateway.clients() == 1)


async def test_streams_end_when_the_gateway_stops(tmp_path: Path) -> None:
    async with served(tmp_path) as gateway, gateway.client() as client, following(gateway) as stream:
        await stream.next()
        await until(lambda: gateway.changes._known is not None)
        gateway.changes.close()
        with pytest.raises(EOFError):
            await stream.next()
        assert (await client.get(EVENTS)).status_code == 503


async def test_events_need_a_token(tmp_path: Path) -> None:
    async with served(tmp_path) as gateway, gateway.client() as client:
        assert (await client.get(EVENTS, headers={"Authorization": "Bearer wrong"})).status_code == 401
