"""A model's flags as feature flags that others evaluate: `MODEL.version`, `MODEL.canary_percent`, `MODEL.shadow`.

The version is the one that the router gives to the same key, by the same function. What only one worker or one request
knows (a local guard stop, a forced version) is not part of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from app.domain.flags import Flags
from app.domain.model import Model
from app.domain.routing import NO_BUCKET, assign

Value: TypeAlias = str | float | bool
Reason: TypeAlias = Literal["STATIC", "SPLIT", "DISABLED"]
KINDS = ("version", "canary_percent", "shadow")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One flag for one context. Names and reasons as in OpenFeature's specification, section 1.4 (evaluation details)."""

    key: str
    value: Value
    reason: Reason
    variant: str
    metadata: tuple[tuple[str, Value], ...] = ()


class KeyMissingError(Exception):
    """The version depends on the key, and the context has none."""


def names(model: str) -> Iterator[str]:
    """The flags that a model has."""
    return (f"{model}.{kind}" for kind in KINDS)


def split_name(flag: str) -> tuple[str, str] | None:
    """Model and kind of a flag's name; None when it can be none. Models may have dots in their names."""
    model, _, kind = flag.rpartition(".")
    return (model, kind) if model and kind in KINDS else None


def evaluate(model: Model, flags: Flags, kind: str, targeting_key: str | None) -> Evaluation:
    """One flag of a model. `KeyMissingError` when it depends on a key that is not there."""
    match kind:
        case "version":
            return _version(model, flags, targeting_key)
        case "canary_percent":
            return _canary_percent(model, flags)
        case "shadow":
            return _shadow(model, flags)
        case _:
            raise ValueError(f"{kind!r} is no flag of a model")


def routing_key(model: Model, targeting_key: str) -> str:
    """The key as the router reads it. A header or cookie holds the key's UTF-8 bytes, without blanks around them, and the
    router takes each byte for a character.
    """
    if model.routing_key.source in ("header", "cookie"):
        return targeting_key.strip(" \t").encode("utf-8", "surrogatepass").decode("latin-1")
    return targeting_key


def _version(model: Model, flags: Flags, targeting_key: str | None) -> Evaluation:
    key = routing_key(model, targeting_key) if targeting_key else ""
    found = assign(
        production=flags.production,
        candidate=flags.candidate,
        canary_percent=flags.canary_percent,
        canary_enabled=flags.canary_enabled,
        disabled_versions=flags.disabled_versions,
        key=key,
        salt=flags.salt,
    )
    reason: Reason = "SPLIT"
    if found.bucket == NO_BUCKET:
        reason = "DISABLED" if _is_withheld(flags) else "STATIC"
    elif not key:
        raise KeyMissingError
    metadata: list[tuple[str, Value]] = [
        ("role", found.role),
        ("why", found.reason),
        ("revision", flags.revision),
        ("sticky", model.routing_key.source != "prediction_id"),
    ]
    if found.bucket != NO_BUCKET:
        metadata.append(("bucket", found.bucket))
    if flags.rollout_id:
        metadata.append(("rollout", flags.rollout_id))
    return Evaluation(f"{model.name}.version", found.version, reason, found.version, tuple(metadata))


def _is_withheld(flags: Flags) -> bool:
    """Whether there is a candidate that is switched off."""
    return flags.candidate is not None and (
        not flags.canary_enabled or flags.candidate in flags.disabled_versions
    )


def _canary_percent(model: Model, flags: Flags) -> Evaluation:
    off = flags.candidate is None or _is_withheld(flags)
    return Evaluation(
        f"{model.name}.canary_percent",
        0.0 if off else flags.canary_percent,
        "DISABLED" if _is_withheld(flags) else "STATIC",
        "off" if off else "on",
        (("candidate", flags.candidate or ""), ("revision", flags.revision)),
    )


def _shadow(model: Model, flags: Flags) -> Evaluation:
    shadows = [name for name in flags.shadow_versions if name not in flags.disabled_versions]
    on = flags.shadow_enabled and bool(shadows)
    return Evaluation(
        f"{model.name}.shadow",
        on,
        "STATIC" if flags.shadow_enabled else "DISABLED",
        "on" if on else "off",
        (("versions", ",".join(shadows)), ("revision", flags.revision)),
    )
