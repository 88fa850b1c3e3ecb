"""A client's connection: HTTP/1.1, strict, one answer at a time, with deadlines for whoever sends or reads too slowly.

RFC 9112 with its choices for a server that others could smuggle through: one Host, no Content-Length beside Transfer-Encoding, no
bare LF, no folded lines (httptools refuses those). Pipelined requests are answered in turn. Never parses a body.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import socket
import struct
from collections import deque

import httptools

from app.proxy.exchange import Exchange
from app.proxy.fields import problem, status_line
from app.proxy.passage import Passage
from app.proxy.plane import Plane
from app.proxy.request import BadRequestError, Request
from app.proxy.served import Served

KEEP_ALIVE_S = 75.0
BUFFERED = 65_536  # a body up to this size is sent on whole, with its head; a larger one is streamed
SLOWEST = 4096.0  # bytes a second below which a body is a slow attack and not a slow network
HIGH_WATER = 262_144
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
NEVER = math.inf
MAX_PASSAGES = 256  # requests for the control process at once; each holds two descriptors while it is silent
NO_LINGER = struct.pack("ii", 1, 0)
PROBES = frozenset((b"/healthz", b"/readyz"))  # answered on every port


# Parser and connection name each other: a lost connection lets go of its own, so that it is freed now and not when the collector comes.
_NO_PARSER = httptools.HttpRequestParser(object())


class ServerProtocol(asyncio.Protocol):
    """One connection. Is its own parser callback object for httptools."""

    __slots__ = (
        "_admin",
        "_broken",
        "_closing",
        "_connections",
        "_exchange",
        "_moved_on",
        "_parser",
        "_paused",
        "_queue",
        "_reading",
        "_resuming",
        "_stalled",
        "_unfinished",
        "_upgraded",
        "deadline",
        "peer",
        "plane",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, plane: Plane, connections: set[ServerProtocol], *, admin: bool = False) -> None:
        self._admin = admin  # on `server.admin_port`: the API, and no model
        self.plane = plane
        self.peer = ""
        self.deadline = NEVER
        self._connections = connections
        self._parser = httptools.HttpRequestParser(self)
        self._reading: Request | None = None  # the request whose head or body is arriving
        self._queue: deque[Request] = deque()  # complete requests that wait for their turn
        self._exchange: Exchange | Passage | None = None  # the request being answered
        self._broken: BadRequestError | None = (
            None  # what to answer once the turn comes; nothing is read any more
        )
        self._unfinished = 0
        self._paused = False
        self._closing = False
        self._upgraded = False
        self._resuming = False  # the parser is being told what it knew before an upgrade that is not taken
        self._stalled = False  # the client does not take what it was sent
        self._moved_on = (
            False  # there was a body, or the end of a request, in the bytes that are being parsed
        )

    # ---- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # a stream transport by construction
        self.transport.set_write_buffer_limits(high=HIGH_WATER)
        if len(self._connections) >= self.plane.max_connections:  # others need descriptors too
            self.plane.statistics.count("gateway_refused_total", "connections")
            self._closing = True
            self.transport.abort()
            return
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if isinstance(peer, tuple) else "unix"
        self._connections.add(self)
        self.deadline = self.plane.loop.time() + self.plane.server.receive_timeout_s

    def data_received(self, data: bytes) -> None:
        if self._broken is not None or self._closing or self._upgraded:
            return
        self._moved_on = False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgrade_not_taken(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._break(
                cause
                if isinstance(cause, BadRequestError)
                else BadRequestError("bad_request", f"Not valid HTTP/1.1: {error}.")
            )
        else:
            reading = self._reading
            if reading is not None:
                # The parser keeps an unfinished field, also of a trailer, to itself: count what it was fed.
                self._unfinished = 0 if self._moved_on else self._unfinished + len(data)
                if self._unfinished > self.plane.server.max_header_bytes:
                    self._break(BadRequestError("headers_too_large"))

    def _upgrade_not_taken(self, rest: bytes) -> None:
        """The request is answered as if it had not asked for another protocol (RFC 9110 section 7.8), then the connection closes.
        The parser takes nothing behind the head for a body: a fresh one, told of the framing, does.
        """
        reading = self._reading
        if reading is None:
            self._upgraded = True
            return
        framing = (
            b"Transfer-Encoding: chunked" if reading.length < 0 else b"Content-Length: %d" % reading.length
        )
        self._parser = httptools.HttpRequestParser(self)
        self._resuming = True
        self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n\r\n" % framing)
        self._resuming = False
        if rest:
            self.data_received(rest)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self._connections.discard(self)
        self._queue.clear()
        self._reading = None
        self._parser = _NO_PARSER
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.client_gone()

    def pause_writing(self) -> None:
        self._stalled = True
        self.deadline = self.plane.loop.time() + self.plane.server.receive_timeout_s
        if self._exchange is not None:
            self._exchange.client_stalled()

    def resume_writing(self) -> None:
        self._stalled = False
        if self._closing:
            return  # the deadline to take the rest of the answer holds
        self.deadline = NEVER if self._exchange is not None else self.plane.loop.time() + KEEP_ALIVE_S
        if self._exchange is not None:
            self._exchange.client_drained()
        else:
            self._go_on()

    # ---- httptools

    def on_message_begin(self) -> None:
        if self._resuming:
            return
        plane = self.plane
        now = plane.loop.time()
        self._reading = Request(now, plane.wall_ns(), plane.scheme)
        self._unfinished = 0
        if self._exchange is None:
            self.deadline = now + plane.server.receive_timeout_s

    def on_url(self, url: bytes) -> None:
        if self._resuming:
            return
        request = self._reading
        assert request is not None
        request.target += url
        request.head_size += len(url)
        if request.head_size > self.plane.server.max_header_bytes:
            raise BadRequestError("headers_too_large")

    def on_header(self, name: bytes, value: bytes) -> None:
        request = self._reading
        assert request is not None
        if request.method:
            return  # a trailer: dropped, as RFC 9110 section 6.5.1 allows
        request.head_size += len(name) + len(value) + 4
        if request.head_size > self.plane.server.max_header_bytes:
            raise BadRequestError("headers_too_large")
        request.add(name, value)

    def on_headers_complete(self) -> None:
        if self._resuming:
            return
        request = self._reading
        assert request is not None
        parser = self._parser
        request.finish_head(parser.get_method(), parser.get_http_version(), parser.should_keep_alive())
        if request.length > self.plane.server.max_body_bytes:
            raise BadRequestError("payload_too_large")
        if self._exchange is None and not self._queue:
            if request.continue_expected:
                self._continue(request)
            if request.length < 0 or request.length > BUFFERED:
                self._start(request)

    def on_body(self, data: bytes) -> None:
        request = self._reading
        assert request is not None
        plane = self.plane
        self._moved_on = True
        exchange = self._exchange
        started = exchange is not None and exchange.request is request
        # Of a request that is not on its way yet nothing may be let go.
        request.take(data, plane.server.replay_bytes if started else plane.server.max_body_bytes)
        if request.size > plane.server.max_body_bytes:
            raise BadRequestError("payload_too_large")
        if started:
            exchange.body_part(data)  # type: ignore[union-attr]
        elif request.size > BUFFERED:  # pipelined: the rest of it waits for its turn
            self._pause()
        if self.deadline != NEVER:
            self.deadline = request.at + plane.server.receive_timeout_s + request.size / SLOWEST

    def on_message_complete(self) -> None:
        request = self._reading
        assert request is not None
        if request.length != 0 and request.size == 0 and self._parser.should_upgrade():
            return  # its body is still to come: `_upgrade_not_taken`
        self._reading = None
        self._moved_on = True
        request.complete = True
        exchange = self._exchange
        if exchange is not None:
            if exchange.request is request:
                self.deadline = NEVER
                exchange.body_end()
            else:  # pipelined
                self._queue.append(request)
                self._pause()
        elif self._queue:
            self._queue.append(request)
        else:
            self._start(request)

    # ---- requests

    def _continue(self, request: Request) -> None:
        if request.length != 0:
            self.transport.write(CONTINUE)

    def _start(self, request: Request) -> None:
        """The request's turn has come: to a model, to the control process, or an answer of our own."""
        plane = self.plane
        if request.complete:
            self.deadline = NEVER
        reserved = plane.reserved(request)
        apart = plane.server.admin_port is not None
        if not self._admin and (apart or not reserved):
            served = plane.route(request)
            if served is not None:
                self._start_exchange(request, served)
                return
        if not reserved or (apart and not self._admin and request.path not in PROBES):
            self._refuse(request, "no_route")
            return
        self._start_own(request)

    def _start_exchange(self, request: Request, served: Served) -> None:
        plane = self.plane
        if plane.inflight >= plane.server.max_inflight:
            plane.statistics.count("gateway_refused_total", "overloaded")
            self._refuse(request, "overloaded")
            return
        if plane.journal.refuses:
            plane.statistics.count("gateway_refused_total", "journal_full")
            self._refuse(request, "overloaded", "The journal is full and journal.on_full is refuse.")
            return
        forced = None
        if b"x-gateway-version" in request.named:
            forced = request.text(b"x-gateway-version")
            if not plane.may_force(request, self.peer):
                self._refuse(request, "forbidden")
                return
            if b"x-gateway-token" not in request.named:
                request.drop([b"authorization"])  # a token of this gateway, and nobody else's business
            if forced not in served.upstreams:
                self._refuse(request, "no_route", f"Model {served.name} has no version {forced[:80]!r}.")
                return
        exchange = self._exchange = Exchange(plane, served, self, request, forced)
        exchange.begin()

    def _start_own(self, request: Request) -> None:
        plane = self.plane
        if request.path == b"/healthz":
            self._answer(request, 200, {"status": "alive"})
        elif request.path == b"/readyz":
            ready = plane.ready and not plane.draining
            body: dict[str, object] = {
                "status": "ready" if ready else "draining" if plane.draining else "starting"
            }
            if plane.dependencies_down:
                body["degraded"] = plane.dependencies_down
            if ready and plane.dependencies_down:
                body["status"] = "degraded"
            self._answer(request, 200 if ready else 503, body)
        elif plane.passages >= MAX_PASSAGES:
            self._refuse(request, "control_unavailable")
        else:
            passage = self._exchange = Passage(plane, self, request)
            passage.begin()

    def _answer(self, request: Request, status: int, body: dict[str, object]) -> None:
        data = json.dumps(body).encode()
        keep = request.keep_alive and request.complete and not request.http10
        close = b"" if keep else b"Connection: close\r\n"
        head = (
            b"%bContent-Type: application/json\r\nCache-Control: no-store\r\nContent-Length: %d\r\n%b\r\n"
            % (
                status_line(status),
                len(data),
                close,
            )
        )
        self.write(head if request.method == b"HEAD" else head + data)
        self._done(keep=not close)

    def _refuse(self, request: Request, error: str, detail: str = "") -> None:
        keep = request.keep_alive and request.complete and not request.http10 and not self.plane.draining
        _, out = problem(error, detail, close=not keep, head_only=request.method == b"HEAD")
        self.write(out)
        self._done(keep=keep)

    def _break(self, error: BadRequestError) -> None:
        """Nothing more can be read from this connection: answer what was whole, then this, then close."""
        self._broken = error
        exchange = self._exchange
        if exchange is not None and not exchange.request.complete:
            exchange.client_gone()  # its body will never be whole
            self._exchange = None
            if exchange.head_sent:  # an answer has begun: another one within it would be taken for its body
                self._closing = True
                self.transport.abort()
                return
            exchange = None
        if exchange is None:
            self._answer_broken()

    def _answer_broken(self) -> None:
        error = self._broken
        assert error is not None
        self.plane.statistics.count("gateway_refused_total", error.error)
        _, out = problem(error.error, error.detail, close=True)
        self.write(out)
        self._close()

    # ---- an exchange's side

    def write(self, data: bytes) -> None:
        if not self._closing:
            self.transport.write(data)

    def finished(self, *, keep: bool) -> None:
        self._exchange = None
        self._done(keep=keep)

    def pause_body(self) -> None:
        self.deadline = NEVER
        self._pause()

    def resume_body(self) -> None:
        if self._reading is not None:
            self.deadline = self.plane.loop.time() + self.plane.server.receive_timeout_s
        self._resume()

    def _pause(self) -> None:
        if not self._paused and not self._closing:
            self._paused = True
            self.transport.pause_reading()

    def _resume(self) -> None:
        if self._paused and not self._closing:
            self._paused = False
            self.transport.resume_reading()

    def _done(self, *, keep: bool) -> None:
        """An answer is complete: the next request, or none."""
        if self._closing:
            return
        if not keep or self._upgraded:
            self._close()
        elif self._stalled:  # what was sent is not taken: nothing more is made before it is
            self.deadline = self.plane.loop.time() + self.plane.server.receive_timeout_s
        else:
            self._go_on()

    def _go_on(self) -> None:
        """The next request, or none."""
        if self._queue:
            self.plane.loop.call_soon(
                self._next
            )  # not from here: a thousand pipelined requests are not a thousand frames
        elif self._broken is not None:
            self._answer_broken()
        else:
            if self._paused:
                self._resume()
            reading = self._reading
            now = self.plane.loop.time()
            if reading is None:
                self.deadline = now + KEEP_ALIVE_S
            else:  # the next request's head or body is arriving
                self.deadline = now + self.plane.server.receive_timeout_s
                if reading.method:
                    if reading.continue_expected and reading.size == 0:
                        self._continue(reading)
                    if reading.length < 0 or reading.length > BUFFERED:
                        self._start(reading)

    def _next(self) -> None:
        if self._queue and self._exchange is None and not self._closing:
            self._start(self._queue.popleft())

    def _close(self) -> None:
        self._closing = True
        self.deadline = (
            self.plane.loop.time() + self.plane.server.receive_timeout_s
        )  # to take the rest of the answer
        self.transport.close()

    # ---- the sweeper's side

    def expire(self) -> None:
        """The deadline has passed: of an idle connection, of a request that does not arrive, or of an answer that is not taken."""
        self.deadline = NEVER
        exchange = self._exchange
        if (
            self._closing
            or self._stalled
            or (exchange is not None and (exchange.head_sent or exchange.request.complete))
        ):
            self._reset()
        elif self._reading is not None:
            self._break(BadRequestError("timeout"))
        else:
            self._close()

    def _reset(self) -> None:
        """Closed without waiting for anything: the kernel, too, lets go of what the client has not taken."""
        peer = self.transport.get_extra_info("socket")
        if peer is not None:
            with contextlib.suppress(OSError):
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        self.transport.abort()

    def drain(self) -> None:
        """Shutting down: busy connections close after their answer, idle ones a moment later.

        A request may be on its way on an idle connection: it is still answered, with `Connection: close`.
        """
        if self._exchange is None and self._reading is None and not self._queue:
            self.deadline = self.plane.loop.time() + min(1.0, self.plane.server.drain_s / 4)
