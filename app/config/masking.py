"""Takes credentials out of what may be printed. Never used to decide anything."""

from __future__ import annotations

import re

_USERINFO = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<user>[^:/?#\s]*):(?P<secret>.*)@")
_QUERY = re.compile(r"(?i)([?&][^=&\s]*(?:password|passwd|secret|token|key|sig)[^=&\s]*=)[^&\s]*")
_LONGEST = 120


def masked(text: str) -> str:
    """The text with passwords in URLs, and secrets in their queries, replaced by `***`."""
    text = _USERINFO.sub(r"\g<scheme>\g<user>:***@", text)
    return _QUERY.sub(r"\1***", text)


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
