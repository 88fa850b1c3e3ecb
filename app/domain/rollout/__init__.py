"""A candidate's way through shadow and canary stages: a table of states, one pure step, and its verdict.

    rollout = start(id=…, candidate="v2", production="v1", stages=(5, 25, 100), …, now=now)
    result = step(rollout, evidence, now)            # every second
    result = act(rollout, Action.PAUSE, "reason", now, evidence)

Store `result.rollout` and `result.events`, then carry out `result.commands`: `flags_after` says how they
change the flags.
"""

from app.domain.rollout.flags import flags_after
from app.domain.rollout.machine import Action, act, apply, replay, start, step, verdict_on
from app.domain.rollout.states import TRANSITIONS, State, Trigger, diagram
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
)
from app.domain.rollout.verdict import Alone, Evidence, Figure, GuardMode, Health, Verdict, judge

__all__ = [
    "TRANSITIONS",
    "VERDICT",
    "Action",
    "Alone",
    "Command",
    "DisableCandidate",
    "EndWatch",
    "Event",
    "Evidence",
    "Figure",
    "GuardMode",
    "Health",
    "PromoteCandidate",
    "RestoreProduction",
    "Rollout",
    "SetCanaryPercent",
    "StartShadow",
    "State",
    "Step",
    "Trigger",
    "Verdict",
    "act",
    "apply",
    "diagram",
    "flags_after",
    "judge",
    "replay",
    "start",
    "step",
    "verdict_on",
]
