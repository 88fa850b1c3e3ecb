"""A model's flags: what an operator or the controller may change while the gateway runs. A frozen value with a revision."""

from __future__ import annotations

from dataclasses import dataclass, replace

from app.domain.model import Model


@dataclass(frozen=True, slots=True)
class Flags:
    """Revision 0 is the file's; each change adds one. `salt` and `rollout_id` belong to the open rollout and are set with it."""

    model: str
    revision: int
    production: str
    candidate: str | None = None
    canary_percent: float = 0.0
    canary_enabled: bool = False
    shadow_enabled: bool = True
    shadow_versions: tuple[str, ...] = ()
    disabled_versions: tuple[str, ...] = ()
    salt: str = ""
    rollout_id: str = ""


def initial(model: Model) -> Flags:
    """The flags of a model that nobody has changed yet: production only, the file's shadows."""
    return Flags(
        model=model.name,
        revision=0,
        production=model.production,
        shadow_versions=model.shadow_versions,
        salt=model.name,
    )


def faults(flags: Flags, versions: frozenset[str]) -> list[str]:
    """What is wrong with these flags for a model with these versions; empty when they can be served."""
    found: list[str] = []
    named = [("production", flags.production), *(("shadow_versions", v) for v in flags.shadow_versions)]
    if flags.candidate is not None:
        named.append(("candidate", flags.candidate))
    found += [
        f"{key}: {name!r} is no version of {flags.model!r}; register it first"
        for key, name in named
        if name not in versions
    ]
    if not 0.0 <= flags.canary_percent <= 100.0:  # also refuses NaN
        found.append(f"canary_percent: {flags.canary_percent} is not between 0 and 100")
    if flags.production in flags.disabled_versions:
        found.append(f"disabled_versions: {flags.production!r} is production; name another production first")
    if flags.candidate is not None and flags.candidate == flags.production:
        found.append("candidate: is already production; name another version or null")
    return found


def without_candidate(flags: Flags) -> Flags:
    """The same flags with all traffic on production: a rollback, or a start with nothing known."""
    return replace(flags, candidate=None, canary_percent=0.0, canary_enabled=False, rollout_id="")
