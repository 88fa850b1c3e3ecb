"""Steady traffic beside a fault, and the oracle that compares what clients were answered with what the database holds."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.adapters import migrations
from tests.client import Answer, post, read_answer
from tests.misbehaving import MisbehavingUpstream
from tests.servers import PostgresServer
from tests.system import RunningGateway

BODY = b'{"features": {"income": 41.5, "age": 30}}'


def predict(user: str, body: bytes = BODY) -> bytes:
    return post("/models/credit/predict", body, X_User_Id=user)


def credit(v1: MisbehavingUpstream, v2: MisbehavingUpstream | None = None, **more: object) -> dict[str, Any]:
    """One model as the file has it."""
    versions = {"v1": {"url": v1.url, "timeout_s": 5}}
    if v2 is not None:
        versions["v2"] = {"url": v2.url, "timeout_s": 5}
    return {
        "credit": {
            "match": {"path_prefix": "/models/credit", "strip": True},
            "protocol": "json",
            "task": "binary",
            "routing_key": {"header": "X-User-Id"},
            "production": "v1",
            "versions": versions,
            **more,
        }
    }


@dataclass
class Traffic:
    """Clients that each send, wait for the answer, and pause; for as long as the block lasts. What breaks is kept in `failures`."""

    port: int
    request: Callable[[str], bytes] = predict
    clients: int = 4
    pause_s: float = 0.01
    answers: list[Answer] = field(default_factory=list)
    took_s: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _users: itertools.count[int] = field(default_factory=itertools.count)
    _ending: bool = False

    async def __aenter__(self) -> Traffic:
        self._tasks = [asyncio.create_task(self._client()) for _ in range(self.clients)]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Requests under way are still answered."""
        self._ending = True
        async with asyncio.timeout(60):
            await asyncio.gather(*self._tasks)

    async def _client(self) -> None:
        while not self._ending:
            writer = None
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                while not self._ending:
                    started = time.perf_counter()
                    writer.write(self.request(f"u{next(self._users)}"))
                    answer = await read_answer(reader)
                    self.took_s.append(time.perf_counter() - started)
                    self.answers.append(answer)
                    if answer.headers.get("connection") == "close":
                        break
                    await asyncio.sleep(self.pause_s)
            except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
                self.failures.append(f"{type(error).__name__}: {error}")
                await asyncio.sleep(0.05)
            finally:
                if writer is not None:
                    writer.close()
                    with contextlib.suppress(OSError):
                        await writer.wait_closed()

    async def more(self, count: int, within_s: float = 60.0) -> None:
        """Until this many more answers have come."""
        wanted = len(self.answers) + count
        async with asyncio.timeout(within_s):
            while len(self.answers) < wanted:
                await asyncio.sleep(0.01)

    @property
    def ids(self) -> list[str]:
        return [answer.headers["x-prediction-id"] for answer in self.answers]

    def slowest_ms(self) -> float:
        return max(self.took_s) * 1000

    def all_good(self) -> None:
        assert self.failures == []
        assert Counter(answer.status for answer in self.answers) == {200: len(self.answers)}


@dataclass
class Database:
    """One database of a server, seen from outside of the gateway."""

    server: PostgresServer
    name: str

    @classmethod
    async def made(cls, server: PostgresServer, *, tables: bool = True) -> Database:
        """A new one, with all tables or with none."""
        url = await asyncio.to_thread(server.new_database)
        if tables:
            await asyncio.to_thread(migrations.upgrade, url)
        return cls(server, url.rpartition("/")[2])

    @property
    def url(self) -> str:
        return self.server.url(self.name)

    async def rows(self, query: str) -> list[tuple[Any, ...]]:
        return await asyncio.to_thread(self.server.run, query, self.name)

    async def stored(self) -> list[str]:
        """Prediction ids, each as often as it is there."""
        return [row[0] for row in await self.rows("SELECT prediction_id FROM predictions")]


async def accounted(gateway: RunningGateway, database: Database, answered: list[str]) -> dict[str, Any]:
    """The oracle: once nothing is pending, each answered id is stored once, nothing else is, and the accounts add up."""
    await up(gateway)
    accounts: dict[str, Any] = await asyncio.to_thread(gateway.settled, 60.0)
    stored = await database.stored()
    assert [name for name, times in Counter(stored).items() if times > 1] == []
    assert set(answered) - set(stored) == set()
    assert accounts["received"] == accounts["stored"] + accounts["pending"] + sum(
        accounts["dropped"].values()
    )
    return accounts


async def up(gateway: RunningGateway, within_s: float = 60.0) -> None:
    """Until nothing is degraded."""
    async with asyncio.timeout(within_s):
        while await degraded(gateway):
            await asyncio.sleep(0.1)


async def down(gateway: RunningGateway, *names: str) -> None:
    """Until exactly these are said to be down."""
    async with asyncio.timeout(30):
        while sorted(await degraded(gateway)) != sorted(names):
            await asyncio.sleep(0.1)


async def degraded(gateway: RunningGateway) -> list[str]:
    """What `/readyz` says is down; it must take traffic all the same."""
    reply = await asyncio.to_thread(gateway.admin, "GET", "/readyz")
    assert reply.status_code == 200, reply.text
    down: list[str] = reply.json().get("degraded", [])
    return down


def log_of(directory: Path) -> str:
    return (directory / "gateway.log").read_text(errors="replace")
