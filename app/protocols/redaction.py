"""The names that `privacy` drops and hashes, compiled, and what happens to a feature, an object's member, a list's element.

Knows names and values only, no bodies (`redact_json`, `privacy`). Must never import numpy: the proxy workers load it.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypeVar

from app.protocols.record import Features

Action: TypeAlias = Literal["drop", "hash"] | None

HASH_DIGITS = 16
_MAX_REMEMBERED = 4_096
_INDEXED = re.compile(r"(.+)\[(\d{1,9})\]")
_POSITIONAL = re.compile(r"f(\d{1,9})")
_Named = TypeVar("_Named", list[str], dict[str, Any])


class Redaction:
    """The names to drop and to hash. An empty one is falsy and changes nothing; a name in both lists is dropped.

    The salt is the key of the hash: whoever knows it can try out values, so it is a secret of the installation.
    """

    __slots__ = ("_actions", "_elements", "_nested", "_remembered", "_salt", "members", "positions")

    def __init__(self, drop: Iterable[str] = (), hash: Iterable[str] = (), salt: bytes = b"") -> None:
        self._salt = salt
        self._actions: dict[str, Action] = dict.fromkeys(hash, "hash")
        self._actions.update(dict.fromkeys(drop, "drop"))
        self._nested: dict[str, list[tuple[tuple[str, ...], Action]]] = {}
        self._elements: dict[str, dict[int, Action]] = {}
        self.positions: dict[int, Action] = {}
        """Actions on rows without names, by position."""
        self._remembered: dict[str, Action] = {}
        for name, action in self._actions.items():
            if match := _INDEXED.fullmatch(name):
                self._elements.setdefault(match[1], {})[int(match[2])] = action
            elif match := _POSITIONAL.fullmatch(name):
                self.positions[int(match[1])] = action
            elif "." in name:
                segments = tuple(name.split("."))
                self._nested.setdefault(segments[-1], []).append((segments, action))
        self.members = frozenset((*self._actions, *self._nested, *self._elements))
        """Names of members that need a closer look; all others stay as they are."""

    def __bool__(self) -> bool:
        return bool(self._actions)

    def of_member(self, name: str, path: tuple[str, ...] = ()) -> Action:
        """What happens to an object's member, given the names of the members around it."""
        action = self._actions.get(name)
        if action is not None or name not in self._nested:
            return action
        whole = (*path, name)
        actions = {act for segments, act in self._nested[name] if whole[-len(segments) :] == segments}
        return _stronger(actions)

    def of_elements(self, name: str) -> dict[int, Action]:
        """Actions on single elements of a named list or tensor."""
        return self._elements.get(name, {})

    def of_field(self, name: str) -> Action:
        """What happens to a header field, whose name has no case (RFC 9110, section 5.1)."""
        wanted = name.lower()
        return _stronger({action for known, action in self._actions.items() if known.lower() == wanted})

    def of_place(self, steps: Sequence[str | int | None]) -> Action:
        """What happens to the value at a JSON path's place: a name on the way covers all that is inside it."""
        actions: set[Action] = set()
        names: tuple[str, ...] = ()
        for step in steps:
            if isinstance(step, str):
                actions.add(self.of_member(step, names))
                names = (*names, step)
            elif step is not None:  # of a named list, or of a row without names
                actions.add(self.of_elements(names[-1]).get(step) if names else None)
                actions.add(self.positions.get(step))
        return _stronger(actions)

    def of_feature(self, name: str) -> Action:
        """What happens to a feature by its full name, such as `user.email` or `x[3]`. Spaces around a name hide nothing."""
        if name in self._remembered:
            return self._remembered[name]
        action = self._actions.get(name) or self._actions.get(name.strip())
        if action is None:
            segments = tuple(segment.strip() for segment in name.partition("[")[0].split("."))
            action = _stronger(
                {self.of_member(segment, segments[:depth]) for depth, segment in enumerate(segments)}
            )
        if len(self._remembered) < _MAX_REMEMBERED:
            self._remembered[name] = action
        return action

    def digest(self, value: object) -> Any:
        """The keyed hash of each leaf of a value, HMAC-SHA256 (RFC 2104) cut to 16 hexadecimal digits; null stays null."""
        if value is None:
            return None
        if isinstance(value, list):
            return [self.digest(item) for item in value]
        if isinstance(value, dict):
            return {key: self.digest(item) for key, item in value.items()}
        if isinstance(value, float) and value - value != 0.0:
            return None
        text = value if isinstance(value, str) else json.dumps(value)
        return hmac.digest(self._salt, text.encode("utf-8", "surrogatepass"), "sha256").hex()[:HASH_DIGITS]

    def apply(self, features: Mapping[str, Any]) -> Features:
        """Features without the dropped ones, the hashed ones replaced."""
        kept: Features = {}
        for name, value in features.items():
            action = self.of_feature(name)
            if action is None:
                kept[name] = value
            elif action == "hash":
                kept[name] = self.digest(value)
        return kept

    def drop_only(self, features: Mapping[str, Any]) -> Features:
        """Features without the dropped ones, for bodies whose values were hashed before they were journaled."""
        return self.without_dropped(dict(features))

    def without_dropped(self, named: _Named) -> _Named:
        """A list of names, or a dictionary by name, without the dropped ones."""
        if isinstance(named, dict):
            return {name: value for name, value in named.items() if self.of_feature(name) != "drop"}
        return [name for name in named if self.of_feature(name) != "drop"]


def _stronger(actions: set[Action]) -> Action:
    return "drop" if "drop" in actions else ("hash" if "hash" in actions else None)
