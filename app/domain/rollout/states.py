"""The states of a rollout and the one table of what may follow what.

The diagram in docs/rollouts.md is drawn from it. Whatever is not in the table does not happen: `machine` asks
the table before each change.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType


class State(StrEnum):
    """Where a rollout stands."""

    PENDING = "pending"  # recorded, nothing in force yet
    SHADOWING = "shadowing"  # the candidate gets copies, clients see nothing of it
    CANARY = "canary"  # the candidate answers the share of the current stage
    PAUSED = "paused"  # as it was, no step up until resumed; evidence can still roll it back
    PROMOTED = "promoted"  # the candidate is production; open until the watch over it ends
    ROLLED_BACK = "rolled_back"  # the former production answers everything


class Trigger(StrEnum):
    """What moves a rollout; also the kind of the event that records it."""

    SHADOW = "shadow"
    ADVANCE = "advance"
    PAUSE = "pause"
    RESUME = "resume"
    PROMOTE = "promote"
    ROLLBACK = "rollback"
    CLOSE = "close"


S, T = State, Trigger
TRANSITIONS: MappingProxyType[tuple[State, Trigger], tuple[State, ...]] = MappingProxyType(
    {
        (S.PENDING, T.SHADOW): (S.SHADOWING,),
        (S.PENDING, T.ADVANCE): (S.CANARY,),
        (S.PENDING, T.ROLLBACK): (S.ROLLED_BACK,),
        (S.SHADOWING, T.ADVANCE): (S.CANARY,),
        (S.SHADOWING, T.PAUSE): (S.PAUSED,),
        (S.SHADOWING, T.PROMOTE): (S.PROMOTED,),
        (S.SHADOWING, T.ROLLBACK): (S.ROLLED_BACK,),
        (S.CANARY, T.ADVANCE): (S.CANARY,),
        (S.CANARY, T.PAUSE): (S.PAUSED,),
        (S.CANARY, T.PROMOTE): (S.PROMOTED,),
        (S.CANARY, T.ROLLBACK): (S.ROLLED_BACK,),
        (S.PAUSED, T.RESUME): (S.SHADOWING, S.CANARY),  # where it was paused
        (S.PAUSED, T.PROMOTE): (S.PROMOTED,),
        (S.PAUSED, T.ROLLBACK): (S.ROLLED_BACK,),
        (S.PROMOTED, T.ROLLBACK): (S.ROLLED_BACK,),
        (S.PROMOTED, T.CLOSE): (S.PROMOTED,),  # the watch is over
    }
)

_LABELS = MappingProxyType(
    {
        (S.PENDING, T.SHADOW): "shadow first",
        (S.PENDING, T.ADVANCE): "to the first stage",
        (S.SHADOWING, T.ADVANCE): "to the first stage: dwell, requests, healthy",
        (S.CANARY, T.ADVANCE): "to the next stage: dwell, requests, healthy",
        (S.CANARY, T.PROMOTE): "last stage: dwell, requests, healthy",
    }
)


def diagram() -> str:
    """The table as a mermaid state diagram; docs/rollouts.md holds exactly this text."""
    lines = ["stateDiagram-v2", "    [*] --> pending: start"]
    for (state, trigger), targets in TRANSITIONS.items():
        label = _LABELS.get((state, trigger), str(trigger))
        if trigger is T.CLOSE:
            lines.append(f"    {state} --> [*]: {label}")
            continue
        lines += [f"    {state} --> {target}: {label}" for target in targets]
    lines.append(f"    {S.ROLLED_BACK} --> [*]")
    return "\n".join(lines)
