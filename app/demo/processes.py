"""The demo's child processes: started on free ports, watched until they answer, and never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx2

import app
from app.demo.model_server import ModelFile

PACKAGE_PARENT = Path(app.__file__).resolve().parent.parent
STOP_WITHIN_S = 8.0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class DidNotStart(Exception):
    """A child ended, or did not answer, before its deadline; the message holds the end of its output."""


def free_port(wanted: int | None = None) -> int:
    """`wanted` if nothing listens there, else any free port of the loopback interface."""
    for port in (wanted or 0, 0):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)) as listener:
            return int(listener.getsockname()[1])
    raise DidNotStart("no free port on 127.0.0.1")


class Children:
    """Starts processes and stops all of them on leaving, last started first."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._running: list[tuple[str, asyncio.subprocess.Process]] = []

    async def __aenter__(self) -> Children:
        return self

    async def __aexit__(self, *_: object) -> None:
        for _name, process in reversed(self._running):
            await _stop(process)
        self._running.clear()

    async def serve(self, model: ModelFile) -> str:
        """Starts a model server in a process of its own and returns its URL."""
        path = self._directory / f"{model.version}.joblib"
        model.save(path)
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        arguments = ("app.demo.model_server", "--model", str(path), "--port", str(port))
        await self.start(f"model-{model.version}", arguments, f"{url}/health", within_s=30.0)
        return url

    async def start(
        self,
        name: str,
        arguments: Sequence[str],
        health_url: str,
        within_s: float,
        healthy: Callable[[httpx2.Response], bool] = lambda _: True,
    ) -> None:
        """Runs `python -m arguments…` and returns when `health_url` answers 200. Its output goes to
        `name.log`.
        """
        with self._log(name).open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(),
                # A terminal's Ctrl-C goes to the whole group: ours alone must get it, to stop the others in order.
                start_new_session=True,
                preexec_fn=_die_with(os.getpid()),
            )
        self._running.append((name, process))
        await self._until_healthy(name, process, health_url, within_s, healthy)

    async def _until_healthy(
        self,
        name: str,
        process: asyncio.subprocess.Process,
        url: str,
        within_s: float,
        healthy: Callable[[httpx2.Response], bool],
    ) -> None:
        deadline = time.monotonic() + within_s
        async with httpx2.AsyncClient(timeout=1.0, trust_env=False) as client:
            while time.monotonic() < deadline:
                if process.returncode is not None:
                    raise DidNotStart(f"{name} ended with status {process.returncode}:\n{self.tail(name)}")
                with contextlib.suppress(httpx2.HTTPError):
                    reply = await client.get(url)
                    if reply.status_code == 200 and healthy(reply):
                        return
                await asyncio.sleep(0.05)
        raise DidNotStart(f"{name} did not answer {url} within {within_s:.0f} s:\n{self.tail(name)}")

    def tail(self, name: str, lines: int = 15) -> str:
        """The last lines that a child wrote."""
        return "\n".join(self._log(name).read_text(errors="replace").splitlines()[-lines:])

    def _log(self, name: str) -> Path:
        return self._directory / f"{name}.log"


def _environment() -> dict[str, str]:
    # One thread a model: two cores are shared by everything here.
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    path = os.pathsep.join(filter(None, (str(PACKAGE_PARENT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, **threads, "PYTHONPATH": path}


def _die_with(parent: int) -> Callable[[], None] | None:
    """On Linux, a call for the child that has the kernel send it SIGTERM when the demo dies, even by
    SIGKILL.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def ask_kernel() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return ask_kernel


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), STOP_WITHIN_S)
    # Each child leads a group of its own, so nothing that it started survives it either.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
