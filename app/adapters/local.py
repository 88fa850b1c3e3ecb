"""Flags and the lease of a gateway that is alone on its host: nothing travels, nobody competes. No I/O."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from app.domain.flags import Flags

# changes a slow listener may be behind; the oldest is dropped, since a newer one of its model follows or it
# is re-read
_BACKLOG = 1024


class LocalDistribution:
    """Hands published flags to the listeners of this process."""

    def __init__(self) -> None:
        self._listeners: set[asyncio.Queue[Flags | None]] = set()
        self._closed = False

    async def publish(self, flags: Flags) -> None:
        self._send(flags)

    async def correct(self, wrong: Flags, right: Flags) -> None:
        """Nothing is held here that could be wrong."""

    def _send(self, item: Flags | None) -> None:
        for queue in self._listeners:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(item)

    async def changes(self) -> AsyncIterator[Flags]:
        """What is published from the first step of the iteration on; ends with `close`."""
        queue: asyncio.Queue[Flags | None] = asyncio.Queue(_BACKLOG)
        if self._closed:
            return
        self._listeners.add(queue)
        try:
            while (flags := await queue.get()) is not None:
                yield flags
        finally:
            self._listeners.discard(queue)

    async def close(self) -> None:
        self._closed = True
        self._send(None)


class LocalLease:
    """Always held: there is no other process to hold it."""

    async def acquire(self) -> bool:
        return True

    async def release(self) -> None:
        return None
