"""One request as its head says it, and how it is sent on. Holds bytes; decides nothing about versions."""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from app.proxy.address import Address
from app.proxy.connection import OWS
from app.proxy.fields import PLAIN, REQUEST_OWN, VIA, carry_on, listed, own_span

_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_UNRESERVED = re.compile(rb"%(?:2[dDeE]|3[0-9]|4[1-9a-fA-F]|5[0-9aAfF]|6[1-9a-fA-F]|7[0-9aAeE])")
_DOTS = (b".", b"..")
_SLASH = re.compile(rb"%2[fF]")
JOINED = frozenset((b"x-forwarded-for", b"connection", b"via", b"transfer-encoding"))


class BadRequestError(Exception):
    """The request cannot be taken; `error` is the X-Gateway-Error."""

    def __init__(self, error: str, detail: str = "") -> None:
        super().__init__(detail)
        self.error = error
        self.detail = detail


def canonical_path(path: bytes) -> bytes:
    """The one form of a path that matching looks at: unreserved characters decoded (RFC 3986 section 6.2.2.2).

    Dot segments and encoded control characters are refused: two readers could understand them differently.
    """
    if b"%" in path:
        path = _UNRESERVED.sub(lambda found: unquote_to_bytes(found[0]), path)
        if b"%00" in path or b"%0a" in path.lower() or b"%0d" in path.lower():
            raise BadRequestError("bad_request", "The path contains an encoded control character.")
    # A server that decodes %2F would see the dot segments behind it.
    slashed = _SLASH.sub(b"/", path) if b"%2" in path else path
    if (
        (b"/." in slashed and any(segment in _DOTS for segment in slashed.split(b"/")))
        or b"\\" in path
        or b"%5c" in path.lower()
    ):
        raise BadRequestError(
            "bad_request", "The path contains a dot segment or a backslash; send it resolved."
        )
    return path


def located_target(target: bytes, host: bytes, http10: bool) -> tuple[bytes, bytes, bytes, bytes]:
    """Host, canonical path, query, and the target to forward: with the path as it was matched, so that no server behind us reads
    another path than we did. `BadRequestError` when it must not be taken.
    """
    if not target.startswith(b"/"):
        target, host = _absolute(target)
    if (host or not http10) and _HOST.fullmatch(host) is None:
        raise BadRequestError("bad_request", "The Host field is not a host.")
    given, _, query = target.partition(b"?")
    if b"#" in target:
        raise BadRequestError("bad_request", "A request target has no fragment.")
    path = canonical_path(given)
    return host, path, query, target if path == given else path + target[len(given) :]


# Clients ask the same few targets again and again. What is long differs each time, and would fill the memory.
LONGEST_KEPT_TARGET = 200
_located = lru_cache(maxsize=1024)(located_target)


def _absolute(target: bytes) -> tuple[bytes, bytes]:
    """RFC 9112 section 3.2.2: the authority of an absolute-form target replaces the Host field."""
    scheme, _, rest = target.partition(b"://")
    if scheme.lower() not in (b"http", b"https") or not rest:
        raise BadRequestError("bad_request", "The request target must be a path.")
    cut = min((place for place in (rest.find(b"/"), rest.find(b"?")) if place >= 0), default=len(rest))
    path = rest[cut:]
    return (path if path.startswith(b"/") else b"/" + path), rest[:cut]


_PASSES, _FORWARDED, _ENDS = range(3)
_KINDS: dict[bytes, tuple[bytes, int]] = {}  # clients send the same few names again and again
_MOST_KINDS = 1024
_LONGEST_NAME = 64


def _kind_of(name: bytes) -> tuple[bytes, int]:
    """A field's name in lower case, and whether it goes on: always, from peers that are believed, or never as it came."""
    lower = name.lower()
    dashed = lower.replace(b"_", b"-")  # as servers see it that take the one for the other (CGI, WSGI)
    if dashed.startswith(b"x-forwarded-") or dashed == b"x-real-ip":
        kind = _FORWARDED if dashed == lower and lower not in REQUEST_OWN else _ENDS
    else:
        kind = _ENDS if dashed in REQUEST_OWN else _PASSES
    known = (lower, kind)
    if len(_KINDS) < _MOST_KINDS and len(name) <= _LONGEST_NAME:
        _KINDS[name] = known
    return known


class Request:
    """Filled by the server protocol, header by header; `finish_head` makes sense of it."""

    __slots__ = (
        "at",
        "at_ns",
        "complete",
        "continue_expected",
        "forwarded",
        "head_size",
        "host",
        "hosts",
        "http10",
        "keep_alive",
        "length",
        "method",
        "named",
        "parts",
        "path",
        "query",
        "retained",
        "scheme",
        "size",
        "tail",
        "target",
    )

    def __init__(self, at: float, at_ns: int, scheme: bytes = b"http") -> None:
        self.at = at  # monotonic
        self.at_ns = at_ns
        self.scheme = scheme
        self.target = b""
        self.head_size = 0
        self.hosts = 0
        self.named: dict[bytes, bytes] = {}
        self.tail: list[bytes] = []
        self.forwarded: list[bytes] = []  # further X-Forwarded-* lines, for peers that are believed
        self.parts: list[bytes] = []
        self.size = 0
        self.retained = True  # all of the body is in `parts`
        self.complete = False
        self.method = b""
        self.path = b""
        self.query = b""
        self.host = b""
        self.http10 = False
        self.keep_alive = True
        self.length = 0  # -1: chunked
        self.continue_expected = False

    def add(self, name: bytes, value: bytes) -> None:
        """The next field of the head."""
        known = _KINDS.get(name)
        if known is None:
            known = _kind_of(name)
        lower, kind = known
        if kind == _PASSES:
            self.tail += (name, b": ", value, b"\r\n")
        elif kind == _FORWARDED:
            self.forwarded += (name, b": ", value, b"\r\n")
        elif lower == b"host":
            self.hosts += 1
        elif lower in self.named and lower in JOINED:
            value = self.named[lower] + b", " + value
        self.named[lower] = value

    def finish_head(self, method: bytes, version: str, keep_alive: bool) -> None:
        """Check and sort the head. `BadRequestError` when it must not be taken."""
        self.method = method
        self.http10 = version == "1.0"
        self.keep_alive = keep_alive
        if version not in ("1.1", "1.0"):
            raise BadRequestError("bad_request", "Only versions 1.1 and 1.0 of HTTP are spoken here.")
        named = self.named
        if self.hosts != 1 and not (self.hosts == 0 and self.http10):
            raise BadRequestError("bad_request", "Exactly one Host field is needed.")
        connection = named.get(b"connection")
        if connection is not None and connection.lower() not in PLAIN:
            self._drop_listed(listed(connection))
        if b"upgrade" in named:
            self.keep_alive = False  # not spoken here; the parser reads nothing behind it as HTTP
        self._frame(named)
        self._split_target(named.get(b"host", b"").strip(OWS))
        expect = named.get(b"expect")
        if expect is not None:
            if expect.lower() != b"100-continue":
                raise BadRequestError("bad_request", "Only Expect: 100-continue is understood.")
            self.continue_expected = not self.http10

    def _drop_listed(self, names: list[bytes]) -> None:
        others = [name for name in names if name not in (b"close", b"keep-alive", b"te", b"upgrade", b"")]
        if others:
            self.drop(others)

    def drop(self, names: list[bytes]) -> None:
        """The fields of these (lower-case) names end here."""
        tail = self.tail
        self.tail = [
            piece
            for at in range(0, len(tail), 4)
            if tail[at].lower() not in names
            for piece in tail[at : at + 4]
        ]

    def _frame(self, named: dict[bytes, bytes]) -> None:
        encoding = named.get(b"transfer-encoding")
        length = named.get(b"content-length")
        if encoding is not None:
            if encoding.strip(OWS).lower() != b"chunked" or self.http10 or length is not None:
                raise BadRequestError(
                    "bad_request", "Only Transfer-Encoding: chunked is understood, without Content-Length."
                )
            self.length = -1
        elif length is not None:
            length = length.strip(OWS)
            if not length.isdigit() or len(length) > 18:
                raise BadRequestError("bad_request", "Content-Length is not a number.")
            self.length = int(length)

    def _split_target(self, host: bytes) -> None:
        target = self.target
        located = _located if len(target) < LONGEST_KEPT_TARGET else located_target
        self.host, self.path, self.query, self.target = located(target, host, self.http10)

    def take(self, data: bytes, retain: int) -> None:
        """Another part of the body. Beyond `retain` bytes only the beginning is kept."""
        self.size += len(data)
        if self.retained:
            self.parts.append(data)
            if self.size > retain:
                self.retained = False

    def body(self) -> bytes:
        """What is kept of the body."""
        parts = self.parts
        if len(parts) > 1:
            parts[:] = [b"".join(parts)]
        return parts[0] if parts else b""

    def text(self, name: bytes) -> str:
        """A field's value as text, empty when absent."""
        value = self.named.get(name)
        return value.decode("latin-1") if value is not None else ""


class RequestHead:
    """The head as it goes to a model server; where it goes is filled in last."""

    __slots__ = ("_lines", "_method", "_state", "_target", "traceparent")

    def __init__(
        self, request: Request, strip: int, peer: bytes, trusted: bool, extra: bytes, begun: bytes = b""
    ) -> None:
        """`begun` is the traceparent of a trace that begins here, should the request bring none that is valid."""
        self._method = request.method
        self._target = request.target[strip:] if strip else request.target
        if strip and not self._target.startswith(b"/"):
            self._target = b"/" + self._target
        named = request.named
        lines = request.tail
        forwarded = named.get(b"x-forwarded-for") if trusted else None
        self._lines = b"".join(
            (
                *lines,
                *(request.forwarded if trusted else ()),
                b"X-Forwarded-For: ",
                forwarded + b", " + peer if forwarded else peer,
                b"\r\nX-Forwarded-Host: ",
                (named.get(b"x-forwarded-host") if trusted else None) or request.host,
                b"\r\nX-Forwarded-Proto: ",
                (named.get(b"x-forwarded-proto") if trusted else None) or request.scheme,
                b"\r\nVia: ",
                named[b"via"] + b", " + VIA if b"via" in named else VIA,
                b"\r\n",
                extra,
            )
        )
        carried = carry_on(named[b"traceparent"]) if b"traceparent" in named else None
        state = named.get(b"tracestate") if carried is not None else None
        self._state = b"tracestate: " + state + b"\r\n" if state else b""
        self.traceparent = begun if carried is None else carried  # empty: none is sent

    @property
    def target(self) -> bytes:
        return self._target

    def at(self, address: Address, framing: bytes, traceparent: bytes = b"") -> bytes:
        """For this address; `traceparent` instead of our own, for another call's own span."""
        trace = traceparent or self.traceparent
        return b"".join(
            (
                self._method,
                b" ",
                address.base,
                self._target,
                b" HTTP/1.1\r\nHost: ",
                address.authority,
                b"\r\n",
                self._lines,
                b"traceparent: " + trace + b"\r\n" + self._state if trace else b"",
                framing,
                b"\r\n",
            )
        )


class CopiedHead:
    """The head of a copy: the request's own but for the span, when the request is traced."""

    __slots__ = ("_head", "traceparent")

    def __init__(self, head: RequestHead) -> None:
        self._head = head
        self.traceparent = own_span(head.traceparent) if head.traceparent else b""

    def at(self, address: Address, framing: bytes) -> bytes:
        return self._head.at(address, framing, self.traceparent)
