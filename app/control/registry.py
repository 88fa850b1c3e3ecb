"""Which models exist and in which versions: the file's, and those registered through the API. Never decides
what is served (flags do).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from app.control.audits import log_change
from app.control.ports import AuditEntry, Store
from app.domain.flags import Flags
from app.domain.model import Model, Version
from app.errors import ConflictError, InvalidError, NotFoundError

MAX_VERSIONS = 200  # of one model: each is a series in /metrics and a pool in each worker


class Registry:
    """The current models, each a frozen value that is replaced whole. `lock` orders all durable changes of
    models and flags.
    """

    def __init__(self, models: Sequence[Model], store: Store) -> None:
        self._file = {model.name: model for model in models}
        self._current = dict(self._file)
        self._store = store
        self._listeners: list[Callable[[str], None]] = []
        self.lock = asyncio.Lock()

    def models(self) -> list[Model]:
        return list(self._current.values())

    def by_name(self) -> Mapping[str, Model]:
        """All models, by name; it changes as they do. Asked for each record: it copies nothing."""
        return self._current

    def names(self) -> list[str]:
        return list(self._current)

    def model(self, name: str) -> Model:
        """`NotFoundError` when there is none of that name."""
        found = self._current.get(name)
        if found is None:
            raise NotFoundError(f"there is no model {name[:100]!r}; GET /admin/models lists them")
        return found

    def get(self, name: str) -> Model | None:
        return self._current.get(name)

    def from_file(self, model: str, version: str) -> bool:
        """True for a version that the configuration file defines."""
        return self._file[model].version(version) is not None

    def registered(self) -> list[tuple[str, Version]]:
        """What was registered through the API, by model."""
        return [
            (name, version)
            for name, model in self._current.items()
            for version in model.versions
            if not self.from_file(name, version.name)
        ]

    def subscribe(self, listener: Callable[[str], None]) -> None:
        """Be told the name of each model that changed."""
        self._listeners.append(listener)

    async def load(self) -> None:
        """Read what is registered from the store. `UnavailableError` leaves everything as it was."""
        async with self.lock:
            await self.load_locked()

    async def load_locked(self) -> None:
        """As `load`, for a caller that holds the lock already."""
        self.adopt(await self._store.versions())

    def adopt(self, registered: Sequence[tuple[str, Version]]) -> None:
        """Make these the registered versions. The file wins over a version of the same name; an unknown model
        is left out.
        """
        for name, model in self._file.items():
            extra = sorted(
                (v for m, v in registered if m == name and model.version(v.name) is None),
                key=lambda v: v.name,
            )
            self._put(replace(model, versions=(*model.versions, *extra)))

    def _put(self, model: Model) -> None:
        if self._current.get(model.name) != model:
            self._current[model.name] = model
            for listener in self._listeners:
                listener(model.name)

    async def register(
        self, model: str, version: Version, flags: Callable[[], Flags], audit: AuditEntry
    ) -> bool:
        """Add or replace a version; True when it is new. `ConflictError` when the file defines it, or traffic
        would change under it.
        """
        async with self.lock:
            current = self.model(model)
            known = current.version(version.name)
            if known == version:
                return False
            if self.from_file(model, version.name):
                raise ConflictError(f"{version.name!r} is defined in the configuration file; change it there")
            if known is not None:
                _refuse_in_use(flags(), version.name, "register the new address under another name")
            elif len(current.versions) >= MAX_VERSIONS:
                raise ConflictError(f"{model!r} has {MAX_VERSIONS} versions; retire one first")
            await self._store.put_version(model, version, audit)
            others = tuple(v for v in current.versions if v.name != version.name)
            self._put(replace(current, versions=(*others, version)))
            log_change(audit, version=version.name)
            return known is None

    async def retire(self, model: str, version: str, flags: Callable[[], Flags], audit: AuditEntry) -> None:
        """Remove a registered version. `ConflictError` when it is in use or the file defines it."""
        async with self.lock:
            current = self.model(model)
            if current.version(version) is None:
                raise NotFoundError(f"{version[:100]!r} is no version of {model!r}")
            if self.from_file(model, version):
                raise ConflictError(f"{version!r} is defined in the configuration file; remove it there")
            _refuse_in_use(flags(), version, "take it out of the flags first")
            await self._store.delete_version(model, version, audit)
            self._put(replace(current, versions=tuple(v for v in current.versions if v.name != version)))
            log_change(audit, version=version)


def _refuse_in_use(flags: Flags, version: str, remedy: str) -> None:
    uses = [
        use
        for use, names in (
            ("production", (flags.production,)),
            ("candidate", (flags.candidate,)),
            ("a shadow", flags.shadow_versions),
        )
        if version in names
    ]
    if uses:
        raise ConflictError(f"{version!r} is {' and '.join(uses)} of {flags.model!r}; {remedy}")


def checked_version_name(name: str) -> str:
    """The name when it may be a label, a path segment and a header value; `InvalidError` otherwise."""
    if not (
        0 < len(name) <= 64 and name.isascii() and all(c.isalnum() or c in "._-" for c in name)
    ) or name in (".", ".."):
        raise InvalidError("a version's name has 1 to 64 letters, digits, '.', '_' or '-'")
    return name
