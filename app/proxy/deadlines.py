"""Many deadlines for one timer. All entries of a queue have the same time-out, so they run out in the order in which they came."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class Deadline:
    """One running deadline. `cancel` lets go of what it would call, so that a long time-out holds no finished request."""

    __slots__ = ("at", "call")

    def __init__(self, at: float, call: Callable[[], None]) -> None:
        self.at = at
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self.call = None


class Deadlines:
    """The deadlines of one time-out. A timer is armed only for the oldest: adding and cancelling cost a few hundred nanoseconds."""

    __slots__ = ("_loop", "_queue", "_timer", "timeout_s")

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout_s: float) -> None:
        self._loop = loop
        self.timeout_s = timeout_s
        self._queue: deque[Deadline] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def start(self, now: float, call: Callable[[], None]) -> Deadline:
        """Call back `timeout_s` after `now` (the loop's clock) unless cancelled."""
        queue = self._queue
        while queue and queue[0].call is None:
            queue.popleft()
        deadline = Deadline(now + self.timeout_s, call)
        queue.append(deadline)
        if self._timer is None:
            self._timer = self._loop.call_at(deadline.at, self._fire)
        return deadline

    def _fire(self) -> None:
        self._timer = None
        now = self._loop.time() + 0.001
        queue = self._queue
        while queue and (queue[0].call is None or queue[0].at <= now):
            call = queue.popleft().call
            if call is not None:
                call()
        if queue:
            self._timer = self._loop.call_at(queue[0].at, self._fire)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._queue.clear()
