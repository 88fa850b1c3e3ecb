"""Writes the parts of this directory that are made from the code: `make docs`. A test fails when they differ."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from app.config.environment import PREFIX
from app.config.kinds import Section
from app.config.reflection import fields, kind
from app.config.schema import Settings
from docs import reference

HERE = Path(__file__).parent
_HEAD = f"""# Configuration

<!-- Made by `make docs` from app/config/schema.py; edit the descriptions there. -->

One YAML file, given with `--config` or `{PREFIX}CONFIG`. Without a file every key has its default and no model is
served. `gateway.example.yaml` is one to begin with; `model-gateway check-config FILE` says whether a file can be used.

**From the environment.** Any key can be overridden: `{PREFIX}SERVER__PORT=9000`,
`{PREFIX}MODELS__CREDIT__PRODUCTION=v2`, `{PREFIX}MODELS__CREDIT__CANARY__STAGES=1,10,100`. Two underscores go one level
down; case does not matter; `_` stands for any character that a variable's name cannot hold, so `credit-risk` is
`CREDIT_RISK`. Options of the command line come last.

**Faults** end the start with exit status 2 and one line each: file, path of the key, what is wrong, what to do.

**YAML 1.2** is read: `off`, `no` and `on` are words, keys are names as written (`1.10` stays `1.10`), a key given twice
is a fault. Durations are seconds (`_s`) or milliseconds (`_ms`), sizes are bytes.
"""
_MODEL = ("models", "NAME")


def configuration() -> str:
    """docs/configuration.md as the schema has it."""
    parts = [_HEAD, *_section("The gateway", Settings)]
    for name, info in fields(Settings):
        if name != "models":
            parts += _nested(info, (name,))
    parts.append("\n## `models.NAME`\n\nA model's name is letters, digits, dot, dash and underscore.\n")
    parts += _model()
    return "".join(parts).rstrip() + "\n"


def _model() -> Iterator[str]:
    model = kind(_MODEL).section
    assert model is not None
    yield from _table(model)
    for name, info in fields(model):
        yield from _nested(info, (*_MODEL, name))


def _nested(info: FieldInfo, path: tuple[str | int, ...]) -> Iterator[str]:
    """The section at this path, and those inside it."""
    here = kind(path)
    inner, shown = here.section, path
    if inner is None and here.many:
        inner, shown = kind((*path, 0)).section, (*path, 0)
    elif inner is None and str(info.annotation).startswith("dict"):
        inner, shown = kind((*path, "NAME")).section, (*path, "NAME")
    if inner is None:
        return
    yield from _section(f"`{_path(shown)}`", inner)
    for name, deeper in fields(inner):
        yield from _nested(deeper, (*shown, name))


def _path(path: tuple[str | int, ...]) -> str:
    return ".".join(map(str, path)).replace(".0", "[]")


def _section(title: str, section: type[Section]) -> Iterator[str]:
    yield f"\n## {title}\n\n"
    yield from _table(section)


def _table(section: type[Section]) -> Iterator[str]:
    schema = section.model_json_schema(by_alias=True)
    yield "| key | value | default | meaning |\n|---|---|---|---|\n"
    for name, info in fields(section):
        described = schema["properties"][name]
        default = _default(info)
        meaning = (info.description or "").replace("|", "\\|")
        yield f"| `{name}` | {_values(described)} | {default} | {meaning} |\n"


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "**required**"
    if info.default_factory is not None:
        return "see below"
    value = info.default
    if isinstance(value, Section) or value == {}:
        return "none"
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = value if isinstance(value, str) else json.dumps(value)
    return f"`{text}`"


def _values(schema: dict[str, Any]) -> str:
    """What may stand there, in words."""
    if "$ref" in schema:
        return "section"
    if "anyOf" in schema:
        words = [_values(option) for option in schema["anyOf"]]
        return " or ".join(dict.fromkeys(word for word in words if word))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    match schema.get("type"):
        case "array":
            return f"list of: {_values(schema['items'])}"
        case "object":
            return "names, each a section" if "$ref" in str(schema) else "names and texts"
        case "integer":
            return f"whole number{_bounds(schema)}"
        case "number":
            return f"number{_bounds(schema)}"
        case "boolean":
            return "`true`, `false`"
        case "null":
            return "`null`"
    return "text"


def _bounds(schema: dict[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    found = [f"{sign} {schema[name]:.7g}" for name, sign in signs.items() if name in schema]
    return f" {', '.join(found)}" if found else ""


GENERATED = {
    "configuration.md": configuration,
    "api.md": reference.api,
    "metrics.md": reference.metrics,
    "errors.md": reference.errors,
}


def main() -> None:
    for name, made in GENERATED.items():
        (HERE / name).write_text(made(), encoding="utf-8")


if __name__ == "__main__":
    main()
