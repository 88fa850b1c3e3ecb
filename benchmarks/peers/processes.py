"""Child processes and what they cost: start, pin, measure through /proc, and end for certain.

Linux only. A child never outlives this process: it gets SIGKILL when its parent dies (PR_SET_PDEATHSIG),
and `Child.stop` ends its descendants too, by their ids.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


class PeerError(Exception):
    """A contender or tool could not be installed, started or measured; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Of one process or several, bytes. PSS divides shared pages among those who map them."""

    rss: int
    pss: int


def parse_stat(text: str) -> tuple[int, float]:
    """Parent id; user + system seconds of all threads and waited-for children: /proc/<pid>/stat, proc(5)."""
    fields = text[text.rindex(")") + 2 :].split()  # the name may hold spaces and brackets
    utime, stime, child_user, child_system = (int(field) for field in fields[11:15])
    return int(fields[1]), (utime + stime + child_user + child_system) / TICKS_PER_S


def parse_rollup(text: str) -> Memory:
    """RSS and PSS from /proc/<pid>/smaps_rollup."""
    sizes: dict[str, int] = {}
    for line in text.splitlines()[1:]:
        name, value, *_ = line.split()
        sizes[name] = int(value) * 1024
    return Memory(sizes["Rss:"], sizes["Pss:"])


def cpu_seconds(pid: int) -> float:
    """CPU seconds that `pid` has used; 0 when it is gone."""
    try:
        return parse_stat(Path(f"/proc/{pid}/stat").read_text())[1]
    except (FileNotFoundError, ProcessLookupError):
        return 0.0


def memory(pid: int) -> Memory:
    """Memory of `pid`; nothing when it is gone."""
    try:
        return parse_rollup(Path(f"/proc/{pid}/smaps_rollup").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return Memory(0, 0)


def command_line(pid: int) -> str:
    """Arguments of `pid`, joined by spaces; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def tree(root: int) -> list[int]:
    """`root` and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                parent, _ = parse_stat(Path(f"/proc/{entry}/stat").read_text())
                children.setdefault(parent, []).append(int(entry))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def pin(pid: int, cpus: frozenset[int]) -> None:
    """Confine all threads of `pid`; those that it starts later inherit it from the one that starts them."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            os.sched_setaffinity(int(thread), cpus)


class Child:
    """A started process with its log file; `with` ends it."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        cpus: frozenset[int] | None = None,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdout: int | None = None,
    ) -> None:
        def confine() -> None:
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if cpus:
                os.sched_setaffinity(0, cpus)

        self.log = log
        self.name = name
        with log.open("ab") as sink:
            self.process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=sink if stdout is None else stdout,
                stderr=sink,
                cwd=cwd,
                env={**os.environ, **(env or {})},
                start_new_session=True,
                preexec_fn=confine,  # this process has one thread, so nothing can be held across the fork
            )
        self.pid = self.process.pid

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_listening(self, port: int, deadline_s: float = 30) -> None:
        """Return once `port` takes connections. Raises PeerError with the end of the log if it never does."""
        until = time.monotonic() + deadline_s
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise PeerError(f"{self.name} ended with {self.process.returncode}: {self.log_end()}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=0.5):
                return
            time.sleep(0.02)
        raise PeerError(f"{self.name} did not listen within {deadline_s:.0f} s: {self.log_end()}")

    def first_line(self) -> str:
        """First line of its standard output, which must be a pipe. Raises PeerError when there is none."""
        line = self.process.stdout.readline() if self.process.stdout is not None else b""
        if not line:
            raise PeerError(f"{self.name} said nothing: {self.log_end()}")
        return bytes(line).decode()

    def log_end(self) -> str:
        """The last words of the process, for a message."""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return " | ".join(lines[-3:])[-600:] or "(it said nothing)"

    def stop(self, grace_s: float = 20) -> None:
        """SIGTERM, and SIGKILL after `grace_s` to what is left of the tree."""
        pids = tree(self.pid) if self.process.poll() is None else []
        if pids:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(grace_s)
        for pid in pids:
            if pid == self.pid:
                if self.process.poll() is None:
                    self.process.kill()
            elif command_line(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.process.wait()
