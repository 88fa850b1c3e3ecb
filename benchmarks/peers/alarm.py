"""A one-shot alarm with microsecond resolution, because libuv's own timers tick in milliseconds.

With millisecond timers a 20 ms model server would answer after 20 to 21 ms, and that jitter would drown the
added latency that the benchmark is after. Linux only; must never be used outside the benchmarks.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable

CLOCK_MONOTONIC = 1
TFD_NONBLOCK = 0o4000
TFD_TIMER_ABSTIME = 1

_libc = ctypes.CDLL(None, use_errno=True)


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Alarm:
    """Calls `ring` once at the moment given to `set`, on the clock of `time.monotonic`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._ring = ring
        self._spec = _TimerSpec()
        self._spec_ref = ctypes.byref(self._spec)
        self._fd = int(_libc.timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK))
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        loop.add_reader(self._fd, self._expired)

    def set(self, moment: float) -> None:
        """Ring at `moment` (`time.monotonic`), at once when it has passed; replaces an earlier setting."""
        whole = int(moment)
        self._spec.value.seconds = whole
        self._spec.value.nanoseconds = int((moment - whole) * 1e9)
        if _libc.timerfd_settime(self._fd, TFD_TIMER_ABSTIME, self._spec_ref, None) != 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def __enter__(self) -> Alarm:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _expired(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:  # set again between the expiry and this call
            return
        self._ring()
