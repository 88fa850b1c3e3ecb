"""When a canary moves and when it falls: one pure step over values.

Never goes up by itself without dwell, requests and a healthy verdict, never skips a stage, and never lets
anything delay a rollback. Only `apply` changes a rollout, and only by an event, so the same events give the
same state again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from enum import StrEnum
from itertools import pairwise
from typing import assert_never

from app.domain.rollout.states import TRANSITIONS, State, Trigger
from app.domain.rollout.values import (
    VERDICT,
    Command,
    DisableCandidate,
    EndWatch,
    Event,
    PromoteCandidate,
    RestoreProduction,
    Rollout,
    SetCanaryPercent,
    StartShadow,
    Step,
    trigger_of,
)
from app.domain.rollout.verdict import Evidence, Figure, GuardMode, Health, Verdict, judge
from app.errors import ConflictError, InvalidError


class Action(StrEnum):
    """What an operator can ask for."""

    PAUSE = "pause"
    RESUME = "resume"
    ADVANCE = "advance"
    PROMOTE = "promote"
    ROLLBACK = "rollback"


def start(
    *,
    id: str,
    model: str,
    candidate: str,
    production: str,
    stages: Sequence[float],
    dwell_s: float,
    min_requests: int,
    salt: str,
    now: float,
    watch_s: float = 3600.0,
    shadow_dwell_s: float = 0.0,
    shadow_min_requests: int = 0,
    guard_mode: str = "enforce_if_worse",
    stale_s: float = 300.0,
    min_labels: int = 0,
    compared: bool = True,
) -> Rollout:
    """A pending rollout; the first `step` puts it in force.

    `InvalidError` says which argument cannot be used and why.
    """
    if candidate == production:
        raise InvalidError(f"candidate: {candidate!r} is production already; name another version")
    rising = all(b > a for a, b in pairwise(stages))
    if not stages or not rising or not all(0.0 < s <= 100.0 for s in stages):
        raise InvalidError(f"stages: {list(stages)} must rise, each above 0 and at most 100")
    durations = {"dwell_s": dwell_s, "watch_s": watch_s, "shadow_dwell_s": shadow_dwell_s, "stale_s": stale_s}
    counts = {"min_requests": min_requests, "shadow_min_requests": shadow_min_requests}
    counts["min_labels"] = min_labels
    for name, value in {**durations, **counts}.items():
        if not 0 <= value < float("inf"):  # also refuses NaN
            raise InvalidError(f"{name}: {value} must be finite and not negative")
    if guard_mode not in set(GuardMode):
        raise InvalidError(f"guard_mode: {guard_mode!r} must be one of {', '.join(GuardMode)}")
    return Rollout(
        id=id,
        model=model,
        candidate=candidate,
        production=production,
        stages=tuple(float(s) for s in stages),
        dwell_s=dwell_s,
        min_requests=min_requests,
        salt=salt,
        started_at=now,
        watch_s=watch_s,
        shadow_dwell_s=shadow_dwell_s,
        shadow_min_requests=shadow_min_requests,
        guard_mode=GuardMode(guard_mode),
        stale_s=stale_s,
        min_labels=min_labels,
        compared=compared,
        stage_entered_at=now,
    )


def verdict_on(rollout: Rollout, evidence: Evidence, now: float) -> Verdict:
    """The verdict that a step at `now` acts on."""
    return judge(
        evidence,
        guard_mode=rollout.guard_mode,
        requests_in_stage=rollout.requests_in_stage(evidence),
        min_requests=rollout.min_requests if rollout.stage_index >= 0 else rollout.shadow_min_requests,
        stale_s=rollout.stale_s,
        now=now,
        labels_due=rollout.labels_due,
        alone=rollout.alone(evidence),
    )


def step(rollout: Rollout, evidence: Evidence, now: float) -> Step:
    """One look at the evidence; at most one transition. Call it every second.

    `now` is seconds since the epoch.
    """
    if not rollout.is_open:
        return Step(rollout)
    verdict = verdict_on(rollout, evidence, now)
    events: list[Event] = []
    if verdict.health is not rollout.health:
        events.append(_event(VERDICT, verdict.reason, rollout, evidence, now, health=str(verdict.health)))
    due = _due(rollout, evidence, verdict, now)
    if due is not None:
        events.append(_event(due[0], due[1], rollout, evidence, now, health=str(verdict.health)))
    return _stepped(rollout, tuple(events), verdict)


def _due(rollout: Rollout, evidence: Evidence, verdict: Verdict, now: float) -> tuple[Trigger, str] | None:
    """The transition that is due, and why; None: wait."""
    if verdict.rollback:
        return Trigger.ROLLBACK, verdict.reason
    elapsed, requests = rollout.elapsed_s(now), rollout.requests_in_stage(evidence)
    match rollout.state:
        case State.PENDING:
            if rollout.shadow_dwell_s > 0 or rollout.shadow_min_requests > 0:
                return Trigger.SHADOW, "shadow first, as configured"
            return Trigger.ADVANCE, f"to the first stage, {rollout.stages[0]:g} %"
        case State.SHADOWING:
            done = elapsed >= rollout.shadow_dwell_s and requests >= rollout.shadow_min_requests
            if done and verdict.health is Health.HEALTHY:
                return Trigger.ADVANCE, f"{requests} shadow answers in {elapsed:.0f} s; {verdict.reason}"
        case State.CANARY:
            done = elapsed >= rollout.dwell_s and requests >= rollout.min_requests
            if done and verdict.health is Health.HEALTHY:
                last = rollout.stage_index == len(rollout.stages) - 1
                reason = f"{requests} requests in {elapsed:.0f} s at {rollout.percent:g} %; {verdict.reason}"
                return (Trigger.PROMOTE if last else Trigger.ADVANCE), reason
        case State.PROMOTED:
            if elapsed >= rollout.watch_s:
                return Trigger.CLOSE, f"watched for {elapsed:.0f} s after promotion; {verdict.reason}"
        case State.PAUSED | State.ROLLED_BACK:
            pass
        case _:
            assert_never(rollout.state)
    return None


def act(rollout: Rollout, action: Action, reason: str, now: float, evidence: Evidence) -> Step:
    """An operator's action, which asks neither dwell nor evidence.

    `evidence` is what is known now: the next stage counts from it, and the event records it. `ConflictError`
    when the rollout's state does not allow the action.
    """
    match action:
        case Action.PAUSE:
            trigger = Trigger.PAUSE
        case Action.RESUME:
            trigger = Trigger.RESUME
        case Action.ADVANCE:
            at_last = rollout.state is State.CANARY and rollout.stage_index == len(rollout.stages) - 1
            trigger = Trigger.PROMOTE if at_last else Trigger.ADVANCE
            if rollout.state is State.PROMOTED:
                trigger = Trigger.CLOSE  # the watch is the last thing that can be cut short
        case Action.PROMOTE:
            trigger = Trigger.PROMOTE
        case Action.ROLLBACK:
            trigger = Trigger.ROLLBACK
        case _:
            assert_never(action)
    if not rollout.is_open or (rollout.state, trigger) not in TRANSITIONS:
        state = rollout.state if rollout.is_open else f"{rollout.state} and over"
        raise ConflictError(f"rollout {rollout.id} is {state}: {action} is not possible")
    event = _event(trigger, reason, rollout, evidence, now, action=str(action))
    return _stepped(rollout, (event,), None)


def apply(rollout: Rollout, event: Event) -> Rollout:
    """The rollout after an event. `ConflictError` for one that the table does not allow in this state."""
    trigger = trigger_of(event)
    figures = event.figures
    if trigger is None:
        return replace(rollout, health=Health(str(figures["health"])), reason=event.reason)
    if not rollout.is_open or (rollout.state, trigger) not in TRANSITIONS:
        raise ConflictError(f"rollout {rollout.id} is {rollout.state}: the event {trigger} cannot follow")
    targets = TRANSITIONS[rollout.state, trigger]
    after = replace(rollout, state=targets[0], reason=event.reason)
    requests = int(figures.get("requests", rollout.requests_at_entry))
    pairs = int(figures.get("pairs", rollout.pairs_at_entry))
    entered = replace(after, stage_entered_at=event.at, requests_at_entry=requests, pairs_at_entry=pairs)
    match trigger:
        case Trigger.SHADOW:
            return replace(after, stage_entered_at=event.at)
        case Trigger.ADVANCE:
            return replace(entered, stage_index=rollout.stage_index + 1)
        case Trigger.PAUSE:
            return replace(after, paused_at=event.at)
        case Trigger.RESUME:
            state = targets[0] if rollout.stage_index < 0 else targets[1]
            since = event.at - rollout.elapsed_s(event.at)
            return replace(after, state=state, paused_at=None, stage_entered_at=since)
        case Trigger.PROMOTE:
            return replace(entered, paused_at=None)
        case Trigger.ROLLBACK:
            return replace(after, paused_at=None, ended_at=event.at)
        case Trigger.CLOSE:
            return replace(after, ended_at=event.at)
        case _:
            assert_never(trigger)


def replay(rollout: Rollout, events: Iterable[Event]) -> Rollout:
    """The state that a log of events leads to, from the rollout as it was started."""
    for event in events:
        rollout = apply(rollout, event)
    return rollout


def _event(kind: str, reason: str, rollout: Rollout, evidence: Evidence, now: float, **more: Figure) -> Event:
    figures = evidence.figures()
    figures["requests_in_stage"] = rollout.requests_in_stage(evidence)
    figures |= {"state": str(rollout.state), "percent": rollout.percent, "elapsed_s": rollout.elapsed_s(now)}
    return Event(now, str(kind), reason, figures | more)


def _stepped(rollout: Rollout, events: tuple[Event, ...], verdict: Verdict | None) -> Step:
    before, commands = rollout, []
    for event in events:
        rollout = apply(before, event)
        commands += _commands(before, rollout, event)
        before = rollout
    return Step(rollout, tuple(commands), events, verdict)


def _commands(before: Rollout, after: Rollout, event: Event) -> list[Command]:
    """What an event asks the world to do."""
    match trigger_of(event):
        case None | Trigger.PAUSE | Trigger.RESUME:
            return []
        case Trigger.SHADOW:
            return [StartShadow(after.candidate)]
        case Trigger.ADVANCE:
            return [SetCanaryPercent(after.candidate, after.percent, after.salt)]
        case Trigger.PROMOTE:
            return [PromoteCandidate(after.candidate, after.production, after.compared)]
        case Trigger.ROLLBACK:
            if before.state is State.PROMOTED:
                return [RestoreProduction(after.candidate, after.production, event.reason)]
            return [DisableCandidate(after.candidate, after.production, event.reason)]
        case Trigger.CLOSE:
            return [EndWatch(after.production)]
