"""What the operating system says about a process under test, memory and open files, and what lives in a worker."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path

LIVING = Path(__file__).parent / "living"
# Of a worker; one of each for a connection, a request or a call that is under way.
KINDS = ("ServerProtocol", "Request", "Exchange", "Attempt", "Connection", "Task")


@dataclass(frozen=True, slots=True)
class Footprint:
    resident_mib: float
    descriptors: int


def _status(pid: int, name: str) -> float:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


def footprint(pid: int) -> Footprint:
    """Now."""
    return Footprint(_status(pid, "VmRSS"), len(os.listdir(f"/proc/{pid}/fd")))


def forget_peak(pid: int) -> None:
    """From here on `peak_mib` begins anew (proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_mib(pid: int) -> float:
    """The most resident memory since `forget_peak`."""
    return _status(pid, "VmHWM")


def quantile(values: list[float], share: float) -> float:
    """The nearest-rank quantile, for figures in a report."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Living:
    """The live objects of a worker that was started behind `command`, by type."""

    def __init__(self, directory: Path, tree: Path) -> None:
        self._file = directory / "living.json"
        # `-P` keeps the working directory out of the path: the package comes from here as well.
        path = os.pathsep.join((str(LIVING), str(tree)))
        self.command = ("env", f"PYTHONPATH={path}", f"LIVING={self._file}")

    def count(self, pid: int) -> dict[str, int]:
        """Now, after a collection; `all` is their number."""
        self._file.unlink(missing_ok=True)
        os.kill(pid, signal.SIGUSR1)
        deadline = time.monotonic() + 10
        while not self._file.exists():
            assert time.monotonic() < deadline, "the worker did not count its objects"
            time.sleep(0.01)
        found: dict[str, int] = json.loads(self._file.read_text())
        return found
