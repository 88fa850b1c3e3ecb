"""Server-sent events, as far as model servers use them: `event:` and `data:` fields of a captured stream.

Source: WHATWG HTML, 9.2 Server-sent events. Never fails: what is no field is ignored, an event that the capture cut off is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

DONE = "[DONE]"
"""The data of the last event of an OpenAI stream."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its type, empty for the default, and its data lines joined by line feeds."""

    type: str
    data: str


def is_event_stream(content_type: str) -> bool:
    """Whether a body is `text/event-stream`, with or without parameters."""
    return content_type.partition(";")[0].strip().lower() == "text/event-stream"


def events(body: bytes, *, complete: bool = True) -> Iterator[Event]:
    """The events of a stream. A last event without its blank line counts only when the body is `complete`."""
    text = body.decode("utf-8-sig", "replace").replace("\r\n", "\n").replace("\r", "\n")
    kind = ""
    data: list[str] = []
    for line in text.split("\n"):
        if not line:
            if data:
                yield Event(kind, "\n".join(data))
            kind, data = "", []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            data.append(value)
        elif name == "event":
            kind = value
    if data and complete:
        yield Event(kind, "\n".join(data))
