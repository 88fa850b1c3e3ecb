"""Answers kept for a moment, so that many readers of a costly report cost one. Never serves what is older
than it says.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from app.control.clock import Clock

T = TypeVar("T")
MAX_KEYS = 256


class Briefly(Generic[T]):
    """`get` makes a value, or gives the one made less than `age_s` ago; callers at the same time share one
    making.
    """

    def __init__(self, clock: Clock, age_s: float) -> None:
        self._clock = clock
        self._age_s = age_s
        self._made: OrderedDict[Hashable, tuple[float, asyncio.Task[T]]] = OrderedDict()

    async def get(self, key: Hashable, make: Callable[[], Awaitable[T]]) -> T:
        """What `make` raises is raised to all that waited for it, and not kept."""
        now = self._clock.monotonic()
        found = self._made.get(key)
        if found is None or (found[1].done() and (now - found[0] >= self._age_s or _failed(found[1]))):
            found = (now, asyncio.ensure_future(_made(make)))
            self._made[key] = found
            self._made.move_to_end(key)
            if len(self._made) > MAX_KEYS:
                self._made.popitem(last=False)
        return await asyncio.shield(found[1])


async def _made(make: Callable[[], Awaitable[T]]) -> T:
    return await make()


def _failed(task: asyncio.Task[T]) -> bool:
    return task.cancelled() or task.exception() is not None
