"""Real servers for tests: private, on free ports, gone with the test process. They may be paused, killed and started again."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import ctypes
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import redis

from tests import bring_servers
from tests.ports import free_port

T = TypeVar("T")
START_S = 60.0
_ATTEMPTS = 5
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


class Server:
    """A child process in a directory of its own under the system's temporary directory."""

    stop_signal = signal.SIGTERM

    def __init__(self, kind: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix=f"gateway-test-{kind}-"))
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        self._user: str | None = None

    def run_as(self, user: str) -> None:
        """For programs that refuse to run as root."""
        self._user = user
        shutil.chown(self.directory, user)

    # ---- life

    def start(self) -> None:
        """Start on the port it had, on a free one the first time; returns when it answers."""
        for attempt in range(_ATTEMPTS):
            if attempt or not self.port:
                self.port = free_port()
            with (self.directory / "log").open("ab") as log:
                self.process = subprocess.Popen(
                    self._command(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=self.directory,
                    user=self._user,
                    group=None if self._user is None else pwd.getpwnam(self._user).pw_gid,
                    extra_groups=None if self._user is None else (),
                    preexec_fn=_end_with_parent,
                )
            if self._answers_in_time(self.process):
                return
            self.kill()
        log_text = (self.directory / "log").read_text(errors="replace")
        raise RuntimeError(f"{self._command()[0]} does not start:\n{log_text[-2000:]}")

    def _answers_in_time(self, process: subprocess.Popen[bytes]) -> bool:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and process.poll() is None:
            if self.answers():
                return True
            time.sleep(0.05)
        return False

    def stop(self) -> None:
        """An orderly stop, as by an administrator."""
        if self.process is not None:
            self.resume()
            self.process.send_signal(self.stop_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(20)
            self.kill()

    def kill(self) -> None:
        """As if the machine had lost power, but for what the kernel holds."""
        if self.process is not None:
            for pid in self.pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def pause(self) -> None:
        """It keeps its connections and answers nothing."""
        for pid in self.pids():
            os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def pids(self) -> list[int]:
        """The server and its children."""
        if self.process is None or self.process.poll() is not None:
            return []
        children: list[int] = []
        with contextlib.suppress(OSError):
            task = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
            children = [int(pid) for pid in task.read_text().split()]
        return [self.process.pid, *children]

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _command(self) -> list[str]:
        raise NotImplementedError

    def answers(self) -> bool:
        raise NotImplementedError


class PostgresServer(Server):
    """Superuser `gateway`, no password, on 127.0.0.1 only."""

    stop_signal = signal.SIGINT  # fast: does not wait for clients
    _fresh: Path | None = None  # a directory of data as initdb makes it, once a process, to be copied

    def __init__(self, settings: dict[str, str] | None = None) -> None:
        super().__init__("postgres")
        self._programs = bring_servers.postgresql()
        self._settings = settings or {}
        self._numbers = itertools.count(1)
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            self.run_as(next(name for name in ("postgres", "nobody") if _exists(name)))
        if PostgresServer._fresh is None:
            initdb = ["-U", "gateway", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]
            self._make(self._programs / "initdb", "-D", "data", *initdb)
            fresh = Path(tempfile.mkdtemp(prefix="gateway-test-postgres-fresh-"))
            atexit.register(shutil.rmtree, fresh, ignore_errors=True)
            shutil.chown(fresh, self._user or os.geteuid())
            self._make("cp", "-a", "data", str(fresh))
            PostgresServer._fresh = fresh / "data"
        else:
            self._make("cp", "-a", str(PostgresServer._fresh), "data")

    def _make(self, *command: str | Path) -> None:
        """A step of making the directory of data, done as the server's user."""
        made = subprocess.run(
            command, cwd=self.directory, user=self._user, capture_output=True, text=True, check=False
        )
        if made.returncode != 0:
            raise RuntimeError(f"{command[0]}: {made.stderr.strip() or made.stdout.strip()}")

    def _command(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.directory),
            "fsync": "off",  # these servers are killed, but never lose power
            "full_page_writes": "off",
            "shared_buffers": "64MB",
            "max_connections": "60",
            **self._settings,
        }
        chosen = [f"--{name}={value}" for name, value in settings.items()]
        return [str(self._programs / "postgres"), "-D", str(self.directory / "data"), *chosen]

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://gateway@127.0.0.1:{self.port}/{database}"

    def answers(self) -> bool:
        with contextlib.suppress(OSError, asyncpg.PostgresError, TimeoutError):
            self.run("SELECT 1")
            return True
        return False

    def run(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """One statement, outside of any transaction."""

        async def ask() -> list[tuple[Any, ...]]:
            connection = await asyncpg.connect(self.url(database), timeout=5)
            try:
                return [tuple(row) for row in await connection.fetch(statement)]
            finally:
                await connection.close(timeout=5)

        return _outside_any_loop(lambda: asyncio.run(ask()))

    def new_database(self, template: str = "template1") -> str:
        """The URL of a fresh database."""
        name = f"test{next(self._numbers)}"
        self.run(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)


class RedisServer(Server):
    def __init__(self) -> None:
        super().__init__("redis")
        self._program = bring_servers.redis()

    def _command(self) -> list[str]:
        options = {"--port": str(self.port), "--bind": "127.0.0.1", "--save": "", "--appendonly": "no"}
        return [str(self._program), "--dir", str(self.directory), *itertools.chain(*options.items())]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def answers(self) -> bool:
        with contextlib.suppress(redis.RedisError), self.client() as client:
            return bool(client.ping())
        return False

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, socket_timeout=2.0)

    def empty(self) -> None:
        with self.client() as client:
            client.flushall()


@contextlib.contextmanager
def running(server: T) -> Iterator[T]:
    """The server, started; stopped and removed at the end, also when the start fails."""
    assert isinstance(server, Server)
    try:
        server.start()
        yield server
    finally:
        server.remove()


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def _end_with_parent() -> None:
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _outside_any_loop(call: Callable[[], T]) -> T:
    """Tests call from inside and outside of an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return call()
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(call).result()
