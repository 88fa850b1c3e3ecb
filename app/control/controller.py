"""Moves canaries: evidence to verdict to rollout step to flags. Looks every second, and acts only while it
holds the lease.

One thing waits for neither the lease nor the store: taking a candidate out when a worker's guard has
tripped. Every change goes through the flags service, so that it is audited and reaches the workers; the
controller yields to whoever changes flags by hand.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import msgspec
import structlog

from app.control.clock import Clock
from app.control.evidence import TrialEvidence
from app.control.flags import FlagsService
from app.control.health import RecentHealth
from app.control.ports import AuditEntry, Lease, Row, Store
from app.control.registry import Registry
from app.control.rollouts import (
    Trial,
    changes,
    command_of,
    departure,
    event_rows,
    event_view,
    flags_due,
    takes_back,
)
from app.domain.flags import Flags, without_candidate
from app.domain.rollout import Action, Command, Event, Rollout, Step, act, start, step
from app.errors import (
    ConflictError,
    GatewayError,
    InvalidError,
    NotFoundError,
    StaleRevisionError,
    UnavailableError,
)
from app.link.messages import GuardTrip, Pairs, Series, Tick

log = structlog.get_logger(__name__)

EVERY_S = 1.0
SAVE_S = 5.0  # how much evidence a crash may cost
REFRESH_S = 2.0  # how often rollouts begun or changed on other hosts are looked for
MAX_TRIPS = 64


@dataclass(frozen=True, slots=True)
class By:
    """Who acts, for the audit log. `cause` is the reason label of gateway_rollbacks_total."""

    actor: str
    origin: str
    cause: str


_CONTROLLER = By("controller", "controller", "evidence")
_GUARD = By("controller", "guard", "guard")
_FLAGS = By("controller", "controller", "flags")


class Controller:
    """`start`, then `run` as a task. It is the link's listener."""

    def __init__(
        self,
        registry: Registry,
        flags: FlagsService,
        store: Store,
        lease: Lease,
        clock: Clock,
        new_id: Callable[[], str],
    ) -> None:
        self._registry = registry
        self._flags = flags
        self._store = store
        self._lease = lease
        self._clock = clock
        self._new_id = new_id
        self._trials: dict[str, Trial] = {}  # open ones, by model
        self._lock = asyncio.Lock()
        self._tripping: set[asyncio.Task[None]] = set()
        self._refreshed_at = float("-inf")
        # The domain's time: the wall clock at the start, carried on by the monotonic one, so that a jump
        # moves nothing.
        self._epoch = clock.now().timestamp() - clock.monotonic()
        self.leads = False
        self.health = RecentHealth()
        self.rollbacks: Counter[tuple[str, str, str]] = Counter()

    def _now(self) -> float:
        return self._epoch + self._clock.monotonic()

    # ---- what workers send

    def tick(self, writer: str, tick: Tick) -> None:
        now = self._now()
        for one in tick.versions:
            self.health.add(tick.tick, one)
        for trial in self._trials.values():
            trial.evidence.add(writer, tick, trial.rollout.id, now)

    def pairs(self, writer: str, pairs: Pairs) -> None:
        for trial in self._trials.values():
            trial.evidence.add_pairs(writer, pairs, trial.rollout.id)

    def guard_trip(self, writer: str, trip: GuardTrip) -> None:
        """Taken care of at once, in a task of its own."""
        if len(self._tripping) >= MAX_TRIPS or self._registry.get(trip.model) is None:
            return
        task = asyncio.create_task(self._guard_tripped(trip), name=f"guard-{trip.model}")
        self._tripping.add(task)
        task.add_done_callback(self._tripping.discard)

    async def _guard_tripped(self, trip: GuardTrip) -> None:
        flags = self._flags.current(trip.model)
        if flags.candidate != trip.version or flags.rollout_id != trip.rollout_id or not flags.canary_enabled:
            return  # another worker was faster, or it belongs to a candidate that is out already
        trial = self._trials.get(trip.model)
        if trial is not None and trial.rollout.id == trip.rollout_id:
            trial.tripped = True
        reason = f"guard: {trip.reason} ({trip.errors} of the last {trip.requests} requests failed)"
        log.warning(
            "guard trip: the candidate is taken out", model=trip.model, version=trip.version, reason=reason
        )
        try:
            await self._set(
                flags, changes(flags, without_candidate(flags)), _GUARD, "rollback", reason, urgent=True
            )
        except GatewayError as error:
            log.error("the candidate could not be taken out", model=trip.model, error=str(error))
            if trial is not None:
                trial.tripped = False
            return
        self.rollbacks[trip.model, trip.version, _GUARD.cause] += 1
        if trip.rollout_id:
            figures = {"guard_requests": trip.requests, "guard_errors": trip.errors}
            await self._record_trip(trip, reason, figures)

    async def _record_trip(self, trip: GuardTrip, reason: str, figures: dict[str, int]) -> None:
        """The flags are safe; now the rollout must say so too."""
        async with self._lock:
            try:
                trial = await self._find(trip.model, trip.rollout_id)
                trial.evidence.advance(self._now())
                evidence = replace(trial.look(), guard_tripped=True, guard_reason=trip.reason)
                result = act(trial.rollout, Action.ROLLBACK, reason, self._now(), evidence)
            except GatewayError as error:  # already over, or the store is down and the rollout another host's
                log.warning(
                    "the rollout of a guard trip could not be closed",
                    rollout=trip.rollout_id,
                    error=str(error),
                )
                return
            events = [replace(event, figures={**event.figures, **figures}) for event in result.events]
            trial.rollout = result.rollout
            await self._save(trial, events)
            self._forget_if_over(trial)

    # ---- the loop

    async def start(self) -> None:
        """Take up open rollouts where they stand. With the store down they are taken up later."""
        try:
            await self._refresh()
        except UnavailableError as error:
            log.warning("open rollouts are not known while the store is down", error=str(error))

    async def run(self) -> None:
        """The owner runs this as a task."""
        while True:
            await asyncio.sleep(EVERY_S)
            await self.look()

    async def close(self) -> None:
        """Keep the evidence and give the lease away."""
        async with self._lock:
            if self.leads:
                for trial in list(self._trials.values()):
                    await self._save(trial, [])
        try:
            await self._lease.release()
        except UnavailableError as error:
            log.debug("the lease will lapse by itself", error=str(error))

    async def look(self) -> None:
        """One look at every open rollout; never raises for what a dependency or one rollout does."""
        self.leads = await self._hold()
        async with self._lock:
            await self._guarded(self._refresh_if_due, "rollouts")
            if not self.leads:
                return
            for trial in list(self._trials.values()):
                await self._guarded(partial(self._look_at, trial), trial.rollout.id)

    async def _guarded(self, do: Callable[[], Awaitable[None]], what: str) -> None:
        try:
            await do()
        except (UnavailableError, StaleRevisionError) as error:
            log.debug("the controller waits", what=what, error=str(error))
        except (GatewayError, msgspec.ValidationError, ValueError, KeyError) as error:
            log.error("the controller cannot go on with this", what=what, error=str(error))

    async def _hold(self) -> bool:
        try:
            return await self._lease.acquire()
        except UnavailableError:
            return False

    async def _refresh_if_due(self) -> None:
        if self._clock.monotonic() - self._refreshed_at >= REFRESH_S:
            await self._refresh()

    async def _refresh(self) -> None:
        """Agree with the store on which rollouts are open, and in which state: another host may have begun
        or changed one.
        """
        rows = {str(row["model"]): row for row in await self._store.open_rollouts()}
        self._refreshed_at = self._clock.monotonic()
        for model, trial in list(self._trials.items()):
            if model not in rows and not trial.unsaved:
                del self._trials[model]
        for model, row in rows.items():
            known = self._registry.get(model)
            held = self._trials.get(model)
            if known is None or (held is not None and held.unsaved):
                continue
            stored = Trial.from_row(row, known, self._now())
            if held is None or held.rollout.id != stored.rollout.id or not self.leads:
                self._trials[model] = stored
            elif stored.events > held.events:
                held.rollout, held.events, held.carried_out = (
                    stored.rollout,
                    stored.events,
                    stored.carried_out,
                )

    async def _look_at(self, trial: Trial) -> None:
        if trial.tripped:
            return
        if not trial.rollout.is_open:
            await self._save(trial, [])
            self._forget_if_over(trial)
            return
        flags = self._flags.current(trial.rollout.model)
        left = departure(trial.rollout, flags, carried_out=trial.carried_out)
        if left is not None and left.ends:
            await self._end(trial, left.reason, flags)
            return
        if left is not None and trial.rollout.paused_at is None:
            why = _by_hand(flags, left.reason)
            await self._enter(trial, act(trial.rollout, Action.PAUSE, why, self._now(), trial.look()), _FLAGS)
        elif left is None and not trial.carried_out:
            command = command_of(trial.rollout, trial.rollout.reason)
            await self._carry_out(
                trial, [command] if command else [], _CONTROLLER, "rollout.resume", trial.rollout.reason
            )
        trial.evidence.advance(self._now())
        result = step(trial.rollout, trial.look(), self._now())
        if result.events:
            await self._enter(trial, result, _CONTROLLER)
        elif self._clock.monotonic() - trial.saved_at >= SAVE_S or trial.unsaved:
            await self._save(trial, [])

    async def _end(self, trial: Trial, reason: str, flags: Flags) -> None:
        """Somebody named another candidate or production by hand: they win, and the rollout is over."""
        rollout = trial.rollout
        why = _by_hand(flags, reason)
        result = act(rollout, Action.ROLLBACK, why, self._now(), trial.look())
        trial.rollout = result.rollout
        self.rollbacks[rollout.model, rollout.candidate, _FLAGS.cause] += 1
        await self._save(trial, result.events)
        self._forget_if_over(trial)
        if flags.rollout_id == rollout.id:
            await self._set(flags, {"rollout_id": ""}, _FLAGS, "rollout.end", why)

    # ---- carrying out

    async def _enter(self, trial: Trial, result: Step, by: By) -> None:
        """Make a step happen. Upwards the store comes first; downwards the flags do."""
        reason = result.events[-1].reason
        action = f"rollout.{result.events[-1].kind}"
        if any(takes_back(command) for command in result.commands):
            before = trial.rollout
            trial.rollout = result.rollout
            self.rollbacks[before.model, before.candidate, by.cause] += 1
            await self._carry_out(trial, result.commands, by, "rollback", reason)
            await self._save(trial, result.events)
        else:
            after = replace(
                trial, rollout=result.rollout, carried_out=not result.commands and trial.carried_out
            )
            await self._store_trial(after, result.events)
            trial.rollout, trial.events, trial.carried_out = after.rollout, after.events, after.carried_out
            log.info("rollout event", rollout=trial.rollout.id, kind=action, reason=reason)
            await self._carry_out(trial, result.commands, by, action, reason)
            if not result.commands and by.actor != "controller":
                await self._audit(trial.rollout, by, action, reason)
        self._forget_if_over(trial)

    async def _carry_out(
        self, trial: Trial, commands: Sequence[Command], by: By, action: str, reason: str
    ) -> None:
        """Put commands into the flags. When somebody else was faster, or the store is down, the next look
        tries again.
        """
        rollout = trial.rollout
        trial.carried_out = False
        for command in commands:
            flags = self._flags.current(rollout.model)
            urgent = takes_back(command)
            patch = changes(flags, flags_due(flags, command, rollout.id))
            await self._set(flags, patch, by, action, reason, urgent=urgent)
        trial.carried_out = True

    async def _set(
        self, flags: Flags, patch: dict[str, Any], by: By, action: str, reason: str, *, urgent: bool = False
    ) -> None:
        if not patch:
            return
        await self._flags.change(
            flags.model,
            patch,
            expected_revision=None if urgent else flags.revision,
            actor=by.actor,
            origin=by.origin,
            reason=reason,
            action=action,
            urgent=urgent,
        )

    async def _store_trial(self, trial: Trial, events: Sequence[Event]) -> None:
        """`UnavailableError` leaves nothing done."""
        waiting = [*trial.unsaved, *events]
        trial.events += len(waiting)
        try:
            await self._store.save_rollout(trial.row(), event_rows(waiting))
        except GatewayError:
            trial.events -= len(waiting)
            raise
        trial.unsaved = []
        trial.saved_at = self._clock.monotonic()

    async def _save(self, trial: Trial, events: Sequence[Event]) -> None:
        """As `_store_trial`, but what the store does not take now is kept and tried again."""
        try:
            await self._store_trial(trial, events)
        except UnavailableError as error:
            trial.unsaved += events
            log.warning("a rollout could not be saved yet", rollout=trial.rollout.id, error=str(error))

    def _forget_if_over(self, trial: Trial) -> None:
        """A rollout that is over is kept only until the store knows."""
        model = trial.rollout.model
        if trial.unsaved:
            self._trials[model] = trial
        elif not trial.rollout.is_open and self._trials.get(model) is trial:
            del self._trials[model]

    async def _audit(self, rollout: Rollout, by: By, action: str, reason: str) -> None:
        await self._store.append_audit(
            AuditEntry(
                self._clock.now(),
                by.actor,
                by.origin,
                action,
                rollout.model,
                reason,
                None,
                {"rollout": rollout.id},
            )
        )

    # ---- what operators ask

    async def begin(
        self,
        model: str,
        candidate: str,
        *,
        stages: Sequence[float] | None = None,
        dwell_s: float | None = None,
        min_requests: int | None = None,
        shadow_dwell_s: float = 0.0,
        shadow_min_requests: int = 0,
        by: By,
        reason: str,
    ) -> Row:
        """Start a rollout; what is not given is as configured. `ConflictError` when one is open, or a
        canary was set by hand.
        """
        known = self._registry.model(model)
        if known.version(candidate) is None:
            raise InvalidError(f"candidate: {candidate!r} is no version of {model!r}; register it first")
        async with self._lock:
            flags = self._flags.current(model)
            if model in self._trials:
                raise ConflictError(
                    f"rollout {self._trials[model].rollout.id} of {model!r} is open; end it first"
                )
            if flags.candidate not in (None, candidate):
                raise ConflictError(f"{flags.candidate!r} is candidate by flags; take it out first")
            if candidate in flags.disabled_versions:
                raise ConflictError(f"{candidate!r} is disabled by flags; enable it first")
            identity = self._new_id()
            rollout = start(
                id=identity,
                model=model,
                candidate=candidate,
                production=flags.production,
                stages=known.canary.stages if stages is None else stages,
                dwell_s=known.canary.dwell_s if dwell_s is None else dwell_s,
                min_requests=known.canary.min_requests if min_requests is None else min_requests,
                salt=identity,  # not the same users first in each rollout
                now=self._now(),
                watch_s=known.canary.watch_s,
                shadow_dwell_s=shadow_dwell_s,
                shadow_min_requests=shadow_min_requests,
                guard_mode=known.guard.mode,
            )
            evidence = TrialEvidence.begin(known, candidate, rollout.production, self._now())
            trial = Trial(rollout, evidence)
            await self._store_trial(trial, [])
            self._trials[model] = trial
            await self._audit(rollout, by, "rollout.start", reason)
            if self.leads:
                await self._guarded(partial(self._look_at, trial), identity)
            return self._view(trial)

    async def act_on(self, model: str, rollout_id: str, action: Action, *, by: By, reason: str) -> Row:
        """Pause, resume, advance, promote or roll back. `ConflictError` when its state does not allow
        that.
        """
        async with self._lock:
            trial = await self._find(model, rollout_id)
            result = act(trial.rollout, action, reason, self._now(), trial.look())
            if action is Action.RESUME and (again := command_of(result.rollout)) is not None:
                result = replace(result, commands=(again,))  # someone may have disabled the canary meanwhile
            await self._enter(trial, result, by)
            return self._view(trial)

    async def _find(self, model: str, rollout_id: str) -> Trial:
        """The rollout as it stands; `NotFoundError` when the model has none of that id."""
        known = self._registry.model(model)
        held = self._trials.get(model)
        if held is not None and held.rollout.id == rollout_id:
            return held
        row = await self._store.rollout(rollout_id)
        if row is None or row["model"] != model:
            raise NotFoundError(f"there is no rollout {rollout_id[:50]!r} of {model!r}")
        return Trial.from_row(row, known, self._now())

    def open_rollout(self, model: str) -> Row | None:
        """The open one as it stands at this moment, without its events."""
        trial = self._trials.get(model)
        return None if trial is None or not trial.rollout.is_open else self._view(trial)

    async def rollout(self, model: str, rollout_id: str) -> Row:
        """One rollout with its events, oldest first; of an open one the verdict and evidence of this
        moment.
        """
        trial = await self._find(model, rollout_id)
        stored = await self._store.rollout(rollout_id)
        return {**self._view(trial), "events": [event_view(one) for one in (stored or {}).get("events", [])]}

    async def rollouts(self, model: str, limit: int) -> list[Row]:
        """The newest first, without their events."""
        known = self._registry.model(model)
        rows = await self._store.rollouts(model, limit)
        held = self._trials.get(model)
        return [
            self._view(
                held
                if held is not None and held.rollout.id == row["id"]
                else Trial.from_row(row, known, self._now())
            )
            for row in rows
        ]

    def _view(self, trial: Trial) -> Row:
        return trial.view(self._now())

    def series(self) -> Iterator[Series]:
        for labels, count in self.rollbacks.items():
            yield Series("gateway_rollbacks_total", labels, count)


def _by_hand(flags: Flags, reason: str) -> str:
    return f"flags were changed by hand (revision {flags.revision}): {reason}"
