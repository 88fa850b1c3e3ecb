"""What kind of value a cell of a feature holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

Cell: TypeAlias = "float | str | bool | Sequence[Cell] | Mapping[str, Cell] | None"
Row: TypeAlias = Mapping[str, Cell]

Kind = Literal["number", "text", "truth", "other", "missing"]
KINDS: tuple[Kind, ...] = ("number", "text", "truth", "other", "missing")


def kind_of(value: Cell) -> Kind:
    """number, text, truth (a truth value), other (a list or an object), or missing (null, NaN)."""
    if value is None:
        return "missing"
    if isinstance(value, bool):
        return "truth"
    if isinstance(value, (int, float)):
        return "missing" if value != value else "number"
    return "text" if isinstance(value, str) else "other"


def as_float(value: Cell) -> float:
    """A number as float; a whole number beyond all floats as infinity. Squares and sums of the largest ones
    are not finite: see `reference.unit_of`.
    """
    if not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is no number")
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def category_of(value: Cell) -> str:
    """The name of a category: text as it is, cut at 256 characters; truth values as true and false."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)[:256]
