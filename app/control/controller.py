"""Moves canaries: evidence to verdict to rollout step to flags. Looks every second, and acts only while it
holds the lease.

One thing waits for neither the lease nor the store: taking a candidate out when a worker's guard has
tripped. Every change goes through the flags service, so that it is audited and reaches the workers; the
controller yields to whoever changes flags by hand.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import msgspec
import structlog

from app.control.audits import Audits
from app.control.clock import Clock
from app.control.evidence import TrialEvidence
from app.control.flags import FlagsService
from app.control.health import RecentHealth
from app.control.news import News
from app.control.ports import AuditEntry, Lease, Row, Store
from app.control.registry import Registry
from app.control.rollouts import (
    Trial,
    changes,
    command_of,
    departure,
    event_view,
    flags_due,
    pair_share,
    takes_back,
)
from app.control.stored_evidence import StoredEvidence
from app.control.trials import Trials
from app.domain.flags import Flags, without_candidate
from app.domain.rollout import Action, Command, Figure, Rollout, State, Step, act, start, step
from app.errors import (
    ConflictError,
    GatewayError,
    InvalidError,
    StaleRevisionError,
    UnavailableError,
)
from app.link.messages import GuardTrip, Pairs, Series, Tick

log = structlog.get_logger(__name__)

EVERY_S = 1.0
GATHER_S = 2.0  # between two readings of what only the store knows
TRIPPING_S = 2.0  # for guard trips that are being carried out when the process stops
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
        news: News | None = None,
    ) -> None:
        self._registry = registry
        self._flags = flags
        self._store = store
        self._lease = lease
        self._clock = clock
        self._new_id = new_id
        self._news = news or News(registry)
        self._audits = Audits(store)
        self._trials = Trials(registry, store, clock)
        self._stored = StoredEvidence(store, clock)
        self._lock = asyncio.Lock()
        self._tripping: set[asyncio.Task[None]] = set()
        self.trips_dropped = 0
        self.leads = False
        self.health = RecentHealth()
        self.rollbacks: Counter[tuple[str, str, str]] = Counter()

    # ---- what workers send

    def tick(self, writer: str, tick: Tick) -> None:
        now = self._trials.now()
        for one in tick.versions:
            self.health.add(tick.tick, one)
        for trial in self._trials:
            trial.evidence.add(writer, tick, trial.rollout.id, now)

    def pairs(self, writer: str, pairs: Pairs) -> None:
        for trial in self._trials:
            trial.evidence.add_pairs(writer, pairs, trial.rollout.id)

    def guard_trip(self, writer: str, trip: GuardTrip) -> None:
        """Taken care of at once, in a task of its own."""
        if self._registry.get(trip.model) is None:
            return
        if len(self._tripping) >= MAX_TRIPS:
            self.trips_dropped += 1
            return
        task = asyncio.create_task(self._guard_tripped(writer, trip), name=f"guard-{trip.model}")
        self._tripping.add(task)
        task.add_done_callback(self._tripping.discard)

    async def _guard_tripped(self, writer: str, trip: GuardTrip) -> None:
        flags = self._flags.current(trip.model)
        if flags.candidate != trip.version or flags.rollout_id != trip.rollout_id or not flags.canary_enabled:
            return  # another worker was faster, or it belongs to a candidate that is out already
        trial = self._trials.of(trip.model)
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
            await self._record_trip(trip, reason, _figures_of(writer, trip))

    async def _record_trip(self, trip: GuardTrip, reason: str, figures: Mapping[str, Figure]) -> None:
        """The flags are safe; now the rollout must say so too."""
        async with self._lock:
            try:
                trial = await self._trials.find(trip.model, trip.rollout_id)
                trial.evidence.advance(self._trials.now())
                evidence = replace(trial.look(), guard_tripped=True, guard_reason=trip.reason)
                result = act(trial.rollout, Action.ROLLBACK, reason, self._trials.now(), evidence)
            except GatewayError as error:  # already over, or the store is down and the rollout another host's
                log.warning(
                    "the rollout of a guard trip could not be closed",
                    rollout=trip.rollout_id,
                    error=str(error),
                )
                return
            events = _with_figures(result, {**trial.evidence.breakdown(), **figures}).events
            trial.rollout = result.rollout
            await self._trials.save(trial, events)
            await self._tell(trial.rollout, "rollout.rollback", reason)

    # ---- the loop

    async def start(self) -> None:
        """Take up open rollouts where they stand. With the store down they are taken up later."""
        try:
            await self._trials.refresh(leads=False, at_once=True)
        except UnavailableError as error:
            log.warning("open rollouts are not known while the store is down", error=str(error))

    async def run(self) -> None:
        """The owner runs this as a task."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._forever(EVERY_S, self.look), name="looks")
            tasks.create_task(self._forever(GATHER_S, self.gather), name="stored-evidence")

    async def _forever(self, every_s: float, do: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(every_s)
            await do()

    async def gather(self) -> None:
        """Read what only the store knows, for the looks to come. A store that is slow or silent delays no look."""
        for trial in self._trials if self.leads else ():
            known = self._registry.get(trial.rollout.model)
            if known is not None and trial.rollout.is_open:
                await self._guarded(partial(self._stored.gather, known, trial), trial.rollout.id)

    async def close(self) -> None:
        """Carry out the trips that are under way, keep the evidence and give the lease away."""
        if self._tripping:
            await asyncio.wait(self._tripping, timeout=TRIPPING_S)
        async with self._lock:
            if self.leads:
                for trial in self._trials:
                    await self._trials.save(trial)
        try:
            await self._lease.release()
        except UnavailableError as error:
            log.debug("the lease will lapse by itself", error=str(error))

    async def look(self) -> None:
        """One look at every open rollout; never raises for what a dependency or one rollout does."""
        self.leads = await self._hold()
        async with self._lock:
            await self._guarded(self._audits.catch_up, "audit")
            await self._guarded(partial(self._trials.refresh, leads=self.leads), "rollouts")
            for trial in self._trials:
                # What this host has taken back it also brings to the store, whoever leads.
                if self.leads or (trial.unsaved and not trial.rollout.is_open):
                    await self._guarded(partial(self._look_at, trial), trial.rollout.id)

    async def _guarded(self, do: Callable[[], Awaitable[None]], what: str) -> None:
        try:
            await do()
        except (UnavailableError, StaleRevisionError, TimeoutError) as error:
            log.debug("the controller waits", what=what, error=str(error))
        except (GatewayError, msgspec.ValidationError, ValueError, KeyError) as error:
            log.error("the controller cannot go on with this", what=what, error=str(error))

    async def _hold(self) -> bool:
        try:
            return await self._lease.acquire()
        except UnavailableError:
            return False

    async def _look_at(self, trial: Trial) -> None:
        if not trial.rollout.is_open:
            # Flags that belong to a later rollout meanwhile are not this one's to change.
            ours = self._flags.current(trial.rollout.model).rollout_id in ("", trial.rollout.id)
            if not trial.carried_out and ours:
                await self._carry_out_again(trial)
            await self._trials.save(trial)
            return
        if trial.tripped:
            return
        flags = self._flags.current(trial.rollout.model)
        left = departure(trial.rollout, flags, carried_out=trial.carried_out)
        if left is not None and left.ends:
            await self._end(trial, left.reason, flags)
            return
        if left is not None and trial.rollout.paused_at is None:
            why = _by_hand(flags, left.reason)
            await self._enter(
                trial, act(trial.rollout, Action.PAUSE, why, self._trials.now(), trial.look()), _FLAGS
            )
        elif left is None and not trial.carried_out:
            await self._carry_out_again(trial)
        if (known := self._registry.get(trial.rollout.model)) is not None:
            trial.evidence.pair_share = pair_share(trial.rollout, known, flags)
        trial.evidence.advance(self._trials.now())
        result = step(trial.rollout, trial.look(), self._trials.now())
        if result.events:
            await self._enter(trial, result, _CONTROLLER)
        else:
            await self._trials.save_evidence(trial)

    async def _carry_out_again(self, trial: Trial) -> None:
        """What a crash, or somebody faster, has kept from the flags."""
        command = command_of(trial.rollout, trial.rollout.reason)
        await self._carry_out(
            trial, [command] if command else [], _CONTROLLER, "rollout.resume", trial.rollout.reason
        )

    async def _end(self, trial: Trial, reason: str, flags: Flags) -> None:
        """Somebody named another candidate or production by hand: they win, and the rollout is over."""
        rollout = trial.rollout
        why = _by_hand(flags, reason)
        result = act(rollout, Action.ROLLBACK, why, self._trials.now(), trial.look())
        result = _with_figures(result, trial.evidence.breakdown())
        trial.rollout = result.rollout
        self.rollbacks[rollout.model, rollout.candidate, _FLAGS.cause] += 1
        await self._trials.save(trial, result.events)
        await self._tell(rollout, "rollout.rollback", why)
        if flags.rollout_id == rollout.id:
            await self._set(flags, {"rollout_id": ""}, _FLAGS, "rollout.end", why)

    # ---- carrying out

    async def _enter(self, trial: Trial, result: Step, by: By) -> None:
        """Make a step happen. Upwards the store comes first; downwards the flags do."""
        result = _with_figures(result, trial.evidence.breakdown())
        reason = result.events[-1].reason
        action = f"rollout.{result.events[-1].kind}"
        if any(takes_back(command) for command in result.commands):
            before = trial.rollout
            trial.rollout = result.rollout
            self.rollbacks[before.model, before.candidate, by.cause] += 1
            try:
                changed = await self._carry_out(trial, result.commands, by, "rollback", reason)
            except (
                GatewayError
            ):  # the next look tries again, and the history must say by then what was decided
                trial.unsaved += result.events
                raise
            await self._trials.save(trial, result.events)
        else:
            after = replace(
                trial, rollout=result.rollout, carried_out=not result.commands and trial.carried_out
            )
            await self._trials.store(after, result.events)
            trial.rollout, trial.events, trial.carried_out = after.rollout, after.events, after.carried_out
            log.info("rollout event", rollout=trial.rollout.id, kind=action, reason=reason)
            changed = await self._carry_out(trial, result.commands, by, action, reason)
        self._trials.let_go(trial)
        await self._tell(trial.rollout, action, reason)
        if not changed and by.cause == "operator":  # what changes flags is audited with them
            await self._audit(trial.rollout, by, action, reason)

    async def _carry_out(
        self, trial: Trial, commands: Sequence[Command], by: By, action: str, reason: str
    ) -> bool:
        """Put commands into the flags; whether that changed any. What fails is tried again by the next
        look.
        """
        rollout = trial.rollout
        trial.carried_out = False
        changed = False
        for command in commands:
            flags = self._flags.current(rollout.model)
            patch = changes(flags, flags_due(flags, command, rollout.id))
            await self._set(flags, patch, by, action, reason, urgent=takes_back(command))
            changed = changed or bool(patch)
        trial.carried_out = True
        return changed

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

    async def _tell(self, rollout: Rollout, kind: str, reason: str) -> None:
        """Other systems hear of what ends well or badly; the steps between are nobody else's business."""
        if kind in ("rollout.rollback", "rollout.promote"):
            facts = {"rollout": rollout.id, "candidate": rollout.candidate, "production": rollout.production}
            await self._news.tell(rollout.model, kind, {**facts, "reason": reason})

    async def _audit(self, rollout: Rollout, by: By, action: str, reason: str) -> None:
        await self._audits.add(
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
        min_labels: int | None = None,
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
            if (held := self._trials.of(model)) is not None:
                watched = (
                    ", being watched after its promotion: `advance` ends the watch, `rollback` takes it back"
                    if held.rollout.state is State.PROMOTED
                    else "; end it first"
                )
                raise ConflictError(f"rollout {held.rollout.id} of {model!r} is open{watched}")
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
                now=self._trials.now(),
                watch_s=known.canary.watch_s,
                shadow_dwell_s=shadow_dwell_s,
                shadow_min_requests=shadow_min_requests,
                guard_mode=known.guard.mode,
                min_labels=known.evidence.min_labels if min_labels is None else min_labels,
                compared=known.canary.control.sample > 0 and known.canary.control.max_share > 0,
            )
            shadow = shadow_dwell_s > 0 or shadow_min_requests > 0
            shadow = shadow or (flags.shadow_enabled and candidate in flags.shadow_versions)
            former = self.health.arm(
                model, rollout.production, "production", int(self._clock.now().timestamp())
            )
            evidence = TrialEvidence.begin(
                known, candidate, rollout.production, self._trials.now(), shadow=shadow, former=former
            )
            trial = Trial(rollout, evidence)
            await self._trials.store(trial, [])
            self._trials.hold(trial)
            await self._audit(rollout, by, "rollout.start", reason)
            if self.leads:
                await self._guarded(partial(self._look_at, trial), identity)
            return self._view(trial)

    async def act_on(self, model: str, rollout_id: str, action: Action, *, by: By, reason: str) -> Row:
        """Pause, resume, advance, promote or roll back. `ConflictError` when its state does not allow
        that.
        """
        async with self._lock:
            trial = await self._trials.find(model, rollout_id)
            result = act(trial.rollout, action, reason, self._trials.now(), trial.look())
            if action is Action.RESUME and (again := command_of(result.rollout)) is not None:
                result = replace(result, commands=(again,))  # someone may have disabled the canary meanwhile
            await self._enter(trial, result, by)
            return self._view(trial)

    def open_rollout(self, model: str) -> Row | None:
        """The open one as it stands at this moment, without its events."""
        trial = self._trials.of(model)
        return None if trial is None or not trial.rollout.is_open else self._view(trial)

    async def rollout(self, model: str, rollout_id: str) -> Row:
        """One rollout with its events, oldest first; of an open one the verdict and evidence of this
        moment.
        """
        trial = await self._trials.find(model, rollout_id)
        stored = await self._store.rollout(rollout_id)
        return {**self._view(trial), "events": [event_view(one) for one in (stored or {}).get("events", [])]}

    async def rollouts(self, model: str, limit: int) -> list[Row]:
        """The newest first, without their events."""
        return [self._view(trial) for trial in await self._trials.newest(model, limit)]

    def _view(self, trial: Trial) -> Row:
        return trial.view(self._trials.now())

    def series(self) -> Iterator[Series]:
        for labels, count in self.rollbacks.items():
            yield Series("gateway_rollbacks_total", labels, count)
        yield Series("gateway_guard_trips_dropped_total", ("busy",), self.trips_dropped)


def _figures_of(writer: str, trip: GuardTrip) -> dict[str, Figure]:
    """What the worker decided by, each figure that the link carries: the evidence of the controller has another window."""
    of_the_rollout = (
        "model",
        "version",
        "rollout_id",
        "reason",
        "at_ns",
    )  # known, or given below or by the evidence
    told = {
        f"guard_{name}": value
        for name, value in msgspec.structs.asdict(trip).items()
        if name not in of_the_rollout and isinstance(value, (bool, int, float, str))
    }
    return {**told, "guard_writer": writer, "guard_at": trip.at_ns / 1e9}


def _with_figures(result: Step, figures: Mapping[str, Figure]) -> Step:
    """Each event with what its evidence was made of."""
    events = tuple(replace(event, figures={**figures, **event.figures}) for event in result.events)
    return replace(result, events=events)


def _by_hand(flags: Flags, reason: str) -> str:
    return f"flags were changed by hand (revision {flags.revision}): {reason}"
