"""What a command makes of a model's flags. Pure: the controller stores the result by compare-and-set."""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from app.domain.flags import Flags, without_candidate
from app.domain.rollout.values import (
    Command,
    DisableCandidate,
    EndWatch,
    PromoteCandidate,
    RestoreProduction,
    SetCanaryPercent,
    StartShadow,
)


def flags_after(flags: Flags, command: Command, rollout_id: str) -> Flags:
    """The flags that carry out a command, at the same revision; twice is the same as once."""
    match command:
        case StartShadow(candidate):
            shadows = tuple(v for v in flags.shadow_versions if v != candidate)
            return replace(
                flags, shadow_enabled=True, shadow_versions=(*shadows, candidate), rollout_id=rollout_id
            )
        case SetCanaryPercent(candidate, percent, salt):
            share = replace(flags, candidate=candidate, canary_percent=percent, canary_enabled=True)
            return replace(share, salt=salt, rollout_id=rollout_id)
        case DisableCandidate():
            return without_candidate(flags)
        case PromoteCandidate(candidate, former, compared):
            shadows = tuple(v for v in flags.shadow_versions if v not in (candidate, former))
            if compared and flags.shadow_enabled:  # shadows that somebody switched off stay off
                shadows = (*shadows, former)
            promoted = replace(without_candidate(flags), production=candidate, shadow_versions=shadows)
            return replace(promoted, rollout_id=rollout_id)  # also during the watch
        case RestoreProduction(_, production, _):
            return _without_shadow(replace(without_candidate(flags), production=production), production)
        case EndWatch(former):
            return _without_shadow(replace(flags, rollout_id=""), former)
        case _:
            assert_never(command)


def _without_shadow(flags: Flags, version: str) -> Flags:
    return replace(flags, shadow_versions=tuple(v for v in flags.shadow_versions if v != version))
