"""Loaded by the interpreter of each process of a gateway whose wall clock a test turns: it is off by the seconds in a file.

The monotonic clock stays as it is, as after `date -s` or a step of NTP.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

_offset = Path(os.environ["TURNED_CLOCK"])
_time, _time_ns = time.time, time.time_ns


def _seconds() -> int:
    try:
        return int(_offset.read_text() or 0)
    except OSError:
        return 0


time.time = lambda: _time() + _seconds()
time.time_ns = lambda: _time_ns() + _seconds() * 1_000_000_000
