"""The flags service: the only way to change flags, whoever asks. Compare-and-set in the store, then out to
the workers and other hosts.

The truth lies in the store. One kind of change does not wait for it: a change *towards safety* (less canary,
no shadow, a version disabled), because a rollback must work while the store is down. Such a change takes
effect here and on the way to the other hosts at once, is kept in the file of last known flags, and is
replayed onto whatever the store holds when it answers again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from typing import Any

import structlog

from app.control.audits import log_change
from app.control.clock import Clock
from app.control.last_known import Known, LastKnown, PendingChange
from app.control.ports import AuditEntry, FlagsDistribution, Store
from app.control.registry import Registry
from app.control.safety import replayed, servable, towards_safety
from app.domain.flags import Flags, faults, initial
from app.errors import GatewayError, InvalidError, StaleRevisionError, UnavailableError

log = structlog.get_logger(__name__)

# changes that wait for the store; beyond it the newest takes over the place of the last of its model
PENDING_LIMIT = 256
RECONCILE_S = 5.0
_ATTEMPTS = 5  # compare-and-set on a fresh read, when the caller named no revision
_SETTLE_S = 1.0  # how long an answer waits for an emergency change to become durable
_CHANGEABLE = frozenset(field.name for field in fields(Flags)) - {"model", "revision"}


def as_json(flags: Flags) -> dict[str, Any]:
    """For the audit log and the API."""
    return asdict(flags)


def _changed(before: Flags, after: Flags) -> dict[str, Any]:
    """What differs, as it is now, for the log."""
    old = as_json(before)
    return {
        name: value
        for name, value in as_json(after).items()
        if name == "revision" or (value != old[name] and name != "salt")
    }


class FlagsService:
    """Holds each model's current flags. Methods belong to the control process's event loop."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        distribution: FlagsDistribution,
        clock: Clock,
        last_known: LastKnown,
    ) -> None:
        self._store = store
        self._registry = registry
        self._distribution = distribution
        self._clock = clock
        self._last_known = last_known
        self._current = {model.name: initial(model) for model in registry.models()}
        self._pending: list[PendingChange] = []
        self._listeners: list[Callable[[str], None]] = []
        self._confirmed_at = clock.monotonic()
        self._settling: asyncio.Task[None] | None = None
        self._denied: dict[str, Flags] = {}  # came from elsewhere, but the store never held them
        self.refused = 0  # flags that came from elsewhere and are not served

    # ---- reading

    def current(self, model: str) -> Flags:
        """`NotFoundError` for an unknown model."""
        self._registry.model(model)
        return self._current[model]

    def all(self) -> list[Flags]:
        return list(self._current.values())

    def subscribe(self, listener: Callable[[str], None]) -> None:
        """Be told the name of each model whose flags changed, before the change is answered. Must not
        block.
        """
        self._listeners.append(listener)

    @property
    def pending(self) -> int:
        """Changes in force that the store has not seen yet."""
        return len(self._pending)

    def durable(self, model: str) -> bool:
        """False while a change of this model is in force that the store has not seen yet."""
        return not self._has_pending(model)

    def stale_seconds(self) -> float:
        """Since the flags were last known to agree with the store; since the process started, when never."""
        return self._clock.monotonic() - self._confirmed_at

    # ---- start and upkeep

    async def start(self) -> None:
        """From the store; while that is down from the file of last known flags, else production only."""
        known = self._last_known.load()
        self._pending = list(known.pending)
        for flags in known.flags:
            self._take(flags)
        try:
            try:
                await self._registry.load()
            except UnavailableError:
                self._registry.adopt(known.versions)
                for flags in known.flags:
                    self._take(flags)
                raise  # a store that is silent is not waited for a second time
            await self.reconcile()
        except UnavailableError as error:
            log.warning(
                "the store is down; serving the last known flags", known=len(known.flags), error=str(error)
            )

    async def run(self) -> None:
        """The owner runs this as a task: take in changes made elsewhere, and agree with the store every few
        seconds.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            tasks.create_task(self._reconcile_forever())

    async def close(self) -> None:
        """Let the change that is on its way to the store arrive, within the usual patience; the file of last known flags has it
        otherwise.
        """
        if self._settling is not None:
            await asyncio.wait({self._settling}, timeout=_SETTLE_S)

    async def _reconcile_forever(self) -> None:
        while True:
            await asyncio.sleep(RECONCILE_S)
            try:
                await self.reconcile()
            except UnavailableError as error:
                log.debug("flags not reconciled", error=str(error))
            except GatewayError as error:
                log.warning("flags not reconciled", error=str(error))

    async def _watch(self) -> None:
        while True:
            try:
                async for flags in self._distribution.changes():
                    await self._take_from_elsewhere(flags)
                return  # closed
            except UnavailableError as error:
                log.debug("flags of other hosts cannot be followed", error=str(error))
                await asyncio.sleep(1.0)

    async def _take_from_elsewhere(self, flags: Flags) -> None:
        if not self._is_news(flags):
            return
        if self._faults(flags):
            await self._registry.load()  # perhaps of a version that was just registered on another host
        found = self._faults(flags)
        denied = not towards_safety(self._current[flags.model], flags) and not await self._held(flags)
        if found or denied:
            self.refused += 1
            log.warning(
                "flags from elsewhere refused",
                model=flags.model,
                revision=flags.revision,
                faults=found or ["the store does not hold them"],
            )
        if denied:
            self._denied[flags.model] = flags
            await self._distribution.correct(flags, self._current[flags.model])
        elif not found and self._is_news(flags):
            self._apply(flags)
            await self._save()

    def _is_news(self, flags: Flags) -> bool:
        current = self._current.get(flags.model)
        return (
            current is not None
            and flags.revision > current.revision
            and flags != self._denied.get(flags.model)
            and not self._has_pending(flags.model)
        )

    async def _held(self, flags: Flags) -> bool:
        """Whether the store holds these flags, or newer ones, or cannot be asked. It is asked twice: an urgent
        change travels before it is stored.
        """
        for pause_s in (0.0, _SETTLE_S):
            await asyncio.sleep(pause_s)
            try:
                async with asyncio.timeout(_SETTLE_S):
                    stored = await self._store.flags()
            except (UnavailableError, TimeoutError):
                return True
            if any(one.model == flags.model and one.revision >= flags.revision for one in stored):
                return True
        return False

    async def reconcile(self) -> None:
        """Send what waits for the store, then take in what it holds. `UnavailableError` when it does not
        answer.
        """
        async with self._registry.lock:
            await self._flush()
            await self._registry.load_locked()
            stored = {flags.model: flags for flags in await self._store.flags()}
            before = dict(self._current)
            for model in self._registry.models():
                if not self._has_pending(model.name):
                    self._take(stored.get(model.name) or initial(model))
            self._confirmed_at = self._clock.monotonic()
        if before != self._current:
            await self._save()

    # ---- changing

    async def change(
        self,
        model: str,
        patch: Mapping[str, Any],
        *,
        expected_revision: int | None = None,
        actor: str,
        origin: str,
        reason: str,
        action: str = "flags.set",
        urgent: bool = False,
    ) -> Flags:
        """Change some fields of a model's flags; returns them as they are in force.

        `InvalidError` lists everything wrong; `StaleRevisionError` when `expected_revision` is not the
        current one (that attempt is audited too); `UnavailableError` when the store is down, unless the
        change is towards safety. A patch that changes nothing makes no revision.
        """
        unknown = sorted(set(patch) - _CHANGEABLE)
        if unknown:
            raise InvalidError(f"no such flag: {', '.join(unknown)}")
        now = self._clock.now()
        audit = AuditEntry(at=now, actor=actor, origin=origin, action=action, model=model, reason=reason)
        current = self.current(model)
        try:
            wanted = self._patched(current, patch)
        except (
            InvalidError
        ):  # perhaps it needs a version or a candidate that another host has just made known
            with contextlib.suppress(UnavailableError):
                await self.reconcile()
            current = self.current(model)
            if expected_revision is not None and expected_revision != current.revision:
                raise await self._refusal(
                    audit, expected_revision, current, replace(current, **patch)
                ) from None
            wanted = self._patched(current, patch)
        if wanted == current:  # unless another host has just changed it
            with contextlib.suppress(UnavailableError):
                await self.reconcile()
            current = self.current(model)
            wanted = self._patched(current, patch)
        if expected_revision is not None and expected_revision != current.revision:
            raise await self._refusal(audit, expected_revision, current, wanted)
        if wanted == current:
            return current
        if urgent or towards_safety(current, wanted):
            return await self._change_now(current, wanted, audit)
        return await self._change_durably(model, patch, expected_revision, audit)

    def _patched(self, current: Flags, patch: Mapping[str, Any]) -> Flags:
        found: list[str] = []
        wanted = replace(current, **patch)
        if wanted.candidate is None:
            # To enable the canary alone sends nobody anywhere; a share for nobody must not vanish in silence.
            if patch.get("canary_percent", 0.0) > 0.0:
                found.append("canary_percent: there is no candidate; name one")
            wanted = replace(wanted, canary_percent=0.0, canary_enabled=False)
        elif wanted.candidate != current.candidate and "salt" not in patch:
            # A new trial: not the same users first again.
            wanted = replace(wanted, salt=f"{wanted.model}/{wanted.candidate}/{current.revision + 1}")
        if found := [*found, *self._faults(wanted)]:
            raise InvalidError("; ".join(found))
        return wanted

    async def _change_durably(
        self, model: str, patch: Mapping[str, Any], expected_revision: int | None, audit: AuditEntry
    ) -> Flags:
        async with self._registry.lock:
            await self._flush()
            for _ in range(_ATTEMPTS):
                current = self._current[model]
                if expected_revision is not None and expected_revision != current.revision:
                    raise await self._refusal(audit, expected_revision, current, replace(current, **patch))
                wanted = self._patched(current, patch)
                if wanted == current:
                    return current
                try:
                    return await self._put(current, wanted, audit)
                except StaleRevisionError:
                    stored = {flags.model: flags for flags in await self._store.flags()}
                    self._take(stored.get(model) or initial(self._registry.model(model)))
        raise UnavailableError(f"the flags of {model!r} are changing too fast; try again")

    async def _put(self, current: Flags, wanted: Flags, audit: AuditEntry) -> Flags:
        entry = replace(
            audit, before=as_json(current), after=as_json(replace(wanted, revision=current.revision + 1))
        )
        stored = await self._store.put_flags(
            replace(wanted, revision=current.revision + 1), current.revision, entry
        )
        self._confirmed_at = self._clock.monotonic()
        self._apply(stored)
        log_change(audit, **_changed(current, stored))
        await self._publish(stored)
        await self._save()
        return stored

    async def _change_now(self, current: Flags, wanted: Flags, audit: AuditEntry) -> Flags:
        """Towards safety: in force before anything is awaited."""
        wanted = replace(wanted, revision=current.revision + 1)
        entry = replace(audit, before=as_json(current), after=as_json(wanted))
        self._remember(PendingChange(current, wanted, entry))
        self._apply(wanted)
        log_change(audit, **_changed(current, wanted))
        started = time.perf_counter()
        await self._publish(wanted)
        await self._save()
        settled = self._settle()
        await asyncio.wait({settled}, timeout=max(0.0, _SETTLE_S - (time.perf_counter() - started)))
        return self._current[wanted.model]

    def _remember(self, change: PendingChange) -> None:
        if len(self._pending) >= PENDING_LIMIT:
            same = [i for i, waiting in enumerate(self._pending) if waiting.after.model == change.after.model]
            if same:  # one change from the older state to the newer: nothing is lost but the step between
                change = replace(change, before=self._pending[same[-1]].before)
                del self._pending[same[-1]]
        self._pending.append(change)

    def _settle(self) -> asyncio.Task[None]:
        """The one task that makes waiting changes durable; the upkeep tries again later when the store is
        down.
        """
        if self._settling is None or self._settling.done():
            self._settling = asyncio.create_task(self._settle_now(), name="flags-settle")
        return self._settling

    async def _settle_now(self) -> None:
        try:
            async with self._registry.lock:
                await self._flush()
        except GatewayError as error:
            log.warning(
                "a change of flags is in force but not yet in the store",
                waiting=self.pending,
                error=str(error),
            )
        await self._save()

    async def _flush(self) -> None:
        """Replay what waits onto what the store holds. The caller holds the lock. `UnavailableError` keeps
        what is left.
        """
        stale = 0
        while self._pending:
            change = self._pending[0]
            model = self._registry.get(change.after.model)
            if model is None:
                self._pending.pop(0)  # the model left the file: nothing routes by these flags
                continue
            stored = next(
                (flags for flags in await self._store.flags() if flags.model == model.name), initial(model)
            )
            wanted = replayed(change, stored)
            try:
                if wanted != stored:
                    entry = replace(change.audit, before=as_json(stored))
                    stored = await self._store.put_flags(
                        replace(wanted, revision=stored.revision + 1),
                        stored.revision,
                        replace(entry, after=as_json(replace(wanted, revision=stored.revision + 1))),
                    )
                else:
                    await self._store.append_audit(change.audit)
            except StaleRevisionError as error:
                stale += 1
                if stale >= _ATTEMPTS:
                    raise UnavailableError(f"the flags of {model.name!r} are changing too fast") from error
                continue
            self._pending.pop(0)
            self._confirmed_at = self._clock.monotonic()
            if not self._has_pending(model.name) and self._take(stored):
                await self._publish(self._current[model.name])

    async def _refusal(
        self, audit: AuditEntry, expected: int, current: Flags, wanted: Flags
    ) -> StaleRevisionError:
        """The error for a change that came too late; the attempt is audited."""
        entry = replace(
            audit,
            action=f"{audit.action}.refused",
            reason=f"revision {expected} is not the current one ({current.revision}): {audit.reason}",
            before=as_json(current),
            after=as_json(wanted),
        )
        try:
            await self._store.append_audit(entry)
        except UnavailableError as error:
            log.warning("a refused change could not be audited", model=current.model, error=str(error))
        return StaleRevisionError(expected, current.revision)

    # ---- the values in force

    def _faults(self, flags: Flags) -> list[str]:
        model = self._registry.model(flags.model)
        return faults(flags, frozenset(version.name for version in model.versions))

    def _has_pending(self, model: str) -> bool:
        return any(change.after.model == model for change in self._pending)

    def _take(self, flags: Flags) -> bool:
        """Make stored flags the current ones, as far as they can be served; True when that changed
        anything.
        """
        model = self._registry.get(flags.model)
        if model is None:
            return False
        usable = servable(flags, model)
        if usable == self._current[flags.model]:
            return False
        if usable != flags:
            log.warning(
                "flags name what the model does not have; serving the rest",
                model=flags.model,
                stored=as_json(flags),
            )
        self._apply(usable)
        return True

    def _apply(self, flags: Flags) -> None:
        self._current[flags.model] = flags
        for listener in self._listeners:
            listener(flags.model)

    async def _publish(self, flags: Flags) -> None:
        try:
            await self._distribution.publish(flags)
        except UnavailableError as error:
            log.warning(
                "flags could not be distributed; other hosts read them from the store",
                model=flags.model,
                error=str(error),
            )

    async def _save(self) -> None:
        await self._last_known.save(
            Known(tuple(self.all()), tuple(self._registry.registered()), tuple(self._pending))
        )
