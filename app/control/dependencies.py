"""Which dependencies answer, asked every two seconds; the workers are told, for `/readyz`. Nothing waits
for this.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping

import structlog

from app.control.link_server import LinkServer
from app.errors import GatewayError
from app.link.messages import Series

log = structlog.get_logger(__name__)

EVERY_S = 2.0
DEADLINE_S = 2.0

Check = Callable[[], Awaitable[None]]


class Dependencies:
    """`checks` by the dependency's name; a check returns, raises or is given up after the deadline."""

    def __init__(self, checks: Mapping[str, Check], link: LinkServer) -> None:
        self._checks = dict(checks)
        self._link = link
        self.down: list[str] = []

    async def run(self) -> None:
        """The owner runs this as a task."""
        while True:
            await self.look()
            await asyncio.sleep(EVERY_S)

    async def look(self) -> list[str]:
        """Ask all of them once; those that do not answer."""
        answers = await asyncio.gather(*(self._answers(check) for check in self._checks.values()))
        down = [name for name, up in zip(self._checks, answers, strict=True) if not up]
        for name in sorted(set(down) ^ set(self.down)):
            log.warning("a dependency changed", dependency=name, up=name not in down)
        self.down = down
        self._link.set_down(down)
        return down

    async def _answers(self, check: Check) -> bool:
        try:
            async with asyncio.timeout(DEADLINE_S):
                await check()
        except (GatewayError, TimeoutError, OSError):
            return False
        return True

    def series(self) -> Iterator[Series]:
        for name in self._checks:
            yield Series("gateway_dependency_up", (name,), float(name not in self.down))
