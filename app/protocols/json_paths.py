"""A small JSONPath subset (RFC 9535 names): `$`, `.name`, `['name']`, `[0]`, `[-1]`, `[*]`, compiled once and applied to parsed JSON.

No filters, slices or recursive descent: a path is a fixed number of steps, so that looking costs the same for any document.
Used by the proxy workers for JSON routing keys; must never import numpy or raise on any body.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import msgspec

from app.errors import InvalidError
from app.protocols.content import MAX_INT_DIGITS, parse_json
from app.protocols.record import UnreadableError

Step: TypeAlias = str | int | None
"""A member name, an index, or None for `[*]`."""


class _Missing:
    __slots__ = ()

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()
"""What a path gives where the document has no such place; JSON null is a found value."""

_STEP = re.compile(
    r"""\.(?P<name>[^\s.\[\]'"*$]+)            # .name
      | \.\*                                   # .*
      | \[\s*(?P<index>-?\d{1,9})\s*\]         # [0]
      | \[\s*\*\s*\]                           # [*]
      | \[\s*'(?P<single>(?:[^'\\]|\\.)*)'\s*\]
      | \[\s*"(?P<double>(?:[^"\\]|\\.)*)"\s*\]""",
    re.VERBOSE,
)
_PLAIN_NAME = re.compile(r"[^\x00-\x1f\"\\]*")
"""Member names that msgspec can match without unescaping."""
_MAX_STEPS = 32
_MAX_TOLERATED = 1024 * 1024
"""Bytes of a body that is not strictly JSON, yet searched for a key: a worker must not stand still for one odd request."""
_WIDEST_KEY = 10**MAX_INT_DIGITS


class JsonPath:
    """A compiled path. `find` gives the place's value or `MISSING`; with a wildcard (`many`) the list of all matches."""

    __slots__ = ("find", "many", "steps", "text")

    def __init__(self, text: str, steps: tuple[Step, ...]) -> None:
        self.text = text
        self.steps = steps
        self.many = None in steps
        self.find: Callable[[Any], Any] = _finder(steps)

    def __repr__(self) -> str:
        return f"JsonPath({self.text!r})"


def compile_path(text: str) -> JsonPath:
    """Compile a path; raises `InvalidError`, with what is wrong where, for anything outside the subset."""
    if not text.startswith("$"):
        raise InvalidError(f"{text!r} is no JSON path: it must begin with '$', such as '$.features'")
    steps: list[Step] = []
    at = 1
    while at < len(text):
        match = _STEP.match(text, at)
        if match is None:
            raise InvalidError(
                f"{text!r} cannot be read from {text[at:]!r} on: a path is made of .name, ['name'], [0] and [*]"
            )
        steps.append(_step(match))
        at = match.end()
    if len(steps) > _MAX_STEPS:
        raise InvalidError(f"{text!r} has {len(steps)} steps; at most {_MAX_STEPS} are allowed")
    return JsonPath(text, tuple(steps))


def _step(match: re.Match[str]) -> Step:
    if (name := match["name"]) is not None:
        return name
    if (index := match["index"]) is not None:
        return int(index)
    quoted = match["single"] if match["single"] is not None else match["double"]
    return None if quoted is None else re.sub(r"\\(.)", r"\1", quoted)


def _finder(steps: tuple[Step, ...]) -> Callable[[Any], Any]:
    if not steps:
        return lambda document: document
    if len(steps) == 1 and isinstance(steps[0], str):
        name = steps[0]
        return lambda document: document.get(name, MISSING) if type(document) is dict else MISSING
    if None in steps:
        return lambda document: _find_all(steps, document)
    return lambda document: _find_one(steps, document)


def _find_one(steps: tuple[Step, ...], document: Any) -> Any:
    value = document
    for step in steps:
        if isinstance(step, str):
            if type(value) is not dict or step not in value:
                return MISSING
            value = value[step]
        else:
            try:
                value = value[step] if type(value) is list and step is not None else MISSING
            except IndexError:
                return MISSING
            if value is MISSING:
                return MISSING
    return value


def _find_all(steps: tuple[Step, ...], document: Any) -> Any:
    """Follow every branch of the wildcards; places that lack a later step count as None, so that rows stay aligned."""
    cut = steps.index(None)
    head = _find_one(steps[:cut], document)
    if type(head) is dict:
        head = list(head.values())
    if type(head) is not list:
        return MISSING
    rest = steps[cut + 1 :]
    if not rest:
        return head
    if None in rest:
        found: list[Any] = []
        for item in head:
            inner = _find_all(rest, item)
            if inner is not MISSING:
                found.extend(inner)
        return found
    values = [_find_one(rest, item) for item in head]
    if all(value is MISSING for value in values):
        return MISSING
    return [None if value is MISSING else value for value in values]


def compile_key_path(text: str) -> Callable[[bytes], str | None]:
    """Compile a routing key path such as `$.user_id` to a function from a request body to the key, or None when it has none.

    Strings are taken as they are, integers and booleans as their JSON text, so that `7` and `"7"` are one key; an integral float
    counts as that integer. Null, empty strings, lists and objects are no key; a body beyond 1 MiB that is not strictly JSON (bare NaN,
    bad UTF-8) has none. Raises `InvalidError` for a path with a wildcard.
    """
    path = compile_path(text)
    if path.many:
        raise InvalidError(f"{text!r} has a wildcard; a routing key is one value")
    quick = _quick_reader(path)
    find = path.find

    def read_tolerantly(body: bytes) -> str | None:
        try:
            return _key_text(find(parse_json(body, "", _MAX_TOLERATED)))
        except UnreadableError:
            return None

    if quick is None:
        return read_tolerantly
    decode, names = quick

    def read(body: bytes) -> str | None:
        try:
            value: Any = decode(body)
        except RecursionError:
            return None
        except (msgspec.DecodeError, UnicodeDecodeError):
            return read_tolerantly(body)
        for name in names:
            value = getattr(value, name)
            if value is None:
                return None
        return _key_text(value)

    return read


def _quick_reader(path: JsonPath) -> tuple[Callable[[bytes], Any], list[str]] | None:
    """A decoder that builds only the members on the way to the key, and skips the rest of the document unparsed."""
    if not path.steps or not all(
        isinstance(step, str) and _PLAIN_NAME.fullmatch(step) for step in path.steps
    ):
        return None
    holder: Any = str | int | float | bool | None
    names = [f"step_{number}" for number in range(len(path.steps))]
    for name, step in zip(reversed(names), reversed(path.steps), strict=True):
        holder = msgspec.defstruct("KeyHolder", [(name, holder | None, None)], rename={name: str(step)})
    return msgspec.json.Decoder(holder).decode, names


def _key_text(value: object) -> str | None:
    if type(value) is str:
        return value or None
    if value is True or value is False:
        return "true" if value else "false"
    if type(value) is float:
        if value - value != 0.0:
            return None
        return str(int(value)) if value.is_integer() and abs(value) < 2**63 else repr(value)
    return str(value) if type(value) is int and abs(value) < _WIDEST_KEY else None
