"""What a change of flags towards safety is, and how one is replayed or repaired. Pure: flags in, flags
out.
"""

from __future__ import annotations

from dataclasses import replace

from app.control.last_known import PendingChange
from app.domain.flags import Flags, faults
from app.domain.model import Model


def towards_safety(before: Flags, after: Flags) -> bool:
    """True when `after` only takes traffic away from versions other than production."""
    return (
        after.production == before.production
        and after.candidate in (before.candidate, None)
        and after.canary_percent <= before.canary_percent
        and after.canary_enabled <= before.canary_enabled
        and after.shadow_enabled <= before.shadow_enabled
        and set(after.shadow_versions) <= set(before.shadow_versions)
        and set(after.disabled_versions) >= set(before.disabled_versions)
        and after.salt == before.salt
        and after.rollout_id in (before.rollout_id, "")
    )


def replayed(change: PendingChange, onto: Flags) -> Flags:
    """The safety change applied to what the store holds now: never gives traffic back that someone took away
    meanwhile.

    A canary of another candidate, set by somebody else meanwhile, is not this change's business.
    """
    before, after = change.before, change.after
    disabled = [
        v for v in after.disabled_versions if v not in before.disabled_versions and v != onto.production
    ]
    result = replace(
        onto,
        shadow_enabled=onto.shadow_enabled and (after.shadow_enabled or not before.shadow_enabled),
        shadow_versions=tuple(
            v for v in onto.shadow_versions if v in after.shadow_versions or v not in before.shadow_versions
        ),
        disabled_versions=tuple(dict.fromkeys((*onto.disabled_versions, *disabled))),
    )
    if before.production != after.production and onto.production == before.production:
        result = replace(result, production=after.production)  # a promotion taken back
    if onto.candidate != before.candidate:
        return result
    return replace(
        result,
        candidate=after.candidate,
        canary_percent=min(onto.canary_percent, after.canary_percent),
        canary_enabled=onto.canary_enabled and (after.canary_enabled or not before.canary_enabled),
        rollout_id=onto.rollout_id if after.rollout_id else "",
    )


def servable(flags: Flags, model: Model) -> Flags:
    """These flags, less what the model no longer has: a version that vanished from the file must not stop the
    others.
    """
    names = frozenset(v.name for v in model.versions)
    if not faults(flags, names):
        return flags
    production = flags.production if flags.production in names else model.production
    candidate = flags.candidate if flags.candidate in names and flags.candidate != production else None
    return replace(
        flags,
        production=production,
        candidate=candidate,
        canary_percent=flags.canary_percent if candidate and 0.0 <= flags.canary_percent <= 100.0 else 0.0,
        canary_enabled=flags.canary_enabled and candidate is not None,
        shadow_versions=tuple(v for v in flags.shadow_versions if v in names),
        disabled_versions=tuple(v for v in flags.disabled_versions if v != production),
    )
