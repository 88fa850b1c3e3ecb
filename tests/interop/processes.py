"""Other people's servers as child processes on free ports of the loopback interface, and their clients as programs that print JSON."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx2

from tests.interop.environment import python
from tests.worker import eventually

PROGRAMS = Path(__file__).parent / "programs"
# Nobody phones home, and MLflow starts no seven processes for jobs that nobody has.
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "DO_NOT_TRACK": "1",
    "PYTHONWARNINGS": "ignore",
}
START_S = 300.0  # they import half of the scientific stack, on a machine that may be busy; one that ends is noticed at once


@contextlib.contextmanager
def serving(
    command: Sequence[object], url: str, directory: Path, *, environment: str = "servers", **more: str
) -> Iterator[None]:
    """Run a command of an environment until `url` answers 200; end it, and all that it started, with the block."""
    bin_directory = python(environment).parent
    with (directory / "server.log").open("ab") as log:
        process = subprocess.Popen(
            [str(bin_directory / str(command[0])), *map(str, command[1:])],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=_environment(bin_directory, more),
        )
    try:
        eventually(lambda: _answers(process, url, directory), START_S, f"an answer from {url}")
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def done(*command: object, **more: Any) -> str:
    """What a command printed, once it has ended well; else a failure with it."""
    ended = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=540, check=False, **more
    )
    printed = ended.stdout + ended.stderr
    assert ended.returncode == 0, printed[-10_000:]
    return printed


def _answers(process: subprocess.Popen[bytes], url: str, directory: Path) -> bool:
    if process.poll() is not None:
        raise AssertionError(
            f"it ended with {process.returncode}:\n{(directory / 'server.log').read_text()[-4000:]}"
        )
    try:
        return httpx2.get(url, trust_env=False, timeout=5.0).status_code == 200
    except (httpx2.HTTPError, OSError):
        return False


def _environment(bin_directory: Path, more: Mapping[str, str]) -> dict[str, str]:
    """This process's, with the environment's programs first."""
    return {**os.environ, **QUIET, **more, "PATH": f"{bin_directory}:{os.environ['PATH']}"}


def said_by(
    program: str, *arguments: object, environment: str = "servers", timeout_s: float = 200.0, **more: str
) -> Any:
    """Run a program of `programs/` with an environment's interpreter; the JSON in the last line that it prints."""
    interpreter = python(environment)
    done = subprocess.run(
        [str(interpreter), str(PROGRAMS / program), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
        env=_environment(interpreter.parent, more),
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    lines = done.stdout.strip().splitlines()
    return json.loads(lines[-1]) if lines else None
