"""Audit entries of what took effect already: they reach the store when it is back, and keep nobody waiting. And the line in the log that
each change leaves, for whoever follows that.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import structlog

from app.control.ports import AuditEntry, Store
from app.errors import UnavailableError

log = structlog.get_logger(__name__)

WAITING_LIMIT = 256  # entries; beyond it the oldest is only in the log


def log_change(entry: AuditEntry, **facts: Any) -> None:
    """Say that it took effect: who, whence, what, why. `facts` are never taken from `before` and `after`, which may hold addresses."""
    log.info(
        "changed",
        action=entry.action,
        model=entry.model,
        actor=entry.actor,
        origin=entry.origin,
        reason=entry.reason,
        **facts,
    )


class Audits:
    """In the order they were made, one caller at a time. What waits is in memory alone: a process that is killed meanwhile leaves it in
    the log.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: deque[AuditEntry] = deque(maxlen=WAITING_LIMIT)

    async def add(self, entry: AuditEntry) -> None:
        """Stored now, or as soon as the store is back."""
        log_change(entry, **{name: value for name, value in (entry.after or {}).items() if name == "rollout"})
        self._waiting.append(entry)
        try:
            await self.catch_up()
        except UnavailableError as error:
            log.warning(
                "an audit entry waits for the store",
                model=entry.model,
                action=entry.action,
                actor=entry.actor,
                reason=entry.reason,
                error=str(error),
            )

    async def catch_up(self) -> None:
        """`UnavailableError` leaves what is left for the next time."""
        while self._waiting:
            await self._store.append_audit(self._waiting[0])
            self._waiting.popleft()
