"""One connection to a model server: HTTP/1.1, kept alive, strict. A request is never sent a second time once the server may have read a
byte of it. RFC 9112 sections 6 and 9 (framing, persistence), RFC 9110 section 9.2.2 (what may be repeated).
"""

from __future__ import annotations

import asyncio
import socket
from time import monotonic
from typing import TYPE_CHECKING

import httptools

from app.proxy.attempt import Attempt

if TYPE_CHECKING:
    from app.proxy.upstream import Endpoint

# Model servers behind uvicorn close after five idle seconds; going first avoids writing into a closing connection.
IDLE_S = 4.0
HIGH_WATER = 262_144
OWS = b" \t"  # optional white space around a field's value, RFC 9110 section 5.6.3
VERSIONS = ("1.1", "1.0")
IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS"))


class Departures:
    """Requests that are written to their connections together, at the end of the loop's turn or as soon as they are `BURST`.

    A write to a server that waits wakes it, which costs a processor far more than the write itself; a server that is awake
    already finds the next request by itself. A turn with one request sends that one: nothing waits for company.
    """

    BURST = 16  # bounds what the first of a turn waits for the others: 16 × 30 µs

    __slots__ = ("_due", "_loop", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: list[Connection] = []
        self._due = False

    def add(self, connection: Connection) -> None:
        self._waiting.append(connection)
        if len(self._waiting) >= self.BURST:
            self.leave()
        elif not self._due:
            self._due = True
            self._loop.call_soon(self._end_of_turn)

    def leave(self) -> None:
        """Write all that wait."""
        waiting = self._waiting
        if waiting:
            self._waiting = []
            for connection in waiting:
                connection.depart()

    def _end_of_turn(self) -> None:
        self._due = False
        self.leave()


# A lost connection lets go of its parser, which names it: it is freed now and not when the collector comes.
_NO_PARSER = httptools.HttpResponseParser(object())


class Connection(asyncio.Protocol):
    """One connection to a model server; serves one attempt at a time. Is its own parser callback object for httptools."""

    __slots__ = (
        "_body_open",
        "_ended",
        "_fed",
        "_finished",
        "_keep",
        "_limit",
        "_parser",
        "_paused",
        "_reused",
        "_trailing",
        "_unsent",
        "attempt",
        "closed",
        "endpoint",
        "idle_limit",
        "idle_since",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.attempt: Attempt | None = None
        self.closed = False
        self.idle_since = 0.0
        self.idle_limit = IDLE_S
        self._parser = httptools.HttpResponseParser(self)
        self._limit = endpoint.upstream.max_header_bytes
        self._fed = 0  # bytes of the head so far
        self._keep = True
        self._reused = False
        self._trailing = 0  # bytes since the last of the body
        self._paused = False
        self._body_open = False
        self._ended = False  # the server said that it sends no more; over TLS by its closure alert
        self._finished = False  # the answer is complete; anything after it is out of step
        self._unsent = b""  # a request that departs at the end of this turn

    # ---- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # a stream transport by construction
        self.transport.set_write_buffer_limits(high=HIGH_WATER)
        if receive_buffer := self.endpoint.upstream.receive_buffer:
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)

    def data_received(self, data: bytes) -> None:
        attempt = self.attempt
        if attempt is None or self._unsent:  # bytes nobody asked for
            self._out_of_step()
            return
        if attempt.first_byte_at == 0.0:
            attempt.first_byte_at = monotonic()
        size = attempt.size
        if not attempt.head_complete:
            self._fed += len(data)
            if self._fed > self._limit and b"\r\n\r\n" not in data:
                attempt.fail("protocol")
                return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            attempt.fail("protocol")
            return
        except httptools.HttpParserError:
            if not self._finished:
                attempt.fail("cut" if attempt.head_complete else "protocol")
                return
            self._keep = (
                False  # a whole answer with something behind it: serve it, never use the connection again
            )
        if attempt.head_complete and not self._finished:
            # A trailer, or a chunk's extension, without end: the parser keeps it to itself.
            self._trailing = self._trailing + len(data) if attempt.size == size else 0
            if self._trailing > self._limit:
                attempt.fail("cut")
                return
        # Told only now, outside the parser: the owner may start the next attempt on this very connection.
        if self._finished:
            self._end(attempt)
        elif attempt.head_complete:
            attempt.owner.progressed(attempt)

    def eof_received(self) -> bool:
        self._ended = True
        if self._unsent:
            self._out_of_step()
        return False

    def _out_of_step(self) -> None:
        """The server spoke or closed without being asked: the connection is of no more use. A request that was about to leave on it
        goes on another, since not a byte of it was sent.
        """
        attempt = self.attempt
        self.abandon()
        if attempt is None:
            return
        attempt.connection = None
        if attempt.retried:
            attempt.fail("protocol")
        else:
            attempt.retried = True
            self.endpoint.connect_for(attempt)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._parser = _NO_PARSER
        self.endpoint.forget(self)
        unsent, self._unsent = bool(self._unsent), b""
        attempt = self.attempt
        if attempt is None:
            return
        self.attempt = None
        attempt.connection = None
        if attempt.done:
            return
        if (
            attempt.head_complete
            and attempt.length < 0
            and exc is None
            and self._ended
            and b"transfer-encoding" not in attempt.named
        ):
            attempt.complete()  # a body that ends with its connection (RFC 9112 sections 6.3, case 8, and 9.8)
        elif (
            attempt.first_byte_at == 0.0
            and self._reused
            and (unsent or attempt.method in IDEMPOTENT)
            and not attempt.retried
            and not self._body_open
        ):
            attempt.retried = True  # an idle connection that the server closed before or as we wrote
            self.endpoint.connect_for(attempt)
        else:
            attempt.fail(
                "cut"
                if attempt.head_complete
                else "unreachable"
                if attempt.first_byte_at == 0.0
                else "protocol"
            )

    def pause_writing(self) -> None:
        if self.attempt is not None:
            self.attempt.owner.stalled(self.attempt)

    def resume_writing(self) -> None:
        if self.attempt is not None:
            self.attempt.owner.drained(self.attempt)

    # ---- httptools

    def on_message_begin(self) -> None:
        if self._finished:
            raise httptools.HttpParserError("a second answer to one request")

    def on_header(self, name: bytes, value: bytes) -> None:
        attempt = self.attempt
        assert attempt is not None
        if attempt.head_complete:
            return  # a trailer: dropped, as RFC 9110 section 6.5.1 allows
        attempt.fields.append((name, value))

    def on_headers_complete(self) -> None:
        attempt = self.attempt
        assert attempt is not None
        status = self._parser.get_status_code()
        attempt.status = status
        version = self._parser.get_http_version()
        if not 100 <= status <= 599 or version not in VERSIONS:
            raise httptools.HttpParserError("a status or a version that HTTP/1 does not have")
        if status < 200:
            if status == 101:
                raise httptools.HttpParserError("an upgrade nobody asked for")
            return
        if self._fed > self._limit and sum(len(n) + len(v) + 4 for n, v in attempt.fields) > self._limit:
            raise httptools.HttpParserError("head too large")
        self._keep = self._parser.should_keep_alive()
        length = -1
        named = attempt.named
        for name, value in attempt.fields:
            lower = name.lower()
            if lower == b"content-length":
                value = value.strip(OWS)  # the parser leaves what stands behind a value
                if length >= 0 or not value.isdigit() or len(value) > 18:
                    raise httptools.HttpParserError("content-length")
                length = int(value)
            elif lower == b"transfer-encoding":
                if value.strip(OWS).lower() != b"chunked" or lower in named or version != "1.1":
                    raise httptools.HttpParserError("transfer-encoding")
            elif lower == b"keep-alive":
                self._hint(value)
            named[lower] = value
        if length >= 0 and b"transfer-encoding" in named:
            raise httptools.HttpParserError("content-length and transfer-encoding")
        attempt.length = length
        attempt.head_complete = True
        if attempt.method == b"HEAD":
            # The parser cannot know that no body follows: it starts afresh.
            self._parser = httptools.HttpResponseParser(self)
            self._finished = True

    def on_body(self, body: bytes) -> None:
        attempt = self.attempt
        if self._finished or attempt is None:
            raise httptools.HttpParserError("body after the end")
        attempt.parts.append(body)
        attempt.size += len(body)

    def on_message_complete(self) -> None:
        attempt = self.attempt
        assert attempt is not None
        if attempt.status < 200:  # 100 Continue, 103 Early Hints: the answer is still to come
            attempt.fields.clear()
            attempt.named.clear()
            attempt.status = 0
            return
        self._finished = True

    # ---- the attempt's side

    def begin(self, attempt: Attempt, *, reused: bool) -> None:
        self.attempt = attempt
        attempt.connection = self
        self._reused = reused
        self._fed = self._trailing = 0
        self._keep = True
        self._finished = False
        self._body_open = attempt.open_body
        head = attempt.head.at(self.endpoint.address, attempt.framing)
        if attempt.open_body:  # more of it follows at any time
            self.transport.write(head + attempt.body)
            attempt.body = b""
        else:
            self._unsent = head + attempt.body if attempt.body else head
            self.endpoint.upstream.departures.add(self)

    def depart(self) -> None:
        """Write the request, unless its attempt was given up before."""
        data, self._unsent = self._unsent, b""
        if data:
            self.transport.write(data)

    def body_sent(self) -> None:
        self._body_open = False

    def pause(self) -> None:
        if not self._paused and not self.closed:
            self._paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if self._paused and not self.closed:
            self._paused = False
            self.transport.resume_reading()

    def abandon(self) -> None:
        """Close at once; what is still on the way belongs to nobody."""
        self.attempt = None
        self._unsent = b""
        if not self.closed:
            self.closed = True
            self.transport.abort()

    def _end(self, attempt: Attempt) -> None:
        self.attempt = None
        attempt.connection = None
        if self._keep and not self._body_open:
            self.resume()
            self.endpoint.release(self)
        else:
            self.abandon()
        attempt.complete()

    def _hint(self, value: bytes) -> None:
        for part in value.split(b","):
            name, _, seconds = part.strip().partition(b"=")
            if name.lower() == b"timeout" and seconds.isdigit():
                self.idle_limit = min(IDLE_S, max(0.0, int(seconds) - 1.0))
