"""What the schema says about a path of keys: for messages, the environment, the documentation."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic.fields import FieldInfo

from app.config.document import Keys
from app.config.kinds import Section
from app.config.schema import Settings


@dataclass(frozen=True, slots=True)
class Kind:
    """What may stand at a path."""

    section: type[Section] | None = None
    text: bool = False  # words or free text, alone or in a list
    many: bool = False  # a list
    nullable: bool = False


def names(keys: Keys) -> list[str]:
    """The keys that a section may hold; none for anything else, nor for a mapping with the user's names."""
    found = kind(keys).section
    return [name for name, _ in fields(found)] if found else []


def fields(section: type[Section]) -> Iterator[tuple[str, FieldInfo]]:
    """The keys of a section as the file names them."""
    for name, info in section.model_fields.items():
        yield info.alias or name, info


def kind(keys: Keys) -> Kind:
    """What the schema wants at this path; an empty kind where it knows nothing."""
    annotation: object = Settings
    for key in keys:
        annotation = _step(annotation, key)
    return _kind(annotation)


def _step(annotation: object, key: str | int) -> object:
    for option in _options(annotation):
        if isinstance(option, type) and issubclass(option, Section):
            found = dict(fields(option)).get(str(key))
            return found.annotation if found else None
        origin, arguments = typing.get_origin(option), typing.get_args(option)
        if origin is dict:
            return arguments[1]
        if origin is tuple:
            return arguments[0]
    return None


def _kind(annotation: object) -> Kind:
    section = None
    text = many = nullable = False
    for option in _options(annotation):
        origin = typing.get_origin(option)
        if option is type(None):
            nullable = True
        elif option is str or origin is typing.Literal:
            text = True
        elif origin is tuple:
            many = True
            text = text or _kind(typing.get_args(option)[0]).text
        elif isinstance(option, type) and issubclass(option, Section):
            section = option
    return Kind(section, text, many, nullable)


def _options(annotation: object) -> Iterator[object]:
    """The members of a union without their validators."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        yield from _options(typing.get_args(annotation)[0])
    elif origin is typing.Union or origin is types.UnionType:
        for option in typing.get_args(annotation):
            yield from _options(option)
    else:
        yield annotation
