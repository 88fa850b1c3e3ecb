"""Reading accumulators' saved states: plain values that JSON and msgpack carry, checked on the way back in.

A state that was cut short or belongs to something else is a `ValueError` that names the field, never a
wrong figure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

Value: TypeAlias = "bool | int | float | str | Sequence[Value] | Mapping[str, Value] | None"
State: TypeAlias = Mapping[str, Value]


def number(state: State, name: str) -> float:
    """A number, not a truth value."""
    return as_number(state.get(name), name)


def count(state: State, name: str) -> int:
    """A whole number from 0."""
    return as_count(state.get(name), name)


def text(state: State, name: str) -> str:
    """A string."""
    value = state.get(name)
    if not isinstance(value, str):
        raise ValueError(f"state field {name!r} is no text: {value!r}")
    return value


def items(state: State, name: str) -> Sequence[Value]:
    """A list, whatever its elements."""
    value = state.get(name)
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ValueError(f"state field {name!r} is no list: {value!r}")
    return value


def numbers(state: State, name: str, size: int | None = None) -> list[float]:
    """A list of numbers; of `size`, when given."""
    return [as_number(v, name) for v in _sized(items(state, name), name, size)]


def counts(state: State, name: str, size: int | None = None) -> list[int]:
    """A list of whole numbers from 0; of `size`, when given."""
    return [as_count(v, name) for v in _sized(items(state, name), name, size)]


def entries(state: State, name: str) -> State:
    """A mapping from text."""
    return as_state(state.get(name), name)


def nested(state: State, name: str) -> Iterator[tuple[str, State]]:
    """The pairs of a mapping from text to states."""
    for key, value in entries(state, name).items():
        yield key, as_state(value, f"{name}.{key}")


def counter(state: State, name: str) -> Counter[str]:
    """A mapping from text to whole numbers from 0."""
    return Counter({key: as_count(value, name) for key, value in entries(state, name).items()})


def as_number(value: Value, name: str) -> float:
    """The value as float, if it is a number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"state field {name!r} is no number: {value!r}")
    return float(value)


def as_count(value: Value, name: str) -> int:
    """The value as int, if it is a whole number from 0."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"state field {name!r} is no count: {value!r}")
    return value


def as_state(value: Value, name: str) -> State:
    """The value, if it is a mapping."""
    if not isinstance(value, Mapping):
        raise ValueError(f"state field {name!r} is no mapping: {value!r}")
    return value


def _sized(values: Sequence[Value], name: str, size: int | None) -> Sequence[Value]:
    if size is not None and len(values) != size:
        raise ValueError(f"state field {name!r} has {len(values)} elements, not {size}")
    return values
