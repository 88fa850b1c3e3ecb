"""Names and cleans feature values: what a model was given, as one flat dictionary a row.

Names: an object's members keep theirs, nested objects are dotted (`user.age`), a list without names becomes `f0`, `f1`, …,
the elements of a named tensor become `x[0]`, `x[1]`, …. NaN and infinities become None and their names are noted.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from typing import Any

from app.protocols.findings import Findings
from app.protocols.record import MAX_FEATURES, MAX_ROWS, Features, Reason, UnreadableError

MAX_NAMED_ELEMENTS = 256
"""Up to this many elements of a row's tensor get a name each; a larger one stays a list under the tensor's name."""

MAX_LIST_ELEMENTS = 4_096
"""A longer list (an image, say) is left out of the features, and named in `facts["too_large"]`."""

MAX_DEPTH = 16
_INT64 = 2**63
_FLOATS = frozenset((float,))
_NUMBERS = frozenset((float, int))
_SCALARS = _NUMBERS | {str, bool, type(None)}


def number(value: float | int, name: str, findings: Findings) -> float | int | None:
    """A finite number that any store can hold: integers beyond 64 bits become floats, NaN and infinities None."""
    if type(value) is int and not -_INT64 <= value < _INT64:
        try:
            value = float(value)
        except OverflowError:
            value = float("inf")
    if value - value != 0:
        findings.nonfinite.add(name)
        return None
    return value


def object_row(members: dict[str, Any], findings: Findings) -> Features:
    """One row from an object: scalars as they are, lists kept under their name, nested objects dotted."""
    if len(members) <= MAX_FEATURES and _are_plain(members.values()):
        return members  # by far the most frequent case: nothing to clean, so nothing is copied
    features: Features = {}
    for name, value in members.items():
        if type(value) is dict or type(value) is list:
            _add_nested(features, name, value, findings)
        else:
            features[name] = scalar(value, name, findings)
    return bounded(features, findings)


def _are_plain(values: Collection[Any]) -> bool:
    """Whether all are scalars that need no cleaning, decided without a Python loop over numbers.

    NaN and infinities show in the sum, integers beyond 64 bits at the ends.
    """
    kinds = set(map(type, values))
    if kinds == _FLOATS:
        return math.isfinite(sum(values))
    if not kinds <= _SCALARS:
        return False
    numbers = values if kinds <= _NUMBERS else [value for value in values if type(value) in _NUMBERS]
    try:
        return (
            math.isfinite(sum(numbers))
            and min(numbers, default=0) >= -_INT64
            and max(numbers, default=0) < _INT64
        )
    except OverflowError:  # an integer too large for a float
        return False


def _add_nested(features: Features, prefix: str, value: Any, findings: Findings, depth: int = 1) -> None:
    if depth > MAX_DEPTH:
        findings.note(Reason.TOO_DEEP, f"feature {prefix[:80]!r} is nested more than {MAX_DEPTH} levels")
    elif type(value) is dict:
        for name, inner in value.items():
            dotted = f"{prefix}.{name}"
            if type(inner) is dict or type(inner) is list:
                _add_nested(features, dotted, inner, findings, depth + 1)
            else:
                features[dotted] = scalar(inner, dotted, findings)
    elif len(value) > MAX_LIST_ELEMENTS:
        findings.too_large(prefix, len(value))
    else:
        features[prefix] = _cleaned(value, prefix, findings, depth)


def _cleaned(value: Any, name: str, findings: Findings, depth: int) -> Any:
    """A copy of a JSON value without NaN and infinities."""
    if depth > MAX_DEPTH:
        findings.note(Reason.TOO_DEEP, f"feature {name[:80]!r} is nested more than {MAX_DEPTH} levels")
        return None
    if type(value) is list:
        return [_cleaned(item, name, findings, depth + 1) for item in value]
    if type(value) is dict:
        return {key: _cleaned(item, name, findings, depth + 1) for key, item in value.items()}
    return scalar(value, name, findings)


def scalar(value: Any, name: str, findings: Findings) -> Any:
    """A cleaned JSON scalar."""
    return number(value, name, findings) if type(value) is float or type(value) is int else value


def vector_row(values: Sequence[Any], findings: Findings) -> Features:
    """One row from a list without names: f0, f1, …."""
    if len(values) > MAX_FEATURES:
        findings.note(Reason.FEATURE_LIMIT, f"{len(values)} features; {MAX_FEATURES} are kept")
        values = values[:MAX_FEATURES]
    return object_row(dict(zip(positional_names(len(values)), values, strict=True)), findings)


def json_rows(value: Any, findings: Findings) -> list[Features]:
    """Rows from a JSON value: an object or a list of scalars is one row, a list of objects or lists is a row each."""
    if type(value) is dict:
        return [object_row(value, findings)]
    if type(value) is not list:
        return [vector_row([value], findings)]
    if value and all(type(item) is dict or type(item) is list for item in value):
        return [json_row(item, findings) for item in within_limit(value, findings)]
    return [vector_row(value, findings)]


def json_row(value: Any, findings: Findings) -> Features:
    """One row from one JSON value of any kind."""
    if type(value) is dict:
        return object_row(value, findings)
    return vector_row(value if type(value) is list else [value], findings)


def tensor_row(parts: Iterable[tuple[str, Any]], findings: Findings) -> Features:
    """One row from named tensor slices: a single element takes the tensor's name, several are named `name[i]`, row-major."""
    features: Features = {}
    for name, value in parts:
        if type(value) is not list:
            features[name] = value
        elif len(value) == 1:
            features[name] = value[0]
        elif len(value) <= MAX_NAMED_ELEMENTS:
            features.update(zip(element_names(name, len(value)), value, strict=True))
        else:
            features[name] = value
    return object_row(features, findings)


def flat(value: Any, depth: int = 0) -> Any:
    """The elements of nested lists, row-major; anything else as it is. Objects inside stay elements.

    Raises `UnreadableError` for more than `MAX_DEPTH` dimensions.
    """
    if type(value) is not list or not any(type(item) is list for item in value):
        return value
    if depth > MAX_DEPTH:
        raise UnreadableError(Reason.TOO_DEEP, f"a tensor of more than {MAX_DEPTH} dimensions")
    elements: list[Any] = []
    for item in value:
        inner = flat(item, depth + 1)
        if type(inner) is list:
            elements.extend(inner)
        else:
            elements.append(inner)
    return elements


def bounded(features: Features, findings: Findings) -> Features:
    """The first `MAX_FEATURES` features; a cut is noted."""
    if len(features) <= MAX_FEATURES:
        return features
    findings.note(Reason.FEATURE_LIMIT, f"{len(features)} features; {MAX_FEATURES} are kept")
    return dict(list(features.items())[:MAX_FEATURES])


def within_limit(rows: list[Any], findings: Findings) -> list[Any]:
    """The first `MAX_ROWS` rows; a cut is noted."""
    if len(rows) <= MAX_ROWS:
        return rows
    findings.note(Reason.ROW_LIMIT, f"{len(rows)} rows; {MAX_ROWS} are kept")
    return rows[:MAX_ROWS]


def bytes_value(raw: bytes) -> str:
    """Bytes as a feature: short text as it is, anything else as its length and digest, so that equal inputs stay equal."""
    if len(raw) <= 1_024:
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            pass
        else:
            if "\x00" not in text:
                return text
    return f"bytes:{len(raw)}:sha256:{hashlib.sha256(raw).hexdigest()[:16]}"


@lru_cache(maxsize=64)
def positional_names(count: int) -> tuple[str, ...]:
    """f0, f1, … of a list without names."""
    return tuple(f"f{position}" for position in range(count))


@lru_cache(maxsize=256)
def element_names(name: str, count: int) -> tuple[str, ...]:
    """name[0], name[1], … of a tensor's elements."""
    return tuple(f"{name}[{position}]" for position in range(count))
