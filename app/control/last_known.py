"""The control state as it was last known, in one small file: what a start falls back on while the store is
down.

It is never the truth: as soon as the store answers, the store is. Writes of an emergency that the store has
not seen yet are kept here too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import structlog

from app.control.ports import AuditEntry
from app.domain.flags import Flags
from app.domain.model import Version

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PendingChange:
    """A change towards safety that took effect here and still has to reach the store."""

    before: Flags
    after: Flags
    audit: AuditEntry


@dataclass(frozen=True, slots=True)
class Known:
    """Everything in the file. `versions` are those registered through the API, by model."""

    flags: tuple[Flags, ...] = ()
    versions: tuple[tuple[str, Version], ...] = ()
    pending: tuple[PendingChange, ...] = ()


@dataclass(slots=True)
class LastKnown:
    """Reads and replaces the file. A damaged or missing file reads as nothing known; a full disk is logged
    and survived.
    """

    path: Path
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def load(self) -> Known:
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=Known)
        except FileNotFoundError:
            return Known()
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            log.warning("the file of last known flags cannot be used", path=str(self.path), error=str(error))
            return Known()

    async def save(self, known: Known) -> None:
        """Replace the file whole: it holds the old state or the new one, never a part."""
        data = msgspec.json.encode(known)
        async with self._lock:
            try:
                await asyncio.to_thread(_replace, self.path, data)
            except OSError as error:
                log.warning("the last known flags cannot be saved", path=str(self.path), error=str(error))


def _replace(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(file, view) :]
            os.fsync(file)
        finally:
            os.close(file)
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
