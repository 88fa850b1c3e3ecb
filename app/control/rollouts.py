"""An open rollout as the controller holds it: the domain's state, the evidence so far, and how both are
stored. No I/O.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from math import isfinite
from typing import Any

import msgspec

from app.control.evidence import TrialEvidence
from app.control.ports import Row
from app.domain.flags import Flags
from app.domain.model import Model
from app.domain.rollout import (
    Command,
    DisableCandidate,
    EndWatch,
    Event,
    Evidence,
    Figure,
    PromoteCandidate,
    RestoreProduction,
    Rollout,
    SetCanaryPercent,
    StartShadow,
    State,
    flags_after,
    verdict_on,
)


@dataclass(slots=True)
class Trial:
    """`carried_out` is false between the moment an event is stored and the moment its commands are in the
    flags.
    """

    rollout: Rollout
    evidence: TrialEvidence
    carried_out: bool = True
    events: int = 0  # stored so far: whoever has more of them knows more
    tripped: bool = False  # a guard trip is being dealt with
    unsaved: list[Event] = field(default_factory=list)  # while the store is down
    saved_at: float = float("-inf")

    def look(self) -> Evidence:
        return self.evidence.figures()

    def row(self) -> Row:
        """As the store keeps it: plain JSON, times in seconds since the epoch."""
        return {
            **asdict(self.rollout),
            "percent": self.rollout.percent,
            "document": {
                "rollout": asdict(self.rollout),
                "evidence": self.evidence.state(),
                "carried_out": self.carried_out,
                "events": self.events,
            },
        }

    def view(self, now: float) -> Row:
        """For people and programs: times as times, the verdict and evidence of this moment."""
        evidence = self.look()
        snapshot = self.evidence.snapshot()
        verdict = verdict_on(self.rollout, evidence, now)
        facts = asdict(self.rollout)
        times = ("started_at", "ended_at", "stage_entered_at", "paused_at")
        return {
            **facts,
            **{name: None if facts[name] is None else _time(facts[name]) for name in times},
            "open": self.rollout.is_open,
            "percent": self.rollout.percent,
            "requests_in_stage": self.rollout.requests_in_stage(evidence),
            "elapsed_s": self.rollout.elapsed_s(now),
            "verdict": {"health": str(verdict.health), "reason": verdict.reason}
            if self.rollout.is_open
            else None,
            "evidence": {
                **evidence.figures(),
                "counts": dict(snapshot.counts),
                "metrics": [
                    {"name": one.name, "part": one.part, "log_e": one.log_e} for one in snapshot.metrics
                ],
                "latency_margins": snapshot.latency_margins,
                "order_effect_pairs": snapshot.order_effect_pairs,
            },
        }

    @classmethod
    def from_row(cls, row: Row, model: Model, now: float) -> Trial:
        """`ValueError` (also msgspec's) when the row holds something else."""
        document = row["document"]
        rollout = msgspec.convert(document["rollout"], Rollout)
        evidence = TrialEvidence.from_state(
            document["evidence"], model, rollout.candidate, rollout.production, now
        )
        return cls(rollout, evidence, bool(document["carried_out"]), int(document["events"]))


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def event_rows(events: Sequence[Event]) -> list[Row]:
    """As the store keeps them."""
    return [
        {"at": event.at, "kind": event.kind, "reason": event.reason, "figures": _json(event.figures)}
        for event in events
    ]


def event_view(row: Row) -> Row:
    """For people and programs: the time as a time."""
    return {**row, "at": _time(row["at"]) if isinstance(row["at"], (int, float)) else row["at"]}


def _json(figures: Mapping[str, Figure]) -> dict[str, Figure]:
    """JSON has no infinities: a figure that is none is left out."""
    return {name: value for name, value in figures.items() if not isinstance(value, float) or isfinite(value)}


def command_of(rollout: Rollout, reason: str = "") -> Command | None:
    """What puts the present state in force; None when there is nothing to put. Carrying it out again
    changes nothing.
    """
    in_canary = rollout.stage_index >= 0
    match rollout.state:
        case State.SHADOWING:
            return StartShadow(rollout.candidate)
        case State.CANARY:
            return SetCanaryPercent(rollout.candidate, rollout.percent, rollout.salt)
        case State.PAUSED:
            return (
                SetCanaryPercent(rollout.candidate, rollout.percent, rollout.salt)
                if in_canary
                else StartShadow(rollout.candidate)
            )
        case State.PROMOTED if rollout.is_open:
            return PromoteCandidate(rollout.candidate, rollout.production, rollout.compared)
        case State.PROMOTED:
            return EndWatch(rollout.production)
        case State.ROLLED_BACK:
            return DisableCandidate(rollout.candidate, rollout.production, reason)
        case State.PENDING:
            return None


def flags_due(flags: Flags, command: Command, rollout_id: str) -> Flags:
    """The flags as they are after a command. Letting a candidate in again (a resume) also takes a ban on
    it back.
    """
    wanted = flags_after(flags, command, rollout_id)
    if isinstance(command, SetCanaryPercent):
        wanted = replace(
            wanted, disabled_versions=tuple(v for v in wanted.disabled_versions if v != command.candidate)
        )
    return wanted


def changes(before: Flags, after: Flags) -> dict[str, Any]:
    """What differs, as a patch. The salt goes with the candidate, lest the flags service make one."""
    old, new = asdict(before), asdict(after)
    patch = {
        name: value for name, value in new.items() if value != old[name] and name not in ("model", "revision")
    }
    return {**patch, "salt": after.salt} if "candidate" in patch else patch


def pair_share(rollout: Rollout, model: Model, flags: Flags) -> float:
    """Which part of its answers is to be compared with the former production's, once the candidate answers everything."""
    control = model.canary.control
    if rollout.production in flags.disabled_versions:
        return 0.0
    if rollout.state is not State.PROMOTED:
        return min(control.sample, control.max_share)
    shadowed = flags.shadow_enabled and rollout.production in flags.shadow_versions
    return min(model.shadow.sample, control.max_share) if shadowed else 0.0


def takes_back(command: Command) -> bool:
    """True for a command that makes things safer: it does not wait for the store."""
    return isinstance(command, (DisableCandidate, RestoreProduction))


@dataclass(frozen=True, slots=True)
class Departure:
    """Somebody else changed the flags of an open rollout. `ends`: the rollout has lost its object; else it
    pauses.
    """

    reason: str
    ends: bool


def departure(rollout: Rollout, flags: Flags, *, carried_out: bool = True) -> Departure | None:
    """How the flags depart from what this rollout has put in force; None when they agree.

    Before its last command is carried out the flags may still be those of the stage before, but not taken
    from it by hand.
    """
    if rollout.state is State.PENDING:
        return None
    if rollout.state is State.PROMOTED:
        allowed = (rollout.candidate,) if carried_out else (rollout.candidate, rollout.production)
        return (
            None
            if flags.production in allowed
            else Departure(f"production is now {flags.production!r}", ends=True)
        )
    if flags.production != rollout.production:
        return Departure(f"production is now {flags.production!r}", ends=True)
    if flags.candidate not in (None, rollout.candidate):
        return Departure(f"the candidate is now {flags.candidate!r}", ends=True)
    if rollout.stage_index < 0:
        shadowed = flags.shadow_enabled and rollout.candidate in flags.shadow_versions
        return None if shadowed or not carried_out else Departure("the shadow was taken out", ends=False)
    if not carried_out and rollout.stage_index == 0:
        return None
    if flags.candidate is None:
        return Departure("the candidate was taken out", ends=True)
    if not flags.canary_enabled:
        return Departure("the canary was disabled", ends=False)
    if rollout.candidate in flags.disabled_versions:
        return Departure(f"{rollout.candidate!r} was disabled", ends=False)
    if carried_out and flags.canary_percent != rollout.percent:
        return Departure(f"the canary percentage is now {flags.canary_percent:g}", ends=False)
    return None
