"""`privacy: {drop, hash}`: takes named features out of rows, and out of raw bodies before they are written to the journal.

Where in doubt it removes more rather than less: a name matches an object's member at any depth, so that an echo in a reply does not
leak either; a body that cannot be parsed leaves nothing but the reason. Used by the proxy workers: must never import numpy, and
`redact_body` must never raise.

Names: `ssn` (a member anywhere, a column, a tensor), `user.email` (nested), `x[3]` (an element of a tensor or list), `f3` (the
fourth value of a row without names). Hashing is HMAC-SHA256 (RFC 2104) keyed with the salt, leaf by leaf: the same value gives the
same 16 hexadecimal digits, so joins and drift still work. Null stays null.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

import msgspec

from app.protocols.content import inflate, parse_json
from app.protocols.record import Features, Reason, UnreadableError

Action: TypeAlias = Literal["drop", "hash"] | None

HASH_DIGITS = 16
_MAX_REMEMBERED = 4_096
_MAX_DEPTH = 200
_INDEXED = re.compile(r"(.+)\[(\d{1,9})\]")
_POSITIONAL = re.compile(r"f(\d{1,9})")
_Named = TypeVar("_Named", list[str], dict[str, Any])


class Redaction:
    """The names to drop and to hash, compiled. An empty one is falsy and changes nothing; a name in both lists is dropped."""

    __slots__ = ("_actions", "_elements", "_nested", "_remembered", "_salt", "positions")

    def __init__(self, drop: Iterable[str] = (), hash: Iterable[str] = (), salt: bytes = b"") -> None:
        self._salt = salt
        self._actions: dict[str, Action] = dict.fromkeys(hash, "hash")
        self._actions.update((name, "drop") for name in drop)
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

    def __bool__(self) -> bool:
        return bool(self._actions)

    def of_member(self, name: str, path: tuple[str, ...] = ()) -> Action:
        """What happens to an object's member, given the names of the objects around it."""
        action = self._actions.get(name)
        if action is not None or name not in self._nested:
            return action
        whole = (*path, name)
        actions = {act for segments, act in self._nested[name] if whole[-len(segments) :] == segments}
        return "drop" if "drop" in actions else ("hash" if actions else None)

    def of_elements(self, name: str) -> dict[int, Action]:
        """Actions on single elements of a named list or tensor."""
        return self._elements.get(name, {})

    def of_feature(self, name: str) -> Action:
        """What happens to a feature by its full name, such as `user.email` or `x[3]`."""
        if name in self._remembered:
            return self._remembered[name]
        action = self._actions.get(name)
        if action is None:
            segments = tuple(name.partition("[")[0].split("."))
            found = {self.of_member(segment, segments[:depth]) for depth, segment in enumerate(segments)}
            action = "drop" if "drop" in found else ("hash" if "hash" in found else None)
        if len(self._remembered) < _MAX_REMEMBERED:
            self._remembered[name] = action
        return action

    def digest(self, value: object) -> Any:
        """The keyed hash of each leaf of a value; null stays null."""
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
        return {name: value for name, value in features.items() if self.of_feature(name) != "drop"}

    def without_dropped(self, named: _Named) -> _Named:
        """A list of names, or a dictionary by name, without the dropped ones."""
        if isinstance(named, dict):
            return {name: value for name, value in named.items() if self.of_feature(name) != "drop"}
        return [name for name in named if self.of_feature(name) != "drop"]


@dataclass(frozen=True, slots=True)
class Redacted:
    """A body that may be written down. `body` is empty with a `reason` when the original could not be taken apart."""

    body: bytes
    reason: Reason | None = None
    content_encoding: str = ""
    """The coding of `body`: a compressed body comes back plain."""
    header_length: int | None = None
    """`Inference-Header-Content-Length` that fits `body`."""


def redact_body(
    body: bytes,
    content_type: str,
    protocol: str,
    redaction: Redaction,
    *,
    content_encoding: str = "",
    header_length: int | None = None,
    truncated: bool = False,
    features_path: str = "$.features",
) -> Redacted:
    """Take the named features out of a raw body, request or reply; never raises.

    Always written anew, even when no name was found: of duplicate keys only the last is parsed, the others must not survive.
    A body that is cut off, not decodable or of a form without names leaves no bytes at all.
    """
    if not redaction or not body:
        return Redacted(body, None, content_encoding, header_length)
    try:
        if truncated:
            raise UnreadableError(Reason.TRUNCATED_REQUEST, "a part of a body cannot be taken apart")
        if protocol == "opaque":
            raise UnreadableError(Reason.UNSUPPORTED_CONTENT_TYPE, "an opaque body has no names")
        plain = inflate(body, content_encoding) if content_encoding else body
        walker = JsonRedactor(redaction, features_path)
        return Redacted(encode_json(walker.document(parse_json(plain, content_type))))
    except UnreadableError as fault:
        return Redacted(b"", fault.reason)
    except RecursionError:
        return Redacted(b"", Reason.TOO_DEEP)
    except Exception:  # a body must neither stop traffic nor leak
        return Redacted(b"", Reason.INTERNAL)


def encode_json(document: Any) -> bytes:
    """JSON text of a document as `content.parse_json` gives it: NaN and infinities stay, lone surrogates stay escaped."""
    try:
        encoded = msgspec.json.encode(document)
    except (UnicodeEncodeError, OverflowError, msgspec.MsgspecError):
        return json.dumps(document).encode("ascii")
    if b"null" in encoded:  # msgspec writes NaN as null
        return json.dumps(document, separators=(",", ":")).encode("ascii")
    return encoded


class JsonRedactor:
    """Walks one parsed document and changes it in place."""

    __slots__ = ("_containers", "_redaction")

    def __init__(self, redaction: Redaction, features_path: str = "$.features") -> None:
        self._redaction = redaction
        last = re.findall(r"[^.\[\]'\"$*]+", features_path)
        self._containers = {"features", "instances", "inputs", *last[-1:]}
        """Members whose lists are rows without names."""

    def document(self, document: Any) -> Any:
        """The redacted document."""
        if type(document) is list and self._redaction.positions:
            self._rows_without_names(document, batch=True)
        return self._walk(document, ())

    def _walk(self, value: Any, path: tuple[str, ...]) -> Any:
        if len(path) > _MAX_DEPTH:
            raise UnreadableError(Reason.TOO_DEEP, "nested too deeply to be redacted")
        if type(value) is list:
            kept = [item for item in value if not self._is_dropped_tensor(item)]
            return [self._walk(item, (*path, "")) if type(item) in _NESTED else item for item in kept]
        if type(value) is not dict:
            return value
        self._named_tensor(value)
        self._columns(value)
        for name in list(value):
            action = self._redaction.of_member(name, tuple(step for step in path if step))
            if action == "drop":
                del value[name]
            elif action == "hash":
                value[name] = self._redaction.digest(value[name])
            else:
                inner = value[name]
                if type(inner) is list:
                    self._elements(inner, self._redaction.of_elements(name))
                    if name in self._containers and self._redaction.positions:
                        self._rows_without_names(inner, batch=name != "features")
                if type(inner) in _NESTED:
                    value[name] = self._walk(inner, (*path, name))
        return value

    def _is_dropped_tensor(self, item: Any) -> bool:
        return (
            type(item) is dict
            and type(item.get("name")) is str
            and ("data" in item or "shape" in item)
            and self._redaction.of_feature(item["name"]) == "drop"
        )

    def _named_tensor(self, tensor: dict[str, Any]) -> None:
        """A tensor object `{name, shape, datatype, data}` of the Open Inference Protocol."""
        name, data = tensor.get("name"), tensor.get("data")
        if type(name) is not str or type(data) is not list:
            return
        if self._redaction.of_feature(name) == "hash":
            tensor["data"] = self._redaction.digest(data)
            tensor["datatype"] = "BYTES"
            return
        actions = self._redaction.of_elements(name)
        if not actions:
            return
        if data and type(data[0]) is list:
            self._elements(data, actions)
            return
        width = _row_width(tensor.get("shape"), len(data))
        for position in range(len(data)):
            self._replace(data, position, actions.get(position % width))

    def _columns(self, frame: dict[str, Any]) -> None:
        """A pandas split frame `{columns, data}`."""
        columns, data = frame.get("columns"), frame.get("data")
        if type(columns) is not list or type(data) is not list:
            return
        for position, column in enumerate(columns):
            action = self._redaction.of_feature(column if type(column) is str else json.dumps(column))
            if action is not None:
                for row in data:
                    if type(row) is list:
                        self._replace(row, position, action)

    def _elements(self, values: list[Any], actions: Mapping[int, Action]) -> None:
        """Single elements of a named list, in its innermost lists: they are a row each."""
        if not actions:
            return
        if any(type(item) is list for item in values):
            for item in values:
                if type(item) is list:
                    self._elements(item, actions)
            return
        for position, action in actions.items():
            self._replace(values, position, action)

    def _rows_without_names(self, rows: list[Any], *, batch: bool) -> None:
        """Positions of a row that is a list, or of each row of a batch; a row that nests further loses all of its values."""
        if rows and all(type(item) in _NESTED for item in rows):
            for number, row in enumerate(rows):
                if type(row) is list:
                    if any(type(item) is list for item in row):
                        rows[number] = None
                    else:
                        self._rows_without_names(row, batch=False)
            return
        for position, action in self._redaction.positions.items():
            self._replace(rows, position, action)
        if batch and (action := self._redaction.positions.get(0)) is not None:
            for position in range(1, len(rows)):
                self._replace(rows, position, action)

    def _replace(self, values: list[Any], position: int, action: Action) -> None:
        if action is not None and position < len(values):
            values[position] = None if action == "drop" else self._redaction.digest(values[position])


_NESTED = frozenset((list, dict))


def _row_width(shape: Any, elements: int) -> int:
    """Elements of one row of a flat tensor."""
    rows = shape[0] if type(shape) is list and shape and type(shape[0]) is int and shape[0] > 0 else 1
    return max(elements // int(rows), 1)
