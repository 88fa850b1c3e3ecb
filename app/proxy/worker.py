"""The proxy worker's process: sockets, sweeps, drain. Lives on whatever happens to the control process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from app.domain.flags import Flags
from app.domain.model import Model, Version
from app.domain.policy import AuthPolicy, JournalPolicy, ServerPolicy
from app.journal.writer import Writer
from app.link.messages import Hello
from app.proxy.link import Link
from app.proxy.plane import Plane
from app.proxy.server import ServerProtocol
from app.proxy.shadow import Shadows
from app.proxy.tls import server_context
from app.proxy.upstream import Upstream

SWEEP_S = 0.25
CONTROL_TIMEOUT_S = 60.0
BACKLOG = 4096


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """All that a worker needs to know; the supervisor hands it over on standard input."""

    slot: str
    server: ServerPolicy
    journal: JournalPolicy
    auth: AuthPolicy
    models: tuple[Model, ...]
    listen: int  # inherited descriptor
    listen_admin: int | None
    api_socket: str
    link_socket: str
    privacy_secret: bytes  # keys the hashes of `privacy: hash`
    last_known: str  # the control process's file of last known flags
    tracing: float = -1.0  # share of traces begun here that are sampled; below 0: no spans are exported


class _LastKnown(msgspec.Struct):
    flags: list[Flags] = []
    versions: list[tuple[str, Version]] = []


def last_known(path: str, models: tuple[Model, ...]) -> tuple[list[Model], dict[str, Flags]]:
    """The file's models with the versions registered since, and their last known flags; production only when nothing is known."""
    known = _LastKnown()
    with contextlib.suppress(OSError, msgspec.DecodeError, UnicodeDecodeError):
        known = msgspec.json.decode(Path(path).read_bytes(), type=_LastKnown)
    result = []
    for model in models:
        have = {version.name for version in model.versions}
        extra = tuple(
            version for name, version in known.versions if name == model.name and version.name not in have
        )
        result.append(replace(model, versions=model.versions + extra) if extra else model)
    return result, {flags.model: flags for flags in known.flags}


class Worker:
    def __init__(self, spec: WorkerSpec) -> None:
        self.spec = spec
        self.connections: set[ServerProtocol] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()
        self._servers: list[asyncio.Server] = []

    async def run(self) -> None:
        """Serve until told to stop, then drain."""
        spec = self.spec
        loop = asyncio.get_running_loop()
        journal = Writer(spec.journal, spec.slot)
        link = Link(spec.link_socket, Hello(spec.slot, os.getpid(), journal.name), journal, time.time)
        control = Upstream(
            loop, (f"unix://{spec.api_socket}",), timeout_s=CONTROL_TIMEOUT_S, connect_timeout_s=1.0
        )
        plane = Plane(
            loop,
            spec.server,
            spec.auth,
            journal,
            capture_bytes=spec.journal.capture_bytes,
            control=control,
            privacy_secret=spec.privacy_secret,
            guard_listener=link,
            wall_ns=time.time_ns,
            tracing=spec.tracing,
            max_connections=_connections_at_most(),
        )
        link.plane, link.shadows = plane, Shadows(plane)
        plane.apply(*last_known(spec.last_known, spec.models))
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        self._watch_supervisor(loop)
        for work in (link.run(), link.publish_forever(), journal.sync_forever(), self._sweep(plane)):
            self._own(loop, work)
        await self._listen(loop, plane)
        plane.ready = True
        await self._stop.wait()
        await self._drain(plane)
        link.publish()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        plane.close()
        journal.close()

    async def _listen(self, loop: asyncio.AbstractEventLoop, plane: Plane) -> None:
        server = self.spec.server
        tls: dict[str, Any] = {}
        if server.tls is not None:
            tls = {
                "ssl": server_context(server.tls),
                "ssl_handshake_timeout": server.receive_timeout_s,
                "ssl_shutdown_timeout": server.receive_timeout_s,
            }
        for descriptor, admin in ((self.spec.listen, False), (self.spec.listen_admin, True)):
            if descriptor is not None:
                listener = socket.socket(fileno=descriptor)
                listener.setblocking(False)
                self._servers.append(
                    await loop.create_server(
                        partial(ServerProtocol, plane, self.connections, admin=admin),
                        sock=listener,
                        backlog=BACKLOG,
                        **tls,
                    )
                )

    async def _sweep(self, plane: Plane) -> None:
        """The one timer of all clients' deadlines."""
        beat = 0
        while True:
            await asyncio.sleep(SWEEP_S)
            now = plane.loop.time()
            plane.close_batches(now)
            for connection in [c for c in self.connections if c.deadline < now]:
                connection.expire()
            beat += 1
            if beat % 4 == 0:
                plane.sweep(now)

    async def _drain(self, plane: Plane) -> None:
        """Take no more, finish what is under way, within `drain_s`."""
        plane.draining = True
        for server in self._servers:
            server.close()
        for connection in list(self.connections):
            connection.drain()
        end = plane.loop.time() + self.spec.server.drain_s
        while self.connections and plane.loop.time() < end:  # noqa: ASYNC110  # many ends, one deadline
            await asyncio.sleep(0.02)
        for connection in list(self.connections):
            connection.transport.abort()
        await asyncio.sleep(0)

    def _own(self, loop: asyncio.AbstractEventLoop, work: Coroutine[None, None, None]) -> None:
        """A task that must not end: should it, the process ends loudly and the supervisor starts another."""
        task = loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            sys.stderr.write(f"worker {self.spec.slot}: {type(error).__name__}: {error}\n")
            self._stop.set()

    def _watch_supervisor(self, loop: asyncio.AbstractEventLoop) -> None:
        """Standard input closes when the supervisor is gone, however it went."""

        def closed() -> None:
            if not os.read(0, 4096):
                loop.remove_reader(0)
                self._stop.set()

        os.set_blocking(0, False)
        loop.add_reader(0, closed)


def _connections_at_most() -> int:
    """Half of the descriptors that this process may have: as many are left for model servers, the journal and the control process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:  # the customary soft limit of 1,024 is there for programs that use select
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    return 1 << 20 if soft == resource.RLIM_INFINITY else max(64, soft // 2)


def main(spec: WorkerSpec) -> None:
    import gc

    import uvloop

    async def serve() -> None:
        await Worker(spec).run()

    gc.collect()
    gc.freeze()  # what was imported lives as long as the process
    gc.set_threshold(50_000, 20, 20)
    uvloop.run(serve())
