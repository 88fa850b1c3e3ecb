"""A rollout and what comes out of a step: events that record it and commands that carry it out.

Frozen values, JSON-ready; nothing here decides anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from app.domain.rollout.states import State, Trigger
from app.domain.rollout.verdict import Alone, Evidence, Figure, GuardMode, Health, Verdict

VERDICT = "verdict"  # kind of the event that records a change of verdict; every other kind is a trigger


@dataclass(frozen=True, slots=True)
class Rollout:
    """A candidate's way to production.

    Only `machine.apply` of an event changes it: the log of events is the state.
    """

    id: str
    model: str
    candidate: str
    production: str  # the version that is production while the rollout begins, kept ready until it ends
    stages: tuple[float, ...]  # percent, rising
    dwell_s: float
    min_requests: int
    salt: str
    started_at: float  # seconds since the epoch, as all times here
    watch_s: float = 3600.0
    shadow_dwell_s: float = 0.0  # both 0: no shadowing before the first stage
    shadow_min_requests: int = 0
    guard_mode: GuardMode = GuardMode.ENFORCE_IF_WORSE
    stale_s: float = 300.0  # silence of the candidate that counts as no data
    compared: bool = True  # whether requests may be copied to the former production during the watch
    min_labels: int = 0  # mature ones of the candidate before it leaves its shadow, and before it is promoted
    state: State = State.PENDING
    stage_index: int = -1  # of `stages`; -1 before the first
    stage_entered_at: float = 0.0  # moved on by the time spent paused
    requests_at_entry: int = 0  # the candidate's count when the stage began
    pairs_at_entry: int = 0  # of the candidate and the former production, as well
    paused_at: float | None = None
    health: Health = Health.NO_DATA  # of the last recorded verdict
    reason: str = ""  # of the last event
    ended_at: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether anything can still happen. One open rollout a model."""
        return self.ended_at is None

    @property
    def percent(self) -> float:
        """The canary share that is due now, in percent of requests."""
        in_canary = self.state in (State.CANARY, State.PAUSED) and self.stage_index >= 0
        return self.stages[self.stage_index] if in_canary else 0.0

    @property
    def labels_due(self) -> int:
        """How many mature labels the candidate needs before the next step up: none between the first stages."""
        last = self.stage_index == len(self.stages) - 1
        return (
            self.min_labels if self.state is State.SHADOWING or (self.state is State.CANARY and last) else 0
        )

    def elapsed_s(self, now: float) -> float:
        """Time spent in this stage, pauses left out; never negative, whatever the clock does."""
        return max((now if self.paused_at is None else self.paused_at) - self.stage_entered_at, 0.0)

    def requests_in_stage(self, evidence: Evidence) -> int:
        """The candidate's answers that count for this stage: to clients, or to mirrored requests while
        shadowing.
        """
        if self.stage_index < 0 and self.state is not State.PROMOTED:
            return evidence.shadow_requests
        return max(evidence.requests - self.requests_at_entry, 0)

    def alone(self, evidence: Evidence) -> Alone | None:
        """Set once the candidate answers everything: at 100 %, and while it is watched."""
        watched = self.state is State.PROMOTED
        if not watched and self.percent < 100.0:
            return None
        return Alone(self.production, watched, max(evidence.pairs - self.pairs_at_entry, 0))


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, with the figures that decided it, enough to decide it again."""

    at: float
    kind: str  # a Trigger, or "verdict"
    reason: str
    figures: Mapping[str, Figure] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StartShadow:
    """Mirror requests to the candidate."""

    candidate: str


@dataclass(frozen=True, slots=True)
class SetCanaryPercent:
    """Let the candidate answer this share.

    The salt is the rollout's own, so that not always the same users are first.
    """

    candidate: str
    percent: float
    salt: str


@dataclass(frozen=True, slots=True)
class DisableCandidate:
    """All traffic to production, at once."""

    candidate: str
    production: str
    reason: str


@dataclass(frozen=True, slots=True)
class PromoteCandidate:
    """The candidate becomes production; `former` stays registered and ready.

    `compared`: the former gets copies of requests during the watch, which keeps it warm and makes pairs of evidence.
    """

    candidate: str
    former: str
    compared: bool = True


@dataclass(frozen=True, slots=True)
class RestoreProduction:
    """After promotion: `production` takes all traffic back from the candidate."""

    candidate: str
    production: str
    reason: str


@dataclass(frozen=True, slots=True)
class EndWatch:
    """The rollout is over; `former` need no longer be kept ready."""

    former: str


Command = StartShadow | SetCanaryPercent | DisableCandidate | PromoteCandidate | RestoreProduction | EndWatch


@dataclass(frozen=True, slots=True)
class Step:
    """What a look or an action led to. Store `rollout` with `events` first, then carry out the commands."""

    rollout: Rollout
    commands: tuple[Command, ...] = ()
    events: tuple[Event, ...] = ()
    verdict: Verdict | None = None


def trigger_of(event: Event) -> Trigger | None:
    """The trigger that an event records; None for a mere change of verdict."""
    return None if event.kind == VERDICT else Trigger(event.kind)
