"""Which events go out, and where to: each model's webhook hears of its rollbacks, promotions, calls to retrain, and of
drift that begins or ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import structlog

from app.control.outbox import Outbox
from app.control.registry import Registry

log = structlog.get_logger(__name__)

MAX_FEATURES = 100  # named in one event


class News:
    """Without an outbox, or without a webhook of the model, nothing is kept.

    `drifted` is a file that says of which versions drift was the last thing seen: a verdict that stays is no news, not
    after a restart either.
    """

    def __init__(self, registry: Registry, outbox: Outbox | None = None, drifted: Path | None = None) -> None:
        self._registry = registry
        self._outbox = outbox
        self._file = drifted
        self._drifted: set[tuple[str, str]] = _read(drifted) if drifted is not None else set()

    async def tell(self, model: str, kind: str, data: Mapping[str, Any]) -> None:
        """Keep an event for the model's webhook; returns as soon as it is on disk."""
        url = self._webhook(model)
        if self._outbox is not None and url is not None:
            await self._outbox.put(url, kind, model, data)

    def _webhook(self, model: str) -> str | None:
        known = self._registry.get(model)
        return None if known is None else known.retraining.webhook

    async def drift(self, report: Mapping[str, Any], *, leads: bool) -> None:
        """Tell when the verdict on a version is another than before. Each host follows it, so that whoever leads next
        repeats nothing; only the one that `leads` tells. A report without a verdict changes nothing.
        """
        detected = report["detected"]
        one = (str(report["model"]), str(report["version"]))
        if detected is None or detected is (one in self._drifted) or self._webhook(one[0]) is None:
            return
        if leads:
            await self.tell(one[0], "drift", _drift(report))
        self._drifted = {other for other in self._drifted if self._is_known(*other)} - {one}
        if detected:
            self._drifted.add(one)
        await self._save()

    def _is_known(self, model: str, version: str) -> bool:
        known = self._registry.get(model)
        return known is not None and known.version(version) is not None

    async def _save(self) -> None:
        """After the event is kept: a kill in between repeats it, and none is lost."""
        if self._file is not None:
            try:
                await asyncio.to_thread(_write, self._file, self._drifted)
            except OSError as error:
                log.warning("which versions drift could not be kept", error=str(error))


def _drift(report: Mapping[str, Any]) -> dict[str, Any]:
    names = ("version", "detected", "severity", "rows", "since", "until", "baseline")
    return {**{name: report[name] for name in names}, "drifted": list(report["drifted"])[:MAX_FEATURES]}


def _read(path: Path) -> set[tuple[str, str]]:
    try:
        return set(msgspec.json.decode(path.read_bytes(), type=list[tuple[str, str]]))
    except FileNotFoundError:
        return set()
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        log.warning("which versions drift cannot be read; what drifts is told again", error=str(error))
        return set()


def _write(path: Path, drifted: set[tuple[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_suffix(".new")
    temporary.write_bytes(msgspec.json.encode(sorted(drifted)))
    temporary.replace(path)
