"""The only reader of the environment: `GATEWAY_SECTION__KEY=value` overrides a key of the file.

Names are matched without regard to case, and `_` in a name stands for any character that a variable cannot
hold: `GATEWAY_MODELS__CREDIT_RISK__PRODUCTION=v2` reaches the model `credit-risk`. Variables without a double
underscore that name no section are left alone: a container platform sets such ones (`GATEWAY_PORT`, …).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from app.config.document import DocumentError, Keys, Tree, scalar
from app.config.reflection import kind, names

PREFIX = "GATEWAY_"
_SEPARATOR = "__"


@dataclass(slots=True)
class Overlay:
    """What the environment changed (path of keys -> variable), and what it could not."""

    origins: dict[Keys, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Client:
    """What the command line takes from the environment when an option is not given."""

    url: str | None
    token: str | None
    config: str | None
    ca: str | None = None


def client(environ: Mapping[str, str]) -> Client:
    """`GATEWAY_URL`, `GATEWAY_TOKEN`, `GATEWAY_CONFIG` and `GATEWAY_CA`."""
    return Client(*(environ.get(PREFIX + name) or None for name in ("URL", "TOKEN", "CONFIG", "CA")))


def overlay(tree: Tree, environ: Mapping[str, str]) -> Overlay:
    """Write the environment's values into the tree."""
    done = Overlay()
    for variable in sorted(environ):
        if not variable.upper().startswith(PREFIX):
            continue
        segments = variable[len(PREFIX) :].split(_SEPARATOR)
        if len(segments) == 1 and segments[0].lower() not in names(()):
            continue
        keys = _resolve(tree, segments)
        if isinstance(keys, str):
            done.faults.append(f"environment {variable}: {keys}")
            continue
        try:
            value = _value(keys, environ[variable])
        except DocumentError as error:
            done.faults.append(f"environment {variable}: {'.'.join(map(str, keys))}: {error.what}")
            continue
        blocked = _put(tree, keys, value)
        if blocked:
            done.faults.append(f"environment {variable}: {blocked}")
        done.origins[keys] = variable
    return done


def _resolve(tree: Tree, segments: list[str]) -> tuple[str, ...] | str:
    """The keys that a variable's segments mean, or what is wrong with it."""
    keys: tuple[str, ...] = ()
    here: object = tree
    for segment in segments:
        if not segment:
            return "has an empty part between underscores; write GATEWAY_SECTION__KEY"
        present = list(here) if isinstance(here, dict) else []
        fixed = names(keys)
        found = [key for key in (fixed or present) if _plain(key) == _plain(segment)]
        if len(found) > 1:
            return f"{segment} may mean {' or '.join(sorted(found))}; set it in the file instead"
        keys = (*keys, found[0] if found else segment.lower())
        here = here.get(keys[-1]) if isinstance(here, dict) else None
    return keys


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "_", name.lower())


def _value(keys: tuple[str, ...], text: str) -> object:
    """Text for a key that takes text; else as the same characters would be read from the file."""
    wanted = kind(keys)
    if wanted.many and text.lstrip()[:1] not in ("[", "{"):
        parts = [part.strip() for part in text.split(",") if part.strip()]
        return parts if wanted.text else [scalar(part) for part in parts]
    if wanted.text and not wanted.many:
        return None if wanted.nullable and text in ("", "null") else text
    return scalar(text)


def _put(tree: Tree, keys: tuple[str, ...], value: object) -> str | None:
    here = tree
    for key in keys[:-1]:
        inner = here.get(key)
        if inner is None:
            inner = here[key] = {}
        if not isinstance(inner, dict):
            return f"{key} is no section in the file; correct it there"
        here = inner
    here[keys[-1]] = value
    return None
