"""From captured bytes to a JSON value: undo the content encoding within a bound, then parse as tolerantly as model servers write.

Must never inflate without a limit and never raise anything but `UnreadableError`.
"""

from __future__ import annotations

import json
import zlib
from typing import Any

import msgspec

from app.protocols.record import Exchange, Reason, UnreadableError

MAX_DECODED_BYTES = 8 * 1024 * 1024
"""A body that decompresses to more than this is not read. Many times the largest capture worth reading row by row."""

MAX_INT_DIGITS = 300
"""Longer integers become floats, that is infinities: `int()` is quadratic in the digits, and refuses more than 4,300 of them."""

_decode = msgspec.json.Decoder().decode
_JSON_START = frozenset(b'{["-0123456789tfnNI')
_WHITESPACE = b" \t\r\n"
_UTF8_BOM = b"\xef\xbb\xbf"


def request_bytes(exchange: Exchange) -> bytes:
    """The request's body without its content coding. Raises `UnreadableError` when it is empty, cut off or cannot be decoded."""
    truncated = exchange.request_truncated and not exchange.redacted
    return _plain(
        exchange.request_body,
        exchange.request_content_encoding,
        Reason.TRUNCATED_REQUEST if truncated else None,
    )


def reply_bytes(exchange: Exchange) -> bytes:
    """The reply's body without its content coding. Raises `UnreadableError` when it is empty, cut off or cannot be decoded."""
    truncated = exchange.response_truncated and not exchange.redacted
    return _plain(
        exchange.response_body,
        exchange.response_content_encoding,
        Reason.TRUNCATED_RESPONSE if truncated else None,
    )


def _plain(body: bytes, encoding: str, truncated: Reason | None) -> bytes:
    if truncated is not None:
        raise UnreadableError(truncated, f"only the first {len(body)} bytes were captured")
    if not body:
        raise UnreadableError(Reason.EMPTY_BODY, "no body")
    return inflate(body, encoding) if encoding else body


def inflate(body: bytes, encoding: str) -> bytes:
    """Undo the codings of a `Content-Encoding` field (gzip, deflate, identity; RFC 9110 8.4.1), the last one first.

    Raises `UnreadableError` for another coding, a corrupt body, or one that decompresses to more than `MAX_DECODED_BYTES`.
    """
    codings = [coding.strip().lower() for coding in encoding.split(",")]
    if len(codings) > 3:
        raise UnreadableError(Reason.UNSUPPORTED_ENCODING, f"{len(codings)} content codings")
    for coding in reversed(codings):
        if coding in ("gzip", "x-gzip"):
            body = _inflate(body, 31)
        elif coding == "deflate":
            try:
                body = _inflate(body, 15)
            except UnreadableError as fault:
                if fault.reason is not Reason.INVALID_ENCODING:
                    raise
                body = _inflate(body, -15)  # many senders mean raw deflate, without the zlib wrapper
        elif coding not in ("identity", ""):
            raise UnreadableError(Reason.UNSUPPORTED_ENCODING, f"content-encoding {coding[:40]!r}")
    return body


def _inflate(body: bytes, window_bits: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    rest = body
    try:
        while rest:  # a gzip body may consist of several members (RFC 1952 2.2)
            machine = zlib.decompressobj(window_bits)
            piece = machine.decompress(rest, MAX_DECODED_BYTES - size + 1)
            size += len(piece)
            if size > MAX_DECODED_BYTES:
                raise UnreadableError(
                    Reason.DECODED_SIZE, f"decompresses to more than {MAX_DECODED_BYTES} bytes"
                )
            if not machine.eof:
                raise UnreadableError(Reason.INVALID_ENCODING, "the compressed body ends early")
            pieces.append(piece)
            rest = machine.unused_data if window_bits == 31 else b""
    except zlib.error as fault:
        raise UnreadableError(Reason.INVALID_ENCODING, str(fault)) from None
    return b"".join(pieces)


def parse_json(body: bytes, content_type: str = "", tolerated_bytes: int = MAX_DECODED_BYTES) -> Any:
    """Parse JSON text; NaN, Infinity, 1e999, huge integers, a BOM, UTF-16/32 and bad UTF-8 are accepted.

    Out-of-range numbers become infinities, bad UTF-8 becomes U+FFFD. Of duplicate keys the last one counts. Raises
    `UnreadableError` when it is no JSON, is nested deeper than the interpreter can follow, or needs tolerance (which is ten times
    slower) and is longer than `tolerated_bytes`.
    """
    try:
        return _decode(body)
    except RecursionError:
        raise UnreadableError(Reason.TOO_DEEP, "nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as fault:
        if len(body) > tolerated_bytes:
            raise UnreadableError(Reason.INVALID_JSON, str(fault)) from None
        return _parse_tolerantly(body, content_type, str(fault))


def _parse_tolerantly(body: bytes, content_type: str, first_fault: str) -> Any:
    text = _text_of(body)
    if text is None:
        if content_type and "json" not in content_type.lower():
            raise UnreadableError(Reason.UNSUPPORTED_CONTENT_TYPE, f"content-type {content_type[:80]!r}")
        raise UnreadableError(Reason.INVALID_JSON, first_fault)
    try:
        return json.loads(text, parse_int=_bounded_int)
    except RecursionError:
        raise UnreadableError(Reason.TOO_DEEP, "nested too deeply") from None
    except ValueError as fault:
        raise UnreadableError(Reason.INVALID_JSON, str(fault)) from None


def _text_of(body: bytes) -> str | None:
    """Decode the text, or None when its first character cannot begin JSON: binary junk is refused without a copy."""
    if body.startswith(_UTF8_BOM):
        body = body[3:]
    head = body[:64].lstrip(_WHITESPACE)
    if b"\x00" in body[:4] or body.startswith((b"\xff\xfe", b"\xfe\xff")):
        return body.decode(json.detect_encoding(body), "replace")
    if not head:
        head = body.lstrip(_WHITESPACE)[:1]
    if not head or head[0] not in _JSON_START:
        return None
    return body.decode("utf-8", "replace")


def _bounded_int(digits: str) -> int | float:
    return int(digits) if len(digits) <= MAX_INT_DIGITS else float(digits)
