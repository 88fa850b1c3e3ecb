"""Time for the control process: one place that reads it, so that tests can turn it. Never used inside
`app.domain`.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    def now(self) -> datetime:
        """Wall clock, UTC: for what is written down."""

    def monotonic(self) -> float:
        """Seconds that never jump: for deadlines and dwell times."""


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()
