"""Answers kept for a moment, so that many readers of a costly report cost one. Never serves what is older
than it says.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from app.control.clock import Clock

T = TypeVar("T")
MAX_KEYS = 256
SHARE = 0.1  # of the time that making a report over and over may take
LONGEST_S = 60.0


@dataclass(slots=True)
class _Made(Generic[T]):
    task: asyncio.Task[T]
    ends: list[float]  # holds when it is too old, once it is made

    @property
    def until(self) -> float:
        return self.ends[0] if self.ends else float("inf")


class Briefly(Generic[T]):
    """`get` makes a value, or gives the one made before, for `age_s`, and longer for one that took long to
    make.

    Callers at the same time share one making.
    """

    def __init__(self, clock: Clock, age_s: float) -> None:
        self._clock = clock
        self._age_s = age_s
        self._made: OrderedDict[Hashable, _Made[T]] = OrderedDict()

    async def get(self, key: Hashable, make: Callable[[], Awaitable[T]], fresh: bool = False) -> T:
        """What `make` raises is raised to all that waited for it, and not kept. `fresh`: made now, whatever
        there is; and kept for others.
        """
        found = self._made.get(key)
        if fresh or found is None or (found.task.done() and self._clock.monotonic() >= found.until):
            ends: list[float] = []
            found = _Made(asyncio.ensure_future(self._make(make, ends)), ends)
            self._made[key] = found
            self._made.move_to_end(key)
            if len(self._made) > MAX_KEYS:
                self._made.popitem(last=False)
        return await asyncio.shield(found.task)

    async def _make(self, make: Callable[[], Awaitable[T]], ends: list[float]) -> T:
        started = self._clock.monotonic()
        keep = 0.0
        try:
            made = await make()
            keep = min(max(self._age_s, (self._clock.monotonic() - started) / SHARE), LONGEST_S)
            return made
        finally:
            ends.append(self._clock.monotonic() + keep)
