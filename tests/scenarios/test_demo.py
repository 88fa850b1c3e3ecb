"""The demo as a newcomer runs it: the whole story told by real processes, and nothing left behind however it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.ports import free_port
from tests.worker import eventually

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def running_demo(output: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "app", "demo", "--port", str(free_port()), *arguments]
    with (
        # A killed demo cannot tidy up; pytest's own directories are too long for the gateway's Unix sockets.
        TemporaryDirectory(prefix="demo") as directory,
        output.open("wb") as file,
        subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            preexec_fn=lambda: signal.signal(
                signal.SIGINT, signal.SIG_DFL
            ),  # ignored where the tests run in the background
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": directory},
        ) as process,
    ):
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                process.kill()


def descendants(pid: int) -> set[tuple[int, str]]:
    """Every process below this one, as (pid, start time): a number that is used again is another process."""
    found: set[tuple[int, str]] = set()
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found |= {(child, started(child))} | descendants(child)
    return found


def started(pid: int) -> str:
    """The start time in /proc, empty for a process that is gone or a zombie."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] == "Z" else fields[19]
    return ""


def none_alive(family: set[tuple[int, str]]) -> bool:
    return not any(start and started(pid) == start for pid, start in family)


@pytest.mark.stories
def test_the_demo_tells_the_whole_story_with_no_failed_answer(tmp_path: Path) -> None:
    output = tmp_path / "output"
    with running_demo(output, "--once", "--speed", "4") as process:
        status = process.wait(timeout=280)
    text = output.read_text()
    assert status == 0, text
    for line in (
        r"v2 at 5 %",
        r"v2 at 100 %",
        r"v2 promoted by the controller after [\d.]+ s",
        r"rolled back [\d.]+ s after it broke: .*",
        r"retrain, urgency (elevated|critical): .*dropped",
        r"training set: [\d,]+ labelled predictions",
        r"v4 promoted by the controller after [\d.]+ s",
        r"failed answers to clients +│ +0 ",
        r"automatic rollbacks +│ +1 ",
    ):
        assert re.search(line, " ".join(text.split())), f"no {line!r} in:\n{text}"


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)],
    ids=["interrupted", "killed"],
)
def test_no_process_survives_the_demo_however_it_ends(tmp_path: Path, number: int, status: int) -> None:
    output = tmp_path / "output"
    with running_demo(output) as process:
        eventually(
            lambda: "1. Shadow" in output.read_text() or process.poll() is not None, 60, "the first chapter"
        )
        assert process.poll() is None, output.read_text()
        family = descendants(process.pid)
        assert len(family) >= 5, "three model servers, the gateway's supervisor, worker and control process"
        os.kill(process.pid, number)
        assert process.wait(timeout=60) == status, output.read_text()
        eventually(lambda: none_alive(family), 20, "every child to be gone")
