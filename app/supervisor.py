"""Owns the listening sockets and the children: starts them, starts them again, stops them. Does nothing else, so that it does not fail.

One listening socket a worker (SO_REUSEPORT spreads connections) stays open here: while a killed worker is being replaced, its
connections wait in the queue instead of being refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from app.control.specification import STOPPING_SOON
from app.domain.policy import AuthPolicy
from app.errors import ConfigurationError
from app.main import send_specification

PACKAGE = Path(__file__).resolve().parent.parent
BACKLOG = 4096
FIRST_DELAY_S = 0.05
LONGEST_DELAY_S = 5.0
STEADY_S = 5.0  # a child that lived this long starts again without delay


@dataclass(slots=True)
class Child:
    """One process of the gateway."""

    name: str
    role: str  # worker | control
    specification: object
    descriptors: tuple[int, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    delay_s: float = 0.0
    restarts: int = 0
    due: float = field(default=0.0)

    def start(self) -> None:
        self.started = time.monotonic()
        # -P and PYTHONPATH: the children run the very package that this process runs, whatever the working directory holds.
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "app.main", self.role, self.name],
            stdin=subprocess.PIPE,
            pass_fds=self.descriptors,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(PACKAGE), os.environ.get("PYTHONPATH", "")]).rstrip(
                    os.pathsep
                ),
            },
        )
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died at once: the next look finds out
            send_specification(self.process.stdin, self.specification)

    def tell(self, message: object) -> None:
        """Something new for a running child, down the pipe that brought its specification."""
        if self.process is not None and self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it just died: its successor knows
                send_specification(self.process.stdin, message)

    def look(self, now: float) -> None:
        """Start it when it is due, or note that it died and when it will be started again."""
        if self.process is None:
            if now >= self.due:
                self.start()
            return
        code = self.process.poll()
        if code is None:
            return
        lived = now - self.started
        self.delay_s = (
            0.0 if lived >= STEADY_S else min(LONGEST_DELAY_S, max(FIRST_DELAY_S, self.delay_s * 2))
        )
        self.restarts += 1
        sys.stderr.write(f"{self.name} ended with {code} after {lived:.1f} s; starting it again\n")
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process = None
        self.due = now + self.delay_s

    def signal(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)


def bind(host: str, port: int, count: int) -> list[socket.socket]:
    """`count` listening sockets on one address; port 0 takes a free one. `OSError` when the address is taken."""
    family, _, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listeners: list[socket.socket] = []
    # A first socket without SO_REUSEPORT would refuse an address that someone else's gateway shares; so ask before sharing.
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
        address = (address[0], probe.getsockname()[1], *address[2:])
    for _ in range(count):
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listeners.append(listener)
    return listeners


# Gives the children's specifications what the configuration now says; returns the tokens that the control process is to know.
Renewal = Callable[[list[Child]], AuthPolicy]


class Supervisor:
    def __init__(self, children: list[Child], drain_s: float, renew: Renewal | None = None) -> None:
        self.children = children
        self._drain_s = drain_s
        self._renew = renew
        self._rolling = asyncio.Lock()

    async def run(self) -> int:
        """Until SIGTERM or SIGINT; then stop the workers (which drain), and after them the control process."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        rolling: set[asyncio.Task[None]] = set()

        def roll() -> None:
            task = loop.create_task(self._rolling_restart())
            rolling.add(task)
            task.add_done_callback(rolling.discard)

        loop.add_signal_handler(signal.SIGHUP, roll)
        while not stop.is_set():
            now = time.monotonic()
            for child in self.children:
                child.look(now)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await stop.wait()
        for task in rolling:
            task.cancel()
        for child in self.children:
            if child.role == "control":
                child.signal(STOPPING_SOON)
        # The control process outlives the workers: it takes their last records into the store.
        await self._end([c for c in self.children if c.role == "worker"], self._drain_s + 2.0)
        await self._end([c for c in self.children if c.role != "worker"], 10.0)
        return 0

    async def _rolling_restart(self) -> None:
        """SIGHUP: read tokens and certificates anew, then replace the workers one after another.

        A successor shares its predecessor's socket, so no connection is refused. What cannot be used is said, and all stays as it is.
        """
        async with self._rolling:
            try:
                news = self._renew(self.children) if self._renew is not None else None
            except ConfigurationError as error:
                sys.stderr.write("SIGHUP: nothing was changed\n" + "".join(f"{f}\n" for f in error.faults))
                return
            for child in self.children:
                if child.role == "control" and news is not None:
                    child.tell(news)
            await self._replace_workers()

    async def _replace_workers(self) -> None:
        for child in [c for c in self.children if c.role == "worker"]:
            old, child.process = child.process, None
            child.due = 0.0
            child.start()
            await asyncio.sleep(1.0)
            if old is not None and old.poll() is None:
                old.send_signal(signal.SIGTERM)
                while old.poll() is None:  # noqa: ASYNC110  # a process has no event to wait for
                    await asyncio.sleep(0.05)
            if old is not None and old.stdin is not None:
                old.stdin.close()

    @staticmethod
    async def _end(children: list[Child], within_s: float) -> None:
        for child in children:
            child.signal(signal.SIGTERM)
        end = time.monotonic() + within_s
        while any(c.process is not None and c.process.poll() is None for c in children):
            if time.monotonic() > end:
                for child in children:
                    child.signal(signal.SIGKILL)
                end = float("inf")
            await asyncio.sleep(0.02)
        for child in children:
            if child.process is not None and child.process.stdin is not None:
                child.process.stdin.close()


def run(children: list[Child], drain_s: float, renew: Renewal | None = None) -> int:
    os.environ.setdefault("PYTHONUNBUFFERED", "1")

    async def supervise() -> int:
        return await Supervisor(children, drain_s, renew).run()

    return asyncio.run(supervise())
