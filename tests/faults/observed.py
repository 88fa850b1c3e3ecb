"""What the operating system says about a process under test: memory and open files. Reads /proc only."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path


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
