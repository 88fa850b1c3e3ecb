"""Protocol `opaque`: latency and status only. Never looks into a body."""

from __future__ import annotations

from collections.abc import Mapping

from app.protocols.record import BARE_ROW, Exchange, Extraction, Reader
from app.protocols.scoring import Task


def build(task: Task, extract: Mapping[str, str | None]) -> Reader:
    """A reader that gives one bare row for each exchange."""
    return _read


def _read(exchange: Exchange) -> Extraction:
    return Extraction((BARE_ROW,))
