"""A version's model servers: which URL is asked, its idle connections, and a deadline over each whole exchange.

Only a refused connection is tried elsewhere, once.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
import threading
from collections.abc import Callable
from time import monotonic

from app.domain.upstream_url import forbidden
from app.proxy.address import Address
from app.proxy.attempt import Attempt
from app.proxy.connection import Connection, Departures
from app.proxy.deadlines import Deadlines
from app.proxy.outliers import Standing

MAX_IDLE = 256
REFUSED_S = 1.0  # a URL that refused a connection is asked again after this
# The kernel takes no more than about this of a copy's answer before the worker reads: what a shadow sends without being asked for it
# costs this host as little as can be.
SHADOW_RECEIVE_BUFFER = 65_536


class Endpoint:
    """One URL of a version: its idle connections, newest used first, and how many attempts are under way."""

    __slots__ = (
        "_connections",
        "_idle",
        "_lookup",
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
        self._lookup: asyncio.Future[list[str]] | None = None  # one at a time, however many wait for it

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
        except (
            OSError,
            TimeoutError,
            UnicodeError,
        ):  # SSLError is an OSError; a name may be none that DNS can have
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
        if self._lookup is None or self._lookup.done():
            self._lookup = _looked_up(self.upstream.loop, self.address.host, self.address.port)
        return await asyncio.shield(self._lookup)

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


def _looked_up(loop: asyncio.AbstractEventLoop, host: str, port: int) -> asyncio.Future[list[str]]:
    """The addresses of a name, asked for in a thread of its own.

    The loop's resolver shares a few threads among all names: look-ups that hang (a shadow's) would hold up every other (production's),
    and they hang on when nobody waits for them any more. A thread that hangs here keeps no process from ending.
    """
    found: asyncio.Future[list[str]] = loop.create_future()
    found.add_done_callback(_seen)

    def tell(addresses: list[str], error: OSError | UnicodeError | None) -> None:
        if found.done():
            return
        if error is None:
            found.set_result(addresses)
        else:
            found.set_exception(error)

    def ask() -> None:
        addresses: list[str] = []
        error: OSError | UnicodeError | None = None
        try:
            answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            addresses = list(dict.fromkeys(str(at[0]) for *_, at in answers))
        except (OSError, UnicodeError) as failure:  # UnicodeError: a name that DNS cannot have
            error = failure
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(tell, addresses, error)

    threading.Thread(target=ask, name=f"resolver {host}", daemon=True).start()
    return found


def _seen(done: asyncio.Future[list[str]]) -> None:
    """An error is no complaint when nobody waits for it any more."""
    if not done.cancelled():
        done.exception()


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
        attempt.started_at = monotonic()
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

    @property
    def ejected(self) -> int:
        """How many URLs are left out now."""
        now = self.loop.time()
        return sum(standing.out_until > now for standing in self._standings)
