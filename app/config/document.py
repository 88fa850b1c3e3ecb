"""Reads a YAML document strictly: the YAML 1.2 core types, every key a string, no key twice, no tags.

YAML 1.1 surprises must not reach the configuration: `mode: off` stays the word "off", a version named `1.10`
or `2024-01-01` used as a key keeps its spelling, `08:30` is no number. Nothing here knows which keys exist.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import yaml

Keys = tuple[str | int, ...]
Tree = dict[str, object]

MAX_BYTES = 8 * 1024 * 1024
_MAX_DEPTH = 40
_MAX_NODES = 200_000  # aliases counted each time they are used, so that a few lines cannot become gigabytes

_STR, _SEQ, _MAP = (f"tag:yaml.org,2002:{name}" for name in ("str", "seq", "map"))
_NULL = frozenset(("", "~", "null", "Null", "NULL"))
_BOOL = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INT = re.compile(r"[-+]?[0-9]+")
_OCTAL_OR_HEX = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_QUOTED_NAME = re.compile(
    r"(?<=alias )'[^']*'|(?<=anchor )'[^']*'|(?<=handle )'[^']*'"
)  # of a password that begins with * & or !
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


@dataclass(slots=True)
class Document:
    """The values, and the line on which each path of keys stands."""

    tree: Tree = field(default_factory=dict)
    lines: dict[Keys, int] = field(default_factory=dict)


class DocumentError(Exception):
    """The text is no document of this kind; `line` is 1-based, or None when no line is to blame."""

    def __init__(self, what: str, line: int | None = None, path: Keys = ()) -> None:
        super().__init__(what)
        self.what = what
        self.line = line
        self.path = path


class _Loader(yaml.SafeLoader):
    """Composes nodes without guessing types: plain scalars keep the tag of a string."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  # PyYAML's own name


def read(path: Path) -> Document:
    """The document in a file. `DocumentError` when it cannot be read or is no mapping."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DocumentError(
            f"cannot be read ({error.strerror or error}); name a readable YAML file"
        ) from None
    if len(data) > MAX_BYTES:
        raise DocumentError(f"is larger than {MAX_BYTES} bytes; this is no configuration file")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DocumentError("is not UTF-8; save it in that encoding", line) from None
    return parse(text)


def parse(text: str) -> Document:
    """The document in a text. `DocumentError` when it is no YAML mapping of plain values."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = " ".join(part for part in (error.context, error.problem) if part) or "cannot be parsed"
        what = _QUOTED_NAME.sub("'…'", what)
        hint = "; indent with spaces, not tabs" if "'\\t'" in what else "; correct the YAML there"
        raise DocumentError(f"is not valid YAML: {what}{hint}", mark.line + 1 if mark else None) from None
    except yaml.YAMLError as error:
        what = " ".join(str(error).split())
        raise DocumentError(f"is not valid YAML: {what}; correct the YAML there") from None
    except RecursionError:
        raise DocumentError("is nested too deeply; this is no configuration file") from None
    finally:
        loader.dispose()
    document = Document()
    if node is None or (isinstance(node, yaml.ScalarNode) and _plain(node.value) is None):
        return document
    if not isinstance(node, yaml.MappingNode):
        raise DocumentError(
            "is no mapping of sections; begin with one such as `models:`", node.start_mark.line + 1
        )
    document.tree = _Builder(document.lines).mapping(node, ())
    return document


def scalar(text: str) -> object:
    """What a plain scalar, or a flow collection such as `[a, b]` or `{header: X}`, stands for."""
    if text.lstrip()[:1] in ("[", "{"):
        return parse(f"value: {text}").tree["value"]
    return _plain(text.strip())


def _plain(text: str) -> object:
    """YAML 1.2 core schema, section 10.3.2."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INT.fullmatch(text):
        return int(text) if len(text) <= 30 else text
    if _OCTAL_OR_HEX.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _NOT_FINITE.fullmatch(text):
        return float(text.replace(".", "").lower())
    return text


class _Builder:
    """Turns nodes into values, noting lines."""

    def __init__(self, lines: dict[Keys, int]) -> None:
        self._lines = lines
        self._nodes = 0

    def value(self, node: yaml.Node, path: Keys) -> object:
        line = node.start_mark.line + 1
        self._nodes += 1
        if len(path) > _MAX_DEPTH or self._nodes > _MAX_NODES:
            raise DocumentError(
                "is nested too deeply or expands too far; use fewer aliases", line, path[:_MAX_DEPTH]
            )
        self._lines.setdefault(path, line)
        if isinstance(node, yaml.MappingNode) and node.tag == _MAP:
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == _SEQ:
            return [self.value(item, (*path, place)) for place, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and node.tag == _STR:
            text: str = node.value
            return text if node.style else _plain(text)
        raise DocumentError("the tag !… is not used here; remove it, or put the text in quotes", line, path)

    def mapping(self, node: yaml.MappingNode, path: Keys) -> Tree:
        found: Tree = {}
        merged: list[yaml.Node] = []
        for key, item in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag != _STR:
                raise DocumentError("a key must be plain text; put it in quotes", line, path)
            if key.value == "<<" and not key.style:
                merged += item.value if isinstance(item, yaml.SequenceNode) else [item]
                continue
            name: str = key.value
            if name in found:
                first = self._lines[(*path, name)]
                raise DocumentError(f"is given twice, first on line {first}; keep one", line, (*path, name))
            self._lines[(*path, name)] = line
            found[name] = self.value(item, (*path, name))
        for item in merged:  # YAML merge: what the mapping says itself wins, then the first one merged
            if not isinstance(item, yaml.MappingNode):
                raise DocumentError("`<<` merges mappings only; name one", item.start_mark.line + 1, path)
            for name, value in self.mapping(item, path).items():
                found.setdefault(name, value)
        return found
