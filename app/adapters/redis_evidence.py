"""Evidence merged over replicas: what the workers of each host count goes into one capped Redis stream; every host reads the others'.

Lost ticks are no data, never wrong data: while Redis is away each host goes on with its own workers' evidence.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import Any, Protocol

import msgspec
import structlog

from app.adapters.redis_client import PREFIX, connect, translated
from app.errors import UnavailableError
from app.link.messages import GuardTrip, Pairs, Tick, decode_upward, encode_upward

log = structlog.get_logger(__name__)

STREAM = f"{PREFIX}:evidence"
LENGTH = 10_000  # entries; about a minute of a hundred workers
WAITING = 1_000  # ticks not sent yet; beyond it the oldest go
READ_MS = 200
RETRY_S = 0.5


class Listener(Protocol):
    def tick(self, writer: str, tick: Tick) -> None: ...
    def pairs(self, writer: str, pairs: Pairs) -> None: ...
    def guard_trip(self, writer: str, trip: GuardTrip) -> None: ...


class RedisEvidence:
    """Stands between the link server and the controller: passes on what local workers say, and what other hosts' workers say."""

    def __init__(self, url: str, host: str, listener: Listener) -> None:
        self._client = connect(url)
        self._host = host.encode()
        self._listener = listener
        self._waiting: deque[tuple[str, bytes]] = deque(maxlen=WAITING)
        self._wake = asyncio.Event()
        self.dropped = 0
        self.refused = 0

    # ---- from the workers of this host

    def tick(self, writer: str, tick: Tick) -> None:
        self._listener.tick(writer, tick)
        self._send(writer, tick)

    def pairs(self, writer: str, pairs: Pairs) -> None:
        self._listener.pairs(writer, pairs)
        self._send(writer, pairs)

    def guard_trip(self, writer: str, trip: GuardTrip) -> None:
        self._listener.guard_trip(
            writer, trip
        )  # acted upon here and at once: the flags carry it to the others

    def _send(self, writer: str, message: Tick | Pairs) -> None:
        if len(self._waiting) == WAITING:
            self.dropped += 1
        self._waiting.append((writer, encode_upward(message)))
        self._wake.set()

    # ---- the two tasks of its owner

    async def run(self) -> None:
        """Both directions, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._write_forever())
            tasks.create_task(self._read_forever())

    async def _write_forever(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._write()
            except UnavailableError:
                await asyncio.sleep(RETRY_S)
                self._wake.set()

    async def _write(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(100, len(self._waiting)))]
            pipeline = self._client.pipeline(transaction=False)
            for writer, message in batch:
                entry: dict[Any, Any] = {b"host": self._host, b"writer": writer.encode(), b"message": message}
                pipeline.xadd(STREAM, entry, maxlen=LENGTH, approximate=True)
            try:
                with translated():
                    await pipeline.execute()
            except UnavailableError:
                self.dropped += len(batch)  # may or may not have arrived: sending again could count twice
                raise

    async def _read_forever(self) -> None:
        after: str | None = None
        while True:
            try:
                after = await self._read(after if after is not None else await self._newest())
            except UnavailableError:
                await asyncio.sleep(RETRY_S)

    async def _newest(self) -> str:
        """Where reading begins: what was counted before this process started is not its concern."""
        with translated():
            answer: Any = self._client.xrevrange(STREAM, count=1)
            newest = await answer
        return newest[0][0].decode() if newest else "0-0"

    async def _read(self, after: str) -> str:
        with translated():
            answer: Any = self._client.xread({STREAM: after}, count=1000, block=READ_MS)
            found = await answer
        for _, entries in found or ():
            for identity, entry in entries:
                after = identity.decode()
                if entry.get(b"host") != self._host:
                    self._received(entry)
        return after

    def _received(self, entry: dict[bytes, bytes]) -> None:
        writer = f"{entry.get(b'host', b'?').decode('ascii', 'replace')}/{entry.get(b'writer', b'?').decode('ascii', 'replace')}"
        try:
            message = decode_upward(entry[b"message"])
        except (KeyError, msgspec.DecodeError, RecursionError):
            self.refused += 1
            return
        match message:
            case Tick():
                self._listener.tick(writer, message)
            case Pairs():
                self._listener.pairs(writer, message)
            case _:
                self.refused += 1

    async def close(self) -> None:
        with contextlib.suppress(UnavailableError), translated():
            await self._client.aclose()
