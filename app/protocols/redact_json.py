"""Takes named features out of a parsed JSON document, wherever the protocols put them: members, columns, tensors, positions.

Changes the document in place. Removes more rather than less: a name matches a member at any depth.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, TypeAlias

import msgspec

from app.protocols.json_paths import compile_path
from app.protocols.record import Reason, UnreadableError
from app.protocols.redaction import Action, Redaction

_MAX_DEPTH = 200
_NESTED = frozenset((list, dict))
_Path: TypeAlias = tuple[str, ...]

_STRUCTURE: Mapping[str, Mapping[_Path, frozenset[str]]] = {
    "oip": {
        (): frozenset(("inputs", "outputs")),
        ("inputs",): frozenset(("name", "shape", "datatype", "data")),
        ("outputs",): frozenset(("name", "shape", "datatype", "data")),
    },
    "tfserving": {(): frozenset(("instances", "inputs", "examples"))},
    "mlflow": {
        (): frozenset(("dataframe_split", "dataframe_records", "instances", "inputs")),
        ("dataframe_split",): frozenset(("columns", "data")),
    },
}
"""Members that are a protocol's and never a feature, at exactly these places: a feature called `name` must not hide a tensor's name."""
_NO_STRUCTURE: Mapping[_Path, frozenset[str]] = {}
_NOTHING: frozenset[str] = frozenset()


class JsonRedactor:
    """Redacts documents of one model. `features_path` tells which list holds a row without names, beside the protocols' own."""

    __slots__ = ("_containers", "_redaction", "_structure")

    def __init__(
        self, redaction: Redaction, protocol: str = "json", features_path: str = "$.features"
    ) -> None:
        self._redaction = redaction
        self._structure = _STRUCTURE.get(protocol, _NO_STRUCTURE)
        self._containers = _containers(features_path)

    def document(self, document: Any) -> Any:
        """The document without what must not be kept. Raises `UnreadableError` when it is nested too deeply to be sure."""
        if type(document) not in _NESTED:  # one value without a name: a row of it is f0
            rows = [document]
            self._replace(rows, 0, self._redaction.positions.get(0))
            return rows[0]
        if type(document) is list and self._redaction.positions:
            self._unnamed_rows(document, batch=True)
        return self._walk(document, (), 0)

    def _walk(self, value: Any, path: _Path, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise UnreadableError(Reason.TOO_DEEP, "nested too deeply to be redacted")
        if type(value) is list:
            return [
                self._walk(item, path, depth + 1) if type(item) in _NESTED else item
                for item in value
                if type(item) is not dict or not self._is_dropped_tensor(item)
            ]
        self._named_tensor(value)
        self._columns(value)
        hashed: set[str] = set()
        for name in self._named(value) - self._structure.get(path, _NOTHING):
            action = self._redaction.of_member(name.strip(), path)
            if action == "drop":
                del value[name]
            elif action == "hash":
                hashed.add(name)
                value[name] = self._redaction.digest(value[name])
            elif type(value[name]) is list:
                self._elements(value[name], self._redaction.of_elements(name.strip()))
        for name, inner in list(value.items()):
            if type(inner) in _NESTED and name not in hashed:
                if type(inner) is list and name in self._containers and self._redaction.positions:
                    self._unnamed_rows(inner, batch=name != "features")
                value[name] = self._walk(inner, (*path, name), depth + 1)
        return value

    def _named(self, value: dict[str, Any]) -> set[str]:
        """Members that need a closer look, also those whose name has spaces around it."""
        members = self._redaction.members
        named = set(members.intersection(value))
        for name in value:
            plain = name.strip()
            if plain is not name and plain in members:  # the very same text when there is nothing to take off
                named.add(name)
        return named

    def _is_dropped_tensor(self, item: dict[str, Any]) -> bool:
        return _is_tensor(item) and self._redaction.of_feature(item["name"]) == "drop"

    def _named_tensor(self, tensor: dict[str, Any]) -> None:
        """A tensor object `{name, shape, datatype, data}` of the Open Inference Protocol, its data in the JSON."""
        name, data = tensor.get("name"), tensor.get("data")
        if type(name) is str and type(data) is list:
            tensor["data"], hashed = self.tensor_data(name, tensor.get("shape"), data)
            if hashed:
                tensor["datatype"] = "BYTES"

    def tensor_data(self, name: str, shape: Any, data: list[Any]) -> tuple[list[Any], bool]:
        """The redacted data of a tensor that is not dropped, and whether it was hashed, which makes text of it."""
        if self._redaction.of_feature(name) == "hash":
            return self._redaction.digest(data), True
        actions = self._redaction.of_elements(name)
        if actions and data and type(data[0]) is list:
            self._elements(data, actions)
        elif actions:
            width = _row_width(shape, len(data))
            for position in range(len(data)):
                self._replace(data, position, actions.get(position % width))
        return data, False

    def touches_tensor(self, name: str) -> bool:
        """Whether a tensor of that name cannot stay as it is."""
        return self._redaction.of_feature(name) is not None or bool(self._redaction.of_elements(name))

    def _columns(self, frame: dict[str, Any]) -> None:
        """A pandas split frame `{columns, data, index}`; without column names its rows have none.

        What the index holds has no name in the body: row numbers, or the customers' ids. No reader makes a feature of it, so it goes,
        unless it is to be hashed by the name `index`.
        """
        columns, data = frame.get("columns"), frame.get("data")
        if type(data) is not list:
            return
        if type(frame.get("index")) is list and self._redaction.of_feature("index") != "hash":
            del frame["index"]
        if type(columns) is not list:
            if "name" not in frame and self._redaction.positions:
                self._unnamed_rows(data, batch=True)
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
        inner = [item for item in values if type(item) is list]
        for item in inner:
            self._elements(item, actions)
        if not inner:
            for position, action in actions.items():
                self._replace(values, position, action)

    def _unnamed_rows(self, rows: list[Any], *, batch: bool) -> None:
        """Positions of a row that is a list, or of each row of a batch; a row that nests further loses all of its values."""
        if rows and all(type(item) in _NESTED for item in rows):
            for number, row in enumerate(rows):
                if type(row) is list and any(type(item) is list for item in row):
                    rows[number] = None
                elif type(row) is list:
                    self._unnamed_rows(row, batch=False)
            return
        first = self._redaction.positions.get(0)
        for position, action in self._redaction.positions.items():
            self._replace(rows, position, action)
        if batch and first is not None:  # each element may be a row of its own, and then is named f0
            for position in range(1, len(rows)):
                if position not in self._redaction.positions:
                    self._replace(rows, position, first)

    def _replace(self, values: list[Any], position: int, action: Action) -> None:
        if action is not None and position < len(values):
            values[position] = None if action == "drop" else self._redaction.digest(values[position])


def _is_tensor(item: dict[str, Any]) -> bool:
    return type(item.get("name")) is str and ("data" in item or "shape" in item)


def _row_width(shape: Any, elements: int) -> int:
    """Elements of one row of a flat tensor."""
    rows = shape[0] if type(shape) is list and shape and type(shape[0]) is int and shape[0] > 0 else 1
    return max(elements // int(rows), 1)


@lru_cache(maxsize=256)
def _containers(features_path: str) -> frozenset[str]:
    """Members whose lists are rows without names."""
    names = [step for step in compile_path(features_path).steps if isinstance(step, str)]
    return frozenset(("features", "instances", "inputs", "dataframe_records", *names[-1:]))


def encode_json(document: Any) -> bytes:
    """JSON text of a document as `content.parse_json` gives it: NaN and infinities stay, lone surrogates stay escaped."""
    try:
        encoded = msgspec.json.encode(document)
    except (UnicodeEncodeError, OverflowError, msgspec.MsgspecError):
        return json.dumps(document).encode("ascii")
    if b"null" in encoded:  # msgspec writes NaN as null
        return json.dumps(document, separators=(",", ":")).encode("ascii")
    return encoded
