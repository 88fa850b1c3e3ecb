"""Two model servers, v1 and v2, that answer every model by a rule of the test's: how often, how late, how right.

Real sockets in a thread of their own; rules may be exchanged while they serve.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Said:
    status: int = 200
    delay_s: float = 0.0
    prediction: float | str = 0.1


Rule = Callable[[dict[str, str], Any], Said]  # headers in lower case, the body as JSON


def fine(_headers: dict[str, str], _body: Any) -> Said:
    return Said()


def failing(part: float, seed: int) -> Rule:
    """Fails on this part of the requests, at random."""
    rng = random.Random(seed)
    return lambda _headers, _body: Said(500) if rng.random() < part else Said()


def taking(median_s: float, sigma: float, seed: int) -> Rule:
    """Lognormal times."""
    rng = random.Random(seed)
    return lambda _headers, _body: Said(delay_s=median_s * rng.lognormvariate(0.0, sigma))


class RuledServers:
    """A context manager. `rules[version, model]` is looked up by the first segment of the path; without one: `fine`."""

    def __init__(self) -> None:
        self.rules: dict[tuple[str, str], Rule] = {}
        self.asked: Counter[tuple[str, str]] = Counter()
        self.urls: dict[str, str] = {}
        self._loop = asyncio.new_event_loop()
        self._servers: list[asyncio.Server] = []
        self._thread = threading.Thread(target=self._run, name="ruled-servers", daemon=True)

    def __enter__(self) -> RuledServers:
        self._thread.start()
        for version in ("v1", "v2"):
            listening = asyncio.run_coroutine_threadsafe(self._listen(version), self._loop)
            self.urls[version] = f"http://127.0.0.1:{listening.result(10)}"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        for server in self._servers:
            server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _listen(self, version: str) -> int:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while True:
                    await self._answer(version, reader, writer)
            writer.close()

        server = await asyncio.start_server(connected, "127.0.0.1", 0, backlog=1024)
        self._servers.append(server)
        port: int = server.sockets[0].getsockname()[1]
        return port

    async def _answer(self, version: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(self._fields(head[1:]))
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        model = head[0].split(" ")[1].split("/")[1]
        self.asked[version, model] += 1
        said = self.rules.get((version, model), fine)(headers, json.loads(body or b"null"))
        if said.delay_s > 0.0:
            await asyncio.sleep(said.delay_s)
        reply = json.dumps({"prediction": said.prediction}).encode()
        line = f"HTTP/1.1 {said.status} {'OK' if said.status < 400 else 'Error'}\r\n"
        fields = f"Content-Type: application/json\r\nContent-Length: {len(reply)}\r\n\r\n"
        writer.write((line + fields).encode() + reply)
        await writer.drain()

    @staticmethod
    def _fields(lines: list[str]) -> Iterator[tuple[str, str]]:
        for line in lines:
            name, found, value = line.partition(":")
            if found:
                yield name.lower(), value.strip()
