"""Connections to model servers: HTTP/1.1, kept alive, strict, with a deadline over the whole exchange.

An `Attempt` is one request to one version. Its owner is told of progress, end or failure, once, by a plain call: no task and no
future stand between. A request is never sent a second time once the server may have read a byte of it; only a refused connection
is tried elsewhere. RFC 9112 sections 6 and 9 (framing, persistence), RFC 9110 section 9.2.2 (what may be repeated).
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import random
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

import httptools

from app.domain.upstream_url import forbidden
from app.proxy.deadlines import Deadline, Deadlines
from app.proxy.outliers import Standing

# Model servers behind uvicorn close after five idle seconds; going first avoids writing into a closing connection.
IDLE_S = 4.0
MAX_IDLE = 256
REFUSED_S = 1.0  # a URL that refused a connection is asked again after this
HIGH_WATER = 262_144
# The kernel takes no more than about this of a copy's answer before the worker reads: what a shadow sends without being asked for it
# costs this host as little as can be.
SHADOW_RECEIVE_BUFFER = 65_536
OWS = b" \t"  # optional white space around a field's value, RFC 9110 section 5.6.3
VERSIONS = ("1.1", "1.0")
IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS"))

Field = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Address:
    """Where a URL points: a TCP host and port, or a Unix socket; `base` is the path in front of every target."""

    host: str
    port: int
    unix: str | None
    tls: bool
    base: bytes
    authority: bytes
    literal: bool  # the host is an IP address, not a name

    @classmethod
    def of(cls, url: str) -> Address:
        """`ValueError` unless http, https or unix."""
        parts = urlsplit(url)
        if parts.scheme == "unix":
            return cls("", 0, parts.path, False, b"", b"localhost", True)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no http, https or unix URL")
        tls = parts.scheme == "https"
        default = 443 if tls else 80
        port = parts.port or default
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        authority = host if port == default else f"{host}:{port}"
        base = parts.path.rstrip("/").encode()
        return cls(parts.hostname, port, None, tls, base, authority.encode(), _is_address(parts.hostname))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


class Head(Protocol):
    """A request head that is whole but for where it goes: known only once an endpoint is chosen."""

    def at(self, address: Address, framing: bytes) -> bytes: ...


class Owner(Protocol):
    """Whoever started an attempt. After `answered` or `failed` nothing more is called."""

    def progressed(self, attempt: Attempt) -> None:
        """The head is complete and the rest will come later; `attempt.parts` may hold the first of it."""

    def answered(self, attempt: Attempt) -> None:
        """The answer is complete; `attempt.parts` holds what was not taken before."""

    def failed(self, attempt: Attempt) -> None:
        """No (complete) answer will come; `attempt.error` says why: unreachable, timeout, protocol, cut."""

    def drained(self, attempt: Attempt) -> None:
        """The server reads again; more of the request body may be sent."""

    def stalled(self, attempt: Attempt) -> None:
        """The server reads slower than we send; hold back the request body."""


class Attempt:
    """One request to one version, and what has come back."""

    __slots__ = (
        "body",
        "connection",
        "deadline",
        "done",
        "ended_at",
        "endpoint",
        "error",
        "fields",
        "first_byte_at",
        "framing",
        "head",
        "head_complete",
        "length",
        "method",
        "named",
        "open_body",
        "owner",
        "parts",
        "retried",
        "size",
        "started_at",
        "status",
        "upstream",
    )

    def __init__(
        self,
        upstream: Upstream,
        owner: Owner,
        method: bytes,
        head: Head,
        framing: bytes,
        body: bytes,
        *,
        open_body: bool = False,
    ) -> None:
        self.upstream = upstream
        self.owner = owner
        self.method = method
        self.head = head
        self.framing = framing  # Content-Length or Transfer-Encoding line, or nothing
        self.body = body
        self.open_body = open_body  # more of the request body follows through `send`
        self.connection: Connection | None = None
        self.endpoint: Endpoint | None = None
        self.deadline: Deadline | None = None
        self.done = False
        self.retried = False
        self.error = ""
        self.status = 0
        self.fields: list[Field] = []
        self.named: dict[bytes, bytes] = {}  # lower-case name -> last value
        self.head_complete = False
        self.length = -1  # Content-Length; -1: chunked or until the end of the connection
        self.parts: list[bytes] = []
        self.size = 0
        self.started_at = 0.0
        self.first_byte_at = 0.0
        self.ended_at = 0.0

    def send(self, data: bytes) -> None:
        """The next part of an open request body, framed by the caller. Kept until there is a connection."""
        if self.connection is not None:
            self.connection.transport.write(data)
        elif not self.done:
            self.body += data

    def end_body(self) -> None:
        self.open_body = False
        if self.connection is not None:
            self.connection.body_sent()

    def pause(self) -> None:
        if self.connection is not None:
            self.connection.pause()

    def resume(self) -> None:
        if self.connection is not None:
            self.connection.resume()

    def no_deadline(self) -> None:
        """From here on as long as it takes (streams of the control process)."""
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None

    def cancel(self) -> None:
        """Nobody waits any more: the connection is closed, since its answer may still be on the way."""
        if not self.done:
            self._finish()
            if self.connection is not None:
                self.connection.abandon()
                self.connection = None

    def expired(self) -> None:
        self.fail("timeout")

    def fail(self, error: str) -> None:
        if self.done:
            return
        connection, self.connection = self.connection, None
        self._finish()
        self.error = error
        if connection is not None:
            connection.abandon()
        if self.upstream.several:
            self.upstream.judge(self.endpoint, error, self.ended_at)
        self.owner.failed(self)

    def complete(self) -> None:
        self._finish()
        if self.upstream.several:
            self.upstream.judge(self.endpoint, "status" if self.status >= 500 else "", self.ended_at)
        self.owner.answered(self)

    def _finish(self) -> None:
        self.done = True
        self.ended_at = self.upstream.loop.time()
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None
        if self.endpoint is not None:
            self.endpoint.inflight -= 1


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
        if attempt is None:  # bytes nobody asked for: out of step
            self.abandon()
            return
        if attempt.first_byte_at == 0.0:
            attempt.first_byte_at = self.endpoint.upstream.loop.time()
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
        # Told only now, outside the parser: the owner may start the next attempt on this very connection.
        if self._finished:
            self._end(attempt)
        elif attempt.head_complete:
            attempt.owner.progressed(attempt)

    def eof_received(self) -> bool:
        self._ended = True
        return False

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
        self._fed = 0
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


class Endpoint:
    """One URL of a version: its idle connections, newest used first, and how many attempts are under way."""

    __slots__ = (
        "_connections",
        "_idle",
        "_tasks",
        "address",
        "down_until",
        "inflight",
        "standing",
        "upstream",
        "url",
    )

    def __init__(self, upstream: Upstream, url: str) -> None:
        self.upstream = upstream
        self.url = url
        self.address = Address.of(url)
        self.inflight = 0
        self.down_until = 0.0
        self.standing = Standing()
        self._idle: list[Connection] = []
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, attempt: Attempt, now: float) -> None:
        attempt.endpoint = self
        self.inflight += 1
        idle = self._idle
        while idle:
            connection = idle.pop()
            if not connection.closed and now - connection.idle_since < connection.idle_limit:
                connection.begin(attempt, reused=True)
                return
            connection.abandon()
        self.connect_for(attempt)

    def connect_for(self, attempt: Attempt) -> None:
        task = self.upstream.loop.create_task(self._connect(attempt))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, attempt: Attempt) -> None:
        address = self.address
        loop = self.upstream.loop
        connection = Connection(self)
        try:
            async with asyncio.timeout(self.upstream.connect_timeout_s):
                if address.unix is not None:
                    await loop.create_unix_connection(lambda: connection, address.unix)
                else:
                    await self._connect_to(connection)
        except (OSError, TimeoutError, ssl.SSLError):
            self.down_until = max(self.down_until, loop.time() + REFUSED_S)
            if not attempt.done:
                self._elsewhere(attempt)
            return
        if connection.closed:
            if not attempt.done:
                attempt.fail("unreachable")
            return
        self._connections.add(connection)
        if (
            attempt.done
        ):  # its client left, or its time is up, while we connected: keep the connection for the next
            self.release(connection)
        else:
            connection.begin(attempt, reused=False)

    async def _connect_to(self, connection: Connection) -> None:
        """To one of the addresses that the name has now, never to one that no model server has. OSError when none answers."""
        address = self.address
        upstream = self.upstream
        context = upstream.tls() if address.tls else None
        error = OSError(f"{address.host} has no address")
        for host in await self._addresses():
            if not address.literal and (
                reason := forbidden(host)
            ):  # an address in the file is the operator's own word
                error = OSError(f"{address.host} is at {host}, which {reason}")
                continue
            try:
                await upstream.loop.create_connection(
                    lambda: connection,
                    host,
                    address.port,
                    ssl=context,
                    server_hostname=(upstream.server_name or address.host) if address.tls else None,
                )
                return
            except OSError as failure:
                error = failure
        raise error

    async def _addresses(self) -> list[str]:
        """What the host's name stands for, in the resolver's order (RFC 6724); an address stands for itself.

        A name is looked up by us, and the address found is the one connected to: a name that changes its address between check and
        connection gets nowhere (DNS rebinding).
        """
        if self.address.literal:
            return [self.address.host]
        found = await self.upstream.loop.getaddrinfo(
            self.address.host, self.address.port, type=socket.SOCK_STREAM
        )
        return list(dict.fromkeys(str(at[0]) for *_, at in found))

    def _elsewhere(self, attempt: Attempt) -> None:
        """Not a byte was sent: another URL of the version may be tried, once."""
        other = None if attempt.retried else self.upstream.other_than(self)
        if other is None:
            attempt.fail("unreachable")
            return
        attempt.retried = True
        self.inflight -= 1
        now = self.upstream.loop.time()
        self.upstream.judge(self, "unreachable", now)
        other.start(attempt, now)

    def release(self, connection: Connection) -> None:
        connection.idle_since = self.upstream.loop.time()
        if len(self._idle) >= MAX_IDLE or self.upstream.closed:
            connection.abandon()
        else:
            self._idle.append(connection)

    def forget(self, connection: Connection) -> None:
        self._connections.discard(connection)
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)

    def sweep(self, now: float) -> None:
        """Close connections that have been idle too long."""
        for connection in [c for c in self._idle if now - c.idle_since >= c.idle_limit]:
            connection.abandon()

    def close(self) -> None:
        """Close what is idle; what is in use ends with its attempt."""
        for connection in list(self._idle):
            connection.abandon()
        self._idle.clear()

    @property
    def open_connections(self) -> int:
        return len(self._connections)


def _nobody_told(place: int, reason: str) -> None:
    """Ejections are counted by whoever wants to know."""


class Upstream:
    """A version's URLs. The less busy of two random ones is asked (Mitzenmacher 2001, "The power of two choices")."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        urls: tuple[str, ...],
        *,
        timeout_s: float,
        connect_timeout_s: float,
        max_header_bytes: int = 65_536,
        tls: Callable[[], ssl.SSLContext] = ssl.create_default_context,
        server_name: str | None = None,
        receive_buffer: int = 0,
        on_eject: Callable[[int, str], None] = _nobody_told,
        departures: Departures | None = None,
    ) -> None:
        self.loop = loop
        self.departures = departures or Departures(loop)
        self.urls = urls
        self.receive_buffer = receive_buffer  # bytes; 0: as the kernel likes
        self.connect_timeout_s = connect_timeout_s
        self.timeout_s = timeout_s
        self.max_header_bytes = max_header_bytes
        self.closed = False
        self.tls = tls
        self.server_name = server_name  # in the servers' certificates; None: the URL's host
        self.endpoints = [Endpoint(self, url) for url in urls]
        self.several = len(urls) > 1  # a single URL has nobody to be compared with
        self._standings = [endpoint.standing for endpoint in self.endpoints]
        self._on_eject = on_eject
        self._deadlines = Deadlines(loop, timeout_s)
        self._single = self.endpoints[0] if len(self.endpoints) == 1 else None

    def start(self, attempt: Attempt) -> None:
        """Send the attempt to one of the URLs; its owner will hear of it before the deadline has passed, or then."""
        now = self.loop.time()
        attempt.started_at = now
        attempt.deadline = self._deadlines.start(now, attempt.expired)
        (self._single or self._choose(now)).start(attempt, now)

    def _choose(self, now: float) -> Endpoint:
        usable = [e for e in self.endpoints if e.down_until <= now] or self.endpoints
        if len(usable) == 1:
            return usable[0]
        first, second = random.sample(usable, 2)
        return first if first.inflight <= second.inflight else second

    def judge(self, endpoint: Endpoint | None, error: str, now: float) -> None:
        """An attempt ended: well (`error` is empty) or with this failure of the URL. Told of each ejection: the URL's place, and why."""
        if endpoint is None:
            return
        if not error:
            endpoint.standing.succeeded(now)
        elif endpoint.standing.failed(now, self._standings):
            endpoint.down_until = max(endpoint.down_until, endpoint.standing.out_until)
            self._on_eject(self.endpoints.index(endpoint), error)

    def other_than(self, endpoint: Endpoint) -> Endpoint | None:
        now = self.loop.time()
        others = [e for e in self.endpoints if e is not endpoint and e.down_until <= now]
        return random.choice(others) if others else None  # noqa: S311  # spreads load, guards nothing

    def sweep(self, now: float) -> None:
        for endpoint in self.endpoints:
            endpoint.sweep(now)

    def close(self) -> None:
        """No new connection is kept; running attempts end by themselves or by their deadline."""
        self.closed = True
        for endpoint in self.endpoints:
            endpoint.close()

    @property
    def inflight(self) -> int:
        return sum(e.inflight for e in self.endpoints)
