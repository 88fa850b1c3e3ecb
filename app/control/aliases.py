"""Production and candidate as a model registry's aliases: `champion` follows production, a new `challenger` becomes a version.

State is compared with state, again and again, and never an event handed on: what the registry missed, and what happened while no
host led, is made good by the next look. Nothing waits for the registry; while it is away no challenger comes, and traffic, flags
and rollouts go on as they were. Only the host that leads speaks to it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Protocol

import structlog

from app.control.clock import Clock
from app.control.flags import FlagsService
from app.control.ports import AuditEntry
from app.control.registry import Registry
from app.domain import registered, upstream_url
from app.domain.model import Model, Version
from app.domain.registered import CHALLENGER, CHAMPION, NUMBER, RegisteredVersion, number_of
from app.errors import GatewayError, NotFoundError, UnavailableError
from app.link.messages import Series

log = structlog.get_logger(__name__)

FIRST_RETRY_S = 1.0  # doubled after each round that failed, up to the usual pause between rounds
LEADING_S = 1.0  # between looks whether this host leads by now
AWAY = 3  # models of a round that got no answer: the others wait for the next round
_ACTOR = "mlflow"


class ModelRegistry(Protocol):
    """What is asked of a registry. `UnavailableError` without an answer within its deadline; repeating a change changes nothing."""

    async def aliased(self, name: str, alias: str) -> RegisteredVersion | None: ...
    async def point(self, name: str, alias: str, number: str) -> None:
        """`NotFoundError` when the registry has no such version."""

    async def remove(self, name: str, alias: str) -> None: ...


class Aliases:
    """`run` as a task. Models without `registry.name` have no part in it, versions without a number in the registry neither."""

    def __init__(
        self,
        poll_s: float,
        source: ModelRegistry,
        registry: Registry,
        flags: FlagsService,
        clock: Clock,
        leads: Callable[[], bool],
    ) -> None:
        self._poll_s = poll_s
        self._source = source
        self._registry = registry
        self._flags = flags
        self._clock = clock
        self._leads = leads
        self._wake = asyncio.Event()
        self._settled: dict[str, str] = {}  # by model: the production that the registry agreed with
        self._told: dict[tuple[str, str], str] = {}  # by model and alias: what was wrong, said once
        self.counts: Counter[str] = Counter()  # moved, removed, refused, failed
        flags.subscribe(self._heed)

    def _heed(self, model: str) -> None:
        """The model's flags changed: a new production is not kept waiting for the next round."""
        if self._flags.current(model).production != self._settled.get(model):
            self._wake.set()

    async def run(self) -> None:
        """The owner runs this as a task."""
        failed = 0
        while True:
            self._wake.clear()
            failed = 0 if await self.look() else failed + 1
            if failed:
                await asyncio.sleep(min(FIRST_RETRY_S * 2.0 ** min(failed - 1, 16), self._poll_s))
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_s if self._leads() else LEADING_S):
                    await self._wake.wait()

    async def look(self) -> bool:
        """Compare each model's aliases with what is served. False when the registry left a question unanswered. Never raises for
        what the registry does.
        """
        unanswered = 0
        for model in self._registry.models() if self._leads() else ():
            name = model.registry.name
            if name is None or unanswered == AWAY:
                continue
            production = self._flags.current(model.name).production
            try:
                await self._champion(model, name, production)
                self._settled[model.name] = production
                await self._challenger(model, name, number_of(model.version(production)))
            except UnavailableError as error:
                unanswered += 1
                self.counts["failed"] += 1
                log.info("the model registry does not answer", model=model.name, error=str(error))
            except GatewayError as error:
                self._tell(model.name, CHALLENGER, str(error))
        return unanswered == 0

    # ---- champion

    async def _champion(self, model: Model, name: str, production: str) -> None:
        number = number_of(model.version(production))
        if number is None:
            self._tell(
                model.name, CHAMPION, f"production {production!r} has no number in its metadata ({NUMBER})"
            )
            return
        champion = await self._source.aliased(name, CHAMPION)
        if (champion is not None and champion.number == number) or not self._leads():
            return
        try:
            await self._source.point(name, CHAMPION, number)
        except NotFoundError as error:
            self.counts["refused"] += 1
            self._tell(model.name, CHAMPION, str(error))
        else:
            self.counts["moved"] += 1
            log.info("champion moved", model=model.name, version=production, number=number)

    # ---- challenger

    async def _challenger(self, model: Model, name: str, champion: str | None) -> None:
        found = await self._source.aliased(name, CHALLENGER)
        if found is None:
            return
        if found.number == champion:  # it has been promoted
            if self._leads():
                await self._source.remove(name, CHALLENGER)
                self.counts["removed"] += 1
        elif all(number_of(version) != found.number for version in model.versions):
            await self._take(model, name, found)

    async def _take(self, model: Model, name: str, found: RegisteredVersion) -> None:
        about = f"version {found.number} of {name!r}"
        if found.url is None:
            self._tell(model.name, CHALLENGER, f"{about} says no address: give it the tag gateway.url")
            return
        faults = list(upstream_url.faults(found.url))
        if faults:
            self._tell(model.name, CHALLENGER, f"{about}: {'; '.join(faults)}")
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

    def _tell(self, model: str, alias: str, what: str) -> None:
        if self._told.get((model, alias)) != what:
            self._told[model, alias] = what
            log.warning("an alias of the model registry is left alone", model=model, alias=alias, reason=what)

    def series(self) -> Iterator[Series]:
        for result, count in self.counts.items():
            yield Series("gateway_registry_changes_total", (result,), count)
