"""The control process's end of the link: a Unix socket on which the workers of this host get snapshots and
send statistics.

A worker that sends nonsense, or does not read, loses its connection and nothing else: it connects again
and gets a fresh snapshot. Nothing here waits for a worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import stat
from pathlib import Path
from typing import Protocol, cast

import msgspec
import structlog

from app.control.flags import FlagsService
from app.control.registry import Registry
from app.control.statistics import Key, Sum, WorkerTotals
from app.link.messages import (
    SIGN_OF_LIFE_S,
    Ask,
    Dependencies,
    Downward,
    Frames,
    GuardTrip,
    Hello,
    ModelChanged,
    Pairs,
    Snapshot,
    Tick,
    Totals,
    decode_upward,
    frame,
)

log = structlog.get_logger(__name__)

MAX_CONNECTIONS = 256
HELLO_S = 5.0
BACKLOG_BYTES = 16 * 1024 * 1024  # unread frames beyond this: the worker hangs and is cut off


class LinkListener(Protocol):
    """Who uses what workers send. Called from the event loop; must return at once and not raise."""

    def tick(self, writer: str, tick: Tick) -> None: ...
    def pairs(self, writer: str, pairs: Pairs) -> None: ...
    def guard_trip(self, writer: str, trip: GuardTrip) -> None: ...


class _Worker(asyncio.Protocol):
    """One connection."""

    def __init__(self, server: LinkServer) -> None:
        self._server = server
        self._frames = Frames()
        self._transport: asyncio.Transport | None = None
        self._impatient: asyncio.TimerHandle | None = None
        self.hello: Hello | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # a stream server makes no others
        self._impatient = asyncio.get_running_loop().call_later(HELLO_S, self._give_up)
        if not self._server.connected(self):
            self._transport.abort()

    def _give_up(self) -> None:
        if self.hello is None and self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            for body in self._frames.feed(data):
                self._server.received(self, decode_upward(body))
        except (ValueError, msgspec.DecodeError, RecursionError) as error:
            self._server.misbehaved += 1
            name = self.hello.worker if self.hello else "unknown"
            log.warning("a worker sent what cannot be read; connection closed", worker=name, error=str(error))
            if self._transport is not None:
                self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._impatient is not None:
            self._impatient.cancel()
        self._transport = None
        self._server.disconnected(self)

    def send(self, data: bytes) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if transport.get_write_buffer_size() > BACKLOG_BYTES:
            log.warning(
                "a worker does not read; connection closed",
                worker=self.hello.worker if self.hello else "unknown",
            )
            transport.abort()
            return
        transport.write(data)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class LinkServer:
    """Listens between `start` and `close`. `workers` are those that said hello and are still connected."""

    def __init__(
        self,
        path: Path,
        registry: Registry,
        flags: FlagsService,
        totals: WorkerTotals,
        listener: LinkListener,
    ) -> None:
        self._path = path
        self._registry = registry
        self._flags = flags
        self.totals = totals
        self._listener = listener
        self._connections: set[_Worker] = set()
        self._server: asyncio.Server | None = None
        self._nonces = itertools.count(1)
        self._awaited: set[_Worker] = set()
        self._collecting: asyncio.Future[None] | None = None
        self._nonce = 0
        self._down: list[str] = []
        self.misbehaved = 0
        registry.subscribe(self._model_changed)
        flags.subscribe(self._model_changed)

    @property
    def workers(self) -> list[Hello]:
        return [one.hello for one in self._connections if one.hello is not None]

    async def start(self) -> None:
        """`OSError` when the socket cannot be made; a left-over socket of a process that is gone is
        replaced.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _remove_socket(self._path)
        self._server = await asyncio.get_running_loop().create_unix_server(
            lambda: _Worker(self), str(self._path)
        )
        self._path.chmod(0o600)

    async def run(self) -> None:
        """The owner runs this as a task: without a sign of life the workers say that this process hangs."""
        while True:
            await asyncio.sleep(SIGN_OF_LIFE_S)
            self._broadcast(Dependencies(self._down))

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            for connection in list(self._connections):
                connection.close()
            await self._server.wait_closed()
            _remove_socket(self._path)

    # ---- down

    def _model_changed(self, name: str) -> None:
        model = self._registry.get(name)
        if model is not None:
            self._broadcast(ModelChanged(model, self._flags.current(name)))

    def set_down(self, dependencies: list[str]) -> None:
        """Tell the workers which dependencies cannot be reached (for `/readyz`)."""
        if dependencies != self._down:
            self._down = dependencies
            self._broadcast(Dependencies(dependencies))

    def _broadcast(self, message: Downward) -> None:
        data = frame(message)
        for connection in list(self._connections):
            if connection.hello is not None:
                connection.send(data)

    # ---- up

    def connected(self, connection: _Worker) -> bool:
        if len(self._connections) >= MAX_CONNECTIONS:
            return False
        self._connections.add(connection)
        return True

    def disconnected(self, connection: _Worker) -> None:
        self._connections.discard(connection)
        self._answered(connection)

    def received(self, connection: _Worker, message: Hello | Tick | Totals | GuardTrip | Pairs) -> None:
        """`ValueError` for a message that does not belong here."""
        hello = connection.hello
        match message:
            case Hello():
                if hello is not None:
                    raise ValueError("a second hello")
                connection.hello = message
                self.totals.hello(message.worker, message.writer)
                connection.send(frame(Snapshot(self._registry.models(), self._flags.all())))
                connection.send(frame(Dependencies(self._down)))
            case _ if hello is None:
                raise ValueError("the first message is no hello")
            case Totals(series, nonce):
                self.totals.update(hello.writer, series)
                if nonce and nonce == self._nonce:
                    self._answered(connection)
            case Tick():
                self._listener.tick(hello.writer, message)
            case Pairs():
                self._listener.pairs(hello.writer, message)
            case GuardTrip():
                self._listener.guard_trip(hello.writer, message)

    # ---- statistics on demand

    async def collect(self, timeout_s: float = 0.25) -> dict[Key, Sum]:
        """Fresh totals of all workers added up; of a worker that does not answer in time its last ones.
        Asks at the same time share one.
        """
        collecting = self._collecting
        if collecting is None:
            collecting = self._collecting = asyncio.get_running_loop().create_future()
            self._nonce = next(self._nonces)
            self._awaited = {one for one in self._connections if one.hello is not None}
            self._broadcast(Ask(self._nonce))
            if not self._awaited:
                collecting.set_result(None)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(collecting)
        if self._collecting is collecting:
            self._collecting = None
        return self.totals.total()

    def _answered(self, connection: _Worker) -> None:
        self._awaited.discard(connection)
        if not self._awaited and self._collecting is not None and not self._collecting.done():
            self._collecting.set_result(None)


def _remove_socket(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            path.unlink()
