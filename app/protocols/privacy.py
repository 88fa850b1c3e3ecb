"""`privacy: {drop, hash}` on raw bodies, before they are written to the journal: JSON, binary tensors, CSV and event streams.

Where in doubt it removes more rather than less: a name matches an object's member at any depth, so that an echo in a reply does not
leak either; a body that cannot be taken apart leaves nothing but the reason. Used by the proxy workers: must never import numpy, and
`redact_body` must never raise.

Names: `ssn` (a member anywhere, a column, a tensor), `user.email` (nested), `x[3]` (an element of a tensor or list), `f3` (the
fourth value of a row without names), `prompt` (with `openai`, what the messages say). Hashing is leaf by leaf, so the same value
gives the same 16 hexadecimal digits and joins and drift still work; null stays null.
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from typing import Any

from app.protocols.content import inflate, parse_json
from app.protocols.mlflow import csv_table, is_csv
from app.protocols.record import Reason, UnreadableError
from app.protocols.redact_json import JsonRedactor, encode_json
from app.protocols.redaction import Redaction
from app.protocols.sse import DONE, events, is_event_stream
from app.protocols.tensors import binary_size, decode_elements, split_binary

__all__ = ["Redacted", "Redaction", "redact_body"]

_CHARSET = re.compile(r"""(?i);\s*charset\s*=\s*["']?([^\s;"']*)""")
_ASCII_COMPATIBLE = frozenset(("utf-8", "utf8", "us-ascii", "ascii"))
_EVENT_TYPE = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class Redacted:
    """A body that may be written down. `body` is empty with a `reason` when the original could not be taken apart."""

    body: bytes
    reason: Reason | None = None
    content_encoding: str = ""
    """The coding of `body`: a compressed body comes back plain."""
    header_length: int | None = None
    """`Inference-Header-Content-Length` that fits `body`."""


def redact_body(
    body: bytes,
    content_type: str,
    protocol: str,
    redaction: Redaction,
    *,
    content_encoding: str = "",
    header_length: int | None = None,
    truncated: bool = False,
    features_path: str = "$.features",
) -> Redacted:
    """Take the named features out of a raw body, request or reply; never raises.

    Always written anew, even when no name was found: of duplicate keys only the last is parsed, the others must not survive.
    A body that is cut off, not decodable or of a form without names leaves no bytes at all; of an event stream that was cut off the
    whole events stay.
    """
    if not redaction or not body:
        return Redacted(body, None, content_encoding, header_length)
    try:
        if protocol == "opaque":
            raise UnreadableError(Reason.UNSUPPORTED_CONTENT_TYPE, "an opaque body has no names")
        stream = is_event_stream(content_type)
        if truncated and (content_encoding or not stream):
            raise UnreadableError(Reason.TRUNCATED_REQUEST, "a part of a body cannot be taken apart")
        plain = inflate(body, content_encoding) if content_encoding else body
        if protocol == "mlflow" and is_csv(
            content_type
        ):  # to all others it is JSON or nothing, whatever it says
            return Redacted(_csv(plain, content_type, redaction))
        redactor = JsonRedactor(redaction, protocol, features_path)
        if stream:
            return Redacted(_event_stream(plain, redactor, complete=not truncated))
        if protocol == "oip" and header_length is not None:
            return _binary(plain, header_length, content_type, redactor)
        document = parse_json(plain, content_type)
        if protocol == "openai":
            _messages(document, redaction)
        return Redacted(encode_json(redactor.document(document)))
    except UnreadableError as fault:
        return Redacted(b"", fault.reason)
    except RecursionError:
        return Redacted(b"", Reason.TOO_DEEP)
    except Exception:  # a body must neither stop traffic nor leak
        return Redacted(b"", Reason.INTERNAL)


def _csv(body: bytes, content_type: str, redaction: Redaction) -> bytes:
    """Columns dropped or hashed by the names in the header, when it is one: what else calls itself CSV would pass whole, as a table
    whose columns nobody named.
    """
    charset = _CHARSET.search(content_type)
    if charset is not None and charset[1].lower() not in _ASCII_COMPATIBLE:
        raise UnreadableError(Reason.UNSUPPORTED_CONTENT_TYPE, f"CSV in {charset[1][:40]!r}")
    if b"\0" in body or body.lstrip()[:1] in (b"{", b"["):
        raise UnreadableError(Reason.INVALID_CSV, "no comma-separated text")
    columns, *rows = csv_table(body)
    for column in columns:
        if "\N{REPLACEMENT CHARACTER}" in column or any(separator in column.strip() for separator in ";\t|"):
            raise UnreadableError(
                Reason.INVALID_CSV, "the header's names are not UTF-8, or not separated by commas"
            )
    actions = [redaction.of_feature(column) for column in columns]
    kept = [position for position, action in enumerate(actions) if action != "drop"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([columns[position] for position in kept])
    for row in rows:
        writer.writerow(
            [
                redaction.digest(row[position]) if actions[position] and row[position] else row[position]
                for position in kept
            ]
        )
    return text.getvalue().encode("utf-8")


def _event_stream(body: bytes, redactor: JsonRedactor, *, complete: bool) -> bytes:
    """Each event's JSON redacted; comments, ids and retry fields are not kept."""
    written: list[bytes] = []
    for event in events(body, complete=complete):
        data = b"[DONE]"
        if event.data != DONE:
            data = encode_json(redactor.document(parse_json(event.data.encode("utf-8", "replace"))))
        if _EVENT_TYPE.fullmatch(event.type):
            written.append(b"event: " + event.type.encode("ascii") + b"\n")
        written.append(b"data: " + data + b"\n\n")
    return b"".join(written)


def _binary(body: bytes, header_length: int, content_type: str, redactor: JsonRedactor) -> Redacted:
    """Binary tensors: the dropped ones' bytes go; those with hashed or dropped elements move into the JSON header."""
    header, binary = split_binary(body, header_length, content_type)
    document = parse_json(header, content_type)
    slices: dict[int, tuple[object, bytes]] = {}
    """Name and bytes of each binary tensor, as they were before anything was taken out."""
    offset = 0
    for tensor in _listed_tensors(document):
        size = binary_size(tensor)
        if size is not None:
            slices[id(tensor)] = (tensor.get("name"), binary[offset : offset + size])
            offset += size
    document = redactor.document(document)
    kept: list[bytes] = []
    for tensor in _listed_tensors(document):
        name, raw = slices.get(id(tensor), (None, b""))
        if type(name) is not str or binary_size(tensor) != len(raw):
            continue
        if not redactor.touches_tensor(name):
            kept.append(raw)
            continue
        del tensor["parameters"]["binary_data_size"]
        tensor["data"], hashed = redactor.tensor_data(
            name, tensor.get("shape"), decode_elements(tensor.get("datatype"), raw)
        )
        if hashed:
            tensor["datatype"] = "BYTES"
    written = encode_json(document)
    return Redacted(b"".join((written, *kept)), header_length=len(written))


def _listed_tensors(document: Any) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = []
    for member in ("inputs", "outputs"):
        tensors = document.get(member) if type(document) is dict else None
        listed.extend(item for item in tensors or [] if type(item) is dict)
    return listed


def _messages(document: Any, redaction: Redaction) -> None:
    """The feature `prompt` of a conversation is what its messages say."""
    action = redaction.of_feature("prompt")
    messages = document.get("messages") if type(document) is dict else None
    if action is None or type(messages) is not list:
        return
    for message in messages:
        if type(message) is dict and "content" in message:
            message["content"] = None if action == "drop" else redaction.digest(message["content"])
