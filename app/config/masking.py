"""Takes credentials out of what may be printed. Never used to decide anything.

In doubt it takes more: a URL that is wrong is often wrong because of what stands in its password.
"""

from __future__ import annotations

import re

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/+")
_NO_PORT = re.compile(
    r"(://[^/?#@\s\[\]:]*:)(?!\d+(?:[/?#]|$))[^/?#]*"
)  # where a password stands when its host was forgotten
_QUERY = re.compile(r"(?i)([?&][^=&\s]*(?:password|passwd|secret|token|key|sig)[^=&\s]*=)[^&\s]*")
_LONGEST = 120


def masked(text: str) -> str:
    """The text with what stands before an `@` in a URL, and secrets in its query, replaced by `***`. A user without a password may be a
    token, and a password may hold any character, even an `@` or a slash: all up to the last `@` goes.
    """
    scheme = _SCHEME.match(text)
    begin = scheme.end() if scheme is not None else 0
    if "@" in text[begin:]:
        text = f"{text[:begin]}***@{text.rpartition('@')[2]}"
    return _QUERY.sub(r"\1***", _NO_PORT.sub(r"\1***", text))


def shown(value: object) -> str:
    """A value as a message may show it: quoted, masked, on one line and not too long."""
    match value:
        case None:
            text = "nothing"
        case bool():
            text = str(value).lower()
        case str():
            text = repr(masked(value))
        case int() | float():
            text = repr(value)
        case list():
            text = f"[{', '.join(shown(item) for item in value)}]"
        case _:
            text = "a mapping"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def named(value: object) -> str:
    """What kind of value it is, for places where a secret may stand."""
    match value:
        case str():
            return "this text"
        case list():
            return "this list"
        case int() | float() if not isinstance(value, bool):
            return "this number"
        case _:
            return shown(value)
