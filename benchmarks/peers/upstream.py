"""The model servers of the benchmark: six listeners in one process, as cheap as Python can be, counting.

Three versions (production, canary, shadow) answer a small JSON at once, three after 20 ms. `GET` on the
admin port returns the requests and new connections of each since the last such request, so that a
contender which drops its shadows cannot pass for a cheap one.

    python -m benchmarks.peers.upstream     prints one JSON line with the ports, then serves until killed

It understands only what proxies send it: HTTP/1.1, Content-Length. A chunked body is answered 411, which
shows as a failure.
"""

from __future__ import annotations

import asyncio
import gc
import json
import re
import sys
import time
from collections import deque
from functools import partial

import uvloop

from benchmarks.peers.alarm import Alarm

VERSIONS = ("production", "canary", "shadow")
DELAY_S = 0.020

_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)


def response(status: str, body: bytes) -> bytes:
    """A complete HTTP/1.1 answer with a JSON body."""
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def message_length(data: bytes | bytearray) -> int | None:
    """Bytes of the first message in `data`, by its Content-Length; None while its header is not all there.

    Raises ValueError for a chunked message.
    """
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    found = _CONTENT_LENGTH.search(data, 0, end + 2)
    if found is not None:
        return end + 4 + int(found[1])
    if b"chunked" in data[:end].lower():
        raise ValueError("chunked")
    return end + 4


class Listener:
    """One version at one port: what it answers, after how long, and how often it was asked."""

    def __init__(self, loop: asyncio.AbstractEventLoop, answer: bytes, delay_s: float) -> None:
        self.answer = answer
        self.delay_s = delay_s
        self.requests = 0
        self.connections = 0
        self._due: deque[tuple[float, asyncio.Transport]] = deque()
        self._alarm = Alarm(loop, self._release) if delay_s else None

    def asked(self, transport: asyncio.Transport) -> None:
        self.requests += 1
        if self._alarm is None:
            transport.write(self.answer)
            return
        self._due.append((time.monotonic() + self.delay_s, transport))
        if len(self._due) == 1:
            self._alarm.set(self._due[0][0])

    def _release(self) -> None:
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            transport = self._due.popleft()[1]
            if not transport.is_closing():
                transport.write(self.answer)
        if self._due and self._alarm is not None:
            self._alarm.set(self._due[0][0])


class Connection(asyncio.Protocol):
    """Splits the stream into requests by Content-Length."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._data = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._listener.connections += 1

    def data_received(self, data: bytes) -> None:
        self._data += data
        while self._data:
            try:
                length = message_length(self._data)
            except ValueError:
                self._transport.write(response("411 Length Required", b"{}"))
                self._transport.close()
                return
            if length is None or len(self._data) < length:
                return
            del self._data[:length]
            self._listener.asked(self._transport)


class Admin(asyncio.Protocol):
    """Answers anything with [requests, connections] of each listener, and starts them again from zero."""

    def __init__(self, listeners: dict[str, Listener]) -> None:
        self._listeners = listeners

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        counts = {name: (it.requests, it.connections) for name, it in self._listeners.items()}
        for listener in self._listeners.values():
            listener.requests = listener.connections = 0
        self._transport.write(response("200 OK", json.dumps(counts).encode()))
        self._transport.close()


async def serve() -> None:
    """Listen on free loopback ports, tell them on standard output, serve for ever."""
    loop = asyncio.get_running_loop()
    predictions = {"production": 0.73, "canary": 0.74, "shadow": 0.72}
    listeners: dict[str, Listener] = {}
    ports: dict[str, int] = {}
    for speed, delay_s in (("instant", 0.0), ("slow", DELAY_S)):
        for version in VERSIONS:
            body = json.dumps({"prediction": predictions[version], "confidence": 0.91}).encode()
            listener = listeners[f"{speed}-{version}"] = Listener(loop, response("200 OK", body), delay_s)
            server = await loop.create_server(partial(Connection, listener), "127.0.0.1", 0, backlog=4096)
            ports[f"{speed}-{version}"] = server.sockets[0].getsockname()[1]
    admin = await loop.create_server(lambda: Admin(listeners), "127.0.0.1", 0)
    ports["admin"] = admin.sockets[0].getsockname()[1]
    gc.collect()
    gc.disable()  # a pause here would be measured as a proxy's latency
    sys.stdout.write(json.dumps(ports) + "\n")
    sys.stdout.flush()
    await loop.create_future()


if __name__ == "__main__":
    uvloop.run(serve())
