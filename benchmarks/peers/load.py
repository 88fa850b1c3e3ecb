"""Load that wrk cannot make: an open loop at a given rate, and many connections that always await an answer.

Open loop: requests are due at Poisson times of a fixed seed whether or not earlier ones were answered,
and latency counts from the moment a request was due, so a stalled proxy cannot hide behind a generator
that waits for it ("coordinated omission", G. Tene, "How NOT to Measure Latency", 2013).

    python -m benchmarks.peers.load PORT PATH --connections N --seconds S [--rate R]    prints one JSON line

Loopback only. It ends by itself: after the time asked for, plus at most DRAIN_S for answers under way.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import resource
import sys
import time
from collections import Counter, deque

import uvloop

from benchmarks.peers.alarm import Alarm
from benchmarks.peers.traffic import USERS, bodies
from benchmarks.peers.upstream import message_length

DRAIN_S = 10.0
SEED = 20


def percentile(ordered: list[float], q: float) -> float:
    """Nearest-rank percentile of sorted values; 0 of none."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * q))] if ordered else 0.0


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request under way."""

    def __init__(self, load: LoadRun) -> None:
        self._load = load
        self._data = bytearray()
        self.due: float | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def send(self, request: bytes, due: float) -> None:
        self.due = due
        if self.transport is not None:
            self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._data += data
        length = message_length(self._data)
        if length is None or len(self._data) < length:
            return
        status = bytes(self._data[9:12])
        del self._data[:length]
        due, self.due = self.due, None
        if due is not None:
            self._load.answered(self, due, status)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        due, self.due = self.due, None
        self._load.lost(due is not None)


class LoadRun:
    """One run: its connections, its schedule and what it saw. `rate` None: closed loop."""

    def __init__(self, port: int, path: str, connections: int, seconds: float, rate: float | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._port = port
        self._wanted = connections
        self._seconds = seconds
        self._rate = rate
        self._gap_rate = rate or 1.0
        self._requests = [self._request(path, user, body) for user, body in enumerate(bodies())]
        self._random = random.Random(SEED)
        self._at = 0
        self._idle: deque[Connection] = deque()
        self._waiting: deque[float] = deque()  # moments of requests that found no idle connection
        self._under_way = 0
        self._connections = 0
        self._sending = True
        self._done = asyncio.Event()
        self.latencies: list[float] = []
        self.failed: Counter[str] = Counter()

    async def run(self) -> dict[str, object]:
        for _ in range(self._wanted):
            await self._connect()
        start = time.monotonic()
        self._until = start + self._seconds
        if self._rate is None:
            for _ in range(self._wanted):
                self._send(time.monotonic())
            await asyncio.sleep(self._seconds)
        else:
            self._next = start
            with Alarm(self._loop, self._tick) as self._alarm:
                self._tick()
                await asyncio.sleep(self._seconds + 0.05)
        self._sending = False
        elapsed = time.monotonic() - start
        if self._under_way or self._waiting:
            try:
                await asyncio.wait_for(self._done.wait(), DRAIN_S)
            except TimeoutError:
                self.failed["unanswered"] += self._under_way + len(self._waiting)
        ordered = sorted(self.latencies)
        return {
            "requests": len(ordered),
            "failed": dict(self.failed),
            "seconds": elapsed,
            "connections": self._connections,
            "p50_ms": percentile(ordered, 0.50) * 1e3,
            "p99_ms": percentile(ordered, 0.99) * 1e3,
            "p999_ms": percentile(ordered, 0.999) * 1e3,
        }

    def answered(self, connection: Connection, due: float, status: bytes) -> None:
        """A whole answer came."""
        now = time.monotonic()
        self._under_way -= 1
        if status == b"200":
            self.latencies.append(now - due)
        else:
            self.failed[f"status {status.decode(errors='replace')}"] += 1
        self._idle.append(connection)
        if self._waiting:
            self._send(self._waiting.popleft())
        elif self._rate is None and self._sending:
            self._send(now)
        elif not self._sending and not self._under_way:
            self._done.set()

    def lost(self, with_request: bool) -> None:
        """A connection was closed by the other side."""
        self._connections -= 1
        if with_request:
            self._under_way -= 1
            self.failed["connection lost"] += 1
        if not self._sending and not self._under_way:
            self._done.set()

    def _tick(self) -> None:
        now = time.monotonic()
        while self._next <= now and self._next < self._until:
            self._send(self._next)
            self._next += self._random.expovariate(self._gap_rate)
        if self._next < self._until:
            self._alarm.set(self._next)

    def _send(self, due: float) -> None:
        while self._idle:
            connection = self._idle.popleft()
            if connection.transport is not None:
                self._at = (self._at * 21 + 7) % USERS
                self._under_way += 1
                connection.send(self._requests[self._at], due)
                return
        self._waiting.append(due)

    async def _connect(self) -> None:
        _, connection = await self._loop.create_connection(lambda: Connection(self), "127.0.0.1", self._port)
        self._connections += 1
        self._idle.append(connection)

    @staticmethod
    def _request(path: str, user: int, body: bytes) -> bytes:
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"X-User-Id: user-{user}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description="paced or closed-loop load on a loopback port")
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--rate", type=float, default=None)
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gc.disable()

    async def run() -> dict[str, object]:
        return await LoadRun(
            options.port, options.path, options.connections, options.seconds, options.rate
        ).run()

    sys.stdout.write(json.dumps(uvloop.run(run())) + "\n")


if __name__ == "__main__":
    main()
