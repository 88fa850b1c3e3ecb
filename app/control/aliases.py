"""Production and candidate as a model registry's aliases: `champion` follows production, a new `challenger` becomes a version.

Nothing waits for the registry. A move is kept on disk until it is carried out; while the registry is away no challenger comes,
and traffic, flags and rollouts go on as they were. Only the host that leads speaks to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Protocol

import structlog

from app.control.clock import Clock
from app.control.flags import FlagsService
from app.control.outbox import Outbox
from app.control.ports import AuditEntry
from app.control.registry import Registry
from app.domain import registered, upstream_url
from app.domain.model import Model, Version
from app.domain.registered import NUMBER, RegisteredVersion
from app.errors import GatewayError, UnavailableError
from app.link.messages import Series

log = structlog.get_logger(__name__)

_ACTOR = "mlflow"


class ModelRegistry(Protocol):
    """What is asked of a registry."""

    async def challenger(self, name: str) -> RegisteredVersion | None: ...


class Aliases:
    """`run` as a task. Models without `registry.name` have no part in it."""

    def __init__(
        self,
        uri: str,
        poll_s: float,
        source: ModelRegistry,
        outbox: Outbox,
        registry: Registry,
        flags: FlagsService,
        clock: Clock,
        leads: Callable[[], bool],
    ) -> None:
        self._uri = uri
        self._poll_s = poll_s
        self._source = source
        self._outbox = outbox
        self._registry = registry
        self._flags = flags
        self._clock = clock
        self._leads = leads
        self._changed: asyncio.Queue[str] = asyncio.Queue()
        self._production = {model: flags.current(model).production for model in registry.names()}
        self._told: dict[str, str] = {}  # by model: what was wrong with its challenger, said once
        flags.subscribe(self._changed.put_nowait)

    async def run(self) -> None:
        """The owner runs this as a task."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(), name="champions")
            tasks.create_task(self._look_forever(), name="challengers")

    # ---- champion

    async def _follow(self) -> None:
        while True:
            await self.moved(await self._changed.get())

    async def moved(self, model: str) -> None:
        """The model's flags changed: should production have changed with them, `champion` follows."""
        production = self._flags.current(model).production
        if self._production.get(model) == production:
            return
        self._production[model] = production
        known = self._registry.get(model)
        version = known.version(production) if known is not None else None
        if known is None or version is None or known.registry.name is None or not self._leads():
            return
        number = dict(version.metadata).get(NUMBER)
        if number is None:
            log.warning(
                "production has no number in the registry", model=model, version=production, needed=NUMBER
            )
            return
        data = {"name": known.registry.name, "number": number, "version": production}
        await self._outbox.put(self._uri, "registry.champion", model, data)

    # ---- challenger

    async def _look_forever(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(self._poll_s)

    async def look(self) -> None:
        """Ask for each model's challenger, and make a version of a new one. Never raises for what the registry does."""
        for model in self._registry.models() if self._leads() else ():
            name = model.registry.name
            if name is None:
                continue
            try:
                found = await self._source.challenger(name)
                if found is not None and not _is_known(model, found):
                    await self._take(model, name, found)
            except UnavailableError as error:
                log.info("the model registry does not answer", model=model.name, error=str(error))
            except GatewayError as error:
                self._tell(model.name, str(error))

    async def _take(self, model: Model, name: str, found: RegisteredVersion) -> None:
        if found.url is None:
            self._tell(
                model.name, f"version {found.number} of {name!r} says no address: give it the tag gateway.url"
            )
            return
        faults = list(upstream_url.faults(found.url))
        if faults:
            self._tell(model.name, f"version {found.number} of {name!r}: {'; '.join(faults)}")
            return
        metadata = (("mlflow_source", found.source), (NUMBER, found.number))
        version = Version(f"mlflow-{found.number}", (found.url,), metadata=metadata)
        reason = f"challenger of {name!r} in the model registry"
        view = {"version": version.name, "urls": [found.url], "uri": registered.uri(name, found.number)}
        audit = AuditEntry(
            self._clock.now(), _ACTOR, "registry", "version.register", model.name, reason, None, view
        )
        current = self._flags.current
        await self._registry.register(model.name, version, lambda: current(model.name), audit)
        log.info("a challenger came from the model registry", model=model.name, version=version.name)
        if model.registry.shadow:
            shadows = (*current(model.name).shadow_versions, version.name)
            await self._flags.change(
                model.name,
                {"shadow_versions": shadows, "shadow_enabled": True},
                actor=_ACTOR,
                origin="registry",
                reason=reason,
            )

    def _tell(self, model: str, what: str) -> None:
        if self._told.get(model) != what:
            self._told[model] = what
            log.warning("the challenger cannot be taken", model=model, reason=what)

    def series(self) -> Iterator[Series]:
        for result, count in self._outbox.counts.items():
            yield Series("gateway_registry_changes_total", (result,), count)


def _is_known(model: Model, found: RegisteredVersion) -> bool:
    return any(dict(version.metadata).get(NUMBER) == found.number for version in model.versions)
