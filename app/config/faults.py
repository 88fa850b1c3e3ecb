"""Words a fault of the configuration: one line with where it is, what is wrong and what to do. Finds none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from app.config.document import Document, Keys
from app.config.kinds import NAME
from app.config.masking import named, shown
from app.config.reflection import names

# Values below these are never shown, nor is the reason why a URL cannot be read: a token, a key, a webhook whose path is one.
_SECRET = (
    ("auth",),
    ("store", "url"),
    ("flags", "url"),
    ("registry", "mlflow_uri"),
    ("registry", "mlflow_token"),
    ("telemetry", "otlp_endpoint"),
    ("telemetry", "headers"),
    ("models", None, "retraining", "webhook"),
)
_NO_MAPPING = frozenset(("dict_type", "model_type", "model_attributes_type"))


_NAME_RULE = "use letters, digits, dot, dash and underscore, at most 64, a letter or digit first"
_PATTERNS: dict[str, str] = {
    NAME: f"is no name; {_NAME_RULE}",
    r"^[0-9A-Fa-f]{64}$": 'is no SHA-256 digest; give the 64 hex digits of `printf %s "$TOKEN" | sha256sum`',
}


class Narrator:
    """Knows where each key came from: a line of the file, a variable, the command line."""

    def __init__(
        self, file: Path | None, document: Document, origins: Mapping[Keys, str], given: set[Keys]
    ) -> None:
        self._file = file
        self._lines = document.lines
        self._origins = origins
        self._given = given

    def line(self, keys: Keys, what: str) -> str:
        """`FILE: PATH.TO.KEY: what is wrong (line N); remedy`."""
        source, number = self._source(keys)
        wrong, semicolon, remedy = what.partition("; ")
        place = f" (line {number})" if number else ""
        named = f"{path(keys)}: " if keys else ""
        return f"{source}: {named}{wrong}{place}{semicolon}{remedy}".replace("\n", " ")

    def _source(self, keys: Keys) -> tuple[str, int | None]:
        for length in range(len(keys), 0, -1):
            part = keys[:length]
            if part in self._given:
                return "command line", None
            if part in self._origins:
                return f"environment {self._origins[part]}", None
            if part in self._lines:
                return str(self._file), self._lines[part]
        return (str(self._file) if self._file else "configuration"), None


def path(keys: Keys) -> str:
    """`models.credit.shadow.versions[0]`."""
    text = ""
    for key in keys:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            plain = key.replace("_", "").replace("-", "").isalnum()
            text += f".{key}" if plain else "[…]" if is_secret(keys) else f"[{shown(key)}]"
    return text.removeprefix(".")


def is_secret(keys: Keys) -> bool:
    """Whether what stands there must not be repeated."""
    return any(
        len(keys) >= len(place) and all(one in (None, key) for one, key in zip(place, keys, strict=False))
        for place in _SECRET
    )


def all_worded(error: ValidationError, tree: object) -> list[tuple[Keys, str]]:
    """Every finding of the schema in the user's words; a list with wrong items is not called empty."""
    details = error.errors(include_url=False)
    wrong_inside = {detail["loc"][:length] for detail in details for length in range(len(detail["loc"]))}
    return [
        _worded(detail, tree)
        for detail in details
        if not (detail["type"] == "too_short" and detail["loc"] in wrong_inside)
    ]


def _worded(error: ErrorDetails, tree: object) -> tuple[Keys, str]:
    """A finding of the schema in the user's words."""
    keys = tuple(key for key in error["loc"] if key != "[key]")
    if keys != error["loc"]:
        return keys, f"{'this' if is_secret(keys) else shown(keys[-1])} is no name; {_NAME_RULE}"
    value = _at(tree, keys)
    context = error.get("ctx", {})
    # Where keys were expected, a text may be one of them with its value: `registry: mlflow_token:…`.
    seen = named(value) if is_secret(keys) or error["type"] in _NO_MAPPING else shown(value)
    if error["type"] == "fault":
        return keys, f"{seen} {context['what']}"
    if error["type"] == "missing":
        return keys, _missing(keys)
    if error["type"] == "extra_forbidden":
        return keys, _unknown(keys)
    word = _WORDS.get(error["type"])
    if word is None:
        return keys, f"{seen}: {error['msg'].lower()}; correct it"
    return keys, word(seen, context) + (" (seconds)" if _in_seconds(keys, error["type"]) else "")


def _at(tree: object, keys: Keys) -> object:
    here = tree
    for key in keys:
        if isinstance(here, dict) and isinstance(key, str):
            here = here.get(key)
        elif isinstance(here, list) and isinstance(key, int) and key < len(here):
            here = here[key]
        elif not (key == 0 and isinstance(here, str)):  # a single value stands for a list of one
            return None
    return here


def _missing(keys: Keys) -> str:
    match keys:
        case ("models", model, "versions", version, "url"):
            return f"is missing: version {shown(version)} of {shown(model)} has no address; add url: http://HOST:PORT"
        case ("models", _, "production"):
            return "is missing; name the version that answers"
        case ("models", _, "versions"):
            return "is missing; add at least one version with its url"
    return "is missing; add it"


def _unknown(keys: Keys) -> str:
    known = names(keys[:-1])
    close = get_close_matches(str(keys[-1]).lower(), known, n=1)
    if close:
        return f"unknown key; did you mean {close[0]}?"
    elsewhere = [inner for inner in known if keys[-1] in names((*keys[:-1], inner))]
    if elsewhere:
        return f"unknown key here; it belongs under {elsewhere[0]}"
    return f"unknown key; remove it, or use one of {', '.join(known)}"


def _in_seconds(keys: Keys, error: str) -> bool:
    return bool(keys) and str(keys[-1]).endswith("_s") and error == "float_type"


def _bound(relation: str) -> Callable[[str, Mapping[str, object]], str]:
    def word(seen: str, context: Mapping[str, object]) -> str:
        limit = next(context[key] for key in ("gt", "ge", "lt", "le") if key in context)
        written = f"{limit:g}" if isinstance(limit, float) else str(limit)
        return f"{seen} is out of range; it must be {relation} {written}"

    return word


def _wrong_type(wanted: str) -> Callable[[str, Mapping[str, object]], str]:
    return lambda seen, _: f"{seen} has the wrong type; give {wanted}"


def _text(seen: str, _: Mapping[str, object]) -> str:
    simple = seen != "nothing" and seen[:1] not in ("[", "'", "a", "t")
    return f"{seen} is no text; " + (f'put it in quotes: "{seen}"' if simple else "give a text")


def _pattern(seen: str, context: Mapping[str, object]) -> str:
    what = _PATTERNS.get(str(context["pattern"]), "has characters that are not accepted here; correct it")
    return f"{seen} {what}"


_WORDS: dict[str, Callable[[str, Mapping[str, object]], str]] = {
    "int_type": _wrong_type("a whole number"),
    "int_from_float": _wrong_type("a whole number"),
    "float_type": _wrong_type("a number"),
    "bool_type": _wrong_type("true or false"),
    "dict_type": _wrong_type("a mapping of names"),
    "model_type": _wrong_type("a mapping of keys"),
    "model_attributes_type": _wrong_type("a mapping of keys"),
    "tuple_type": _wrong_type("a list"),
    "string_type": _text,
    "finite_number": lambda seen, _: f"{seen} is no finite number; give one",
    "greater_than": _bound("greater than"),
    "greater_than_equal": _bound("at least"),
    "less_than": _bound("less than"),
    "less_than_equal": _bound("at most"),
    "literal_error": lambda seen, context: (
        f"{seen} is not known here; use {str(context['expected']).replace(chr(39), '')}"
    ),
    "too_short": lambda _seen, _context: "is empty; give at least one",
    "string_too_short": lambda _seen, _context: "is empty; give a text",
    "string_pattern_mismatch": _pattern,
}
