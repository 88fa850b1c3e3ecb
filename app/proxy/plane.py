"""Which model a request is for and which version answers it: the worker's immutable view of models and flags, replaced whole.

Reads no clock but the loop's, awaits nothing, and knows the store, Redis and the control process only through the snapshot it was given.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import os
import ssl
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from typing import Any, Protocol

from app.domain.attempts import FailureLimit
from app.domain.flags import Flags, initial
from app.domain.model import Model, UpstreamTls, Version
from app.domain.policy import AuthPolicy, ServerPolicy
from app.domain.prediction import PredictionIds
from app.domain.routing import RESERVED
from app.journal.records import Record
from app.journal.writer import Writer
from app.link.messages import GuardTrip, Series
from app.proxy.attempt import Attempt
from app.proxy.connection import Departures
from app.proxy.guard import Trip
from app.proxy.request import Request
from app.proxy.served import Served
from app.proxy.statistics import Statistics
from app.proxy.tls import client_context
from app.proxy.upstream import SHADOW_RECEIVE_BUFFER, Upstream


class Client(Protocol):
    """A client's connection, as an exchange sees it."""

    peer: str

    def write(self, data: bytes) -> None: ...
    def finished(self, *, keep: bool) -> None:
        """The answer is complete (or cut, with `keep` False: the connection closes)."""

    def pause_body(self) -> None: ...
    def resume_body(self) -> None: ...


def _no_mirror(exchange: Any, attempt: Any) -> None:
    """Without shadows."""


def _alone(exchange: Any) -> Any:
    """Without shadows."""
    return None


class Replying(Protocol):
    """Whose answer waits for its record."""

    client: Client
    head_sent: bool  # the answer has begun already

    def refused(self) -> bytes:
        """Instead of the answer: what was written down is not safe, and `journal.on_full` is refuse."""


def _send(replies: list[tuple[Replying, bytes, bool]], refuse: bool, safe: bool) -> None:
    for replying, out, keep in replies:
        client = replying.client
        if refuse and not safe:
            if not replying.head_sent:
                client.write(replying.refused())
            client.finished(keep=False)
            continue
        if out:
            client.write(out)
        client.finished(keep=keep)


class GuardListener(Protocol):
    def guard_tripped(self, trip: GuardTrip) -> None: ...


class Plane:
    """Everything the worker's connections share."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        server: ServerPolicy,
        auth: AuthPolicy,
        journal: Writer,
        *,
        capture_bytes: int,
        control: Upstream,
        privacy_secret: bytes,
        guard_listener: GuardListener,
        wall_ns: Callable[[], int],
        tracing: float = -1.0,
        max_connections: int = 1 << 20,
    ) -> None:
        self.loop = loop
        self.server = server
        self.journal = journal
        self.capture_bytes = capture_bytes
        self.control = control
        self.privacy_secret = privacy_secret
        self.tracing = tracing  # share of new traces that are sampled; below 0: no spans, and none is begun
        self.statistics = Statistics()
        # app.proxy.shadow puts itself here.
        self.mirror: Callable[[Any, Any], None] = _no_mirror
        self.accompany: Callable[[Any], Any] = _alone  # asks production at the same time as the canary
        self._replies: list[tuple[Replying, bytes, bool]] = []
        self._copies: list[tuple[Any, Attempt]] = []
        self._flush_due = False
        self._ended = False
        self.departures = Departures(loop)
        self.ids = PredictionIds(os.urandom(32))
        self.wall_ns = wall_ns
        self.inflight = 0
        self.passages = 0  # requests under way to the control process
        self.max_connections = max_connections
        self.draining = False
        self.ready = False
        self.dependencies_down: list[str] = ["control"]
        self.served: dict[str, Served] = {}
        self._auth = auth
        self._failures = FailureLimit()
        self._guard_listener = guard_listener
        self._trusted = tuple(
            ipaddress.ip_network(network, strict=False) for network in server.trusted_proxies
        )
        self._routes: dict[str, list[Served]] = {}
        self._depths: tuple[int, ...] = ()
        self.scheme = b"http" if server.tls is None else b"https"
        self._tls: dict[UpstreamTls, ssl.SSLContext] = {}

    # ---- records and the replies that wait for them

    def record(self, record: Record, kind: str) -> None:
        """Journal it before this turn of the loop ends."""
        if self._ended:  # a copy that is cut off by the process's own end
            return
        self.journal.enqueue(record, kind)
        if not self._flush_due:
            self._flush_due = True
            self.loop.call_soon(self._flush)

    def reply(self, replying: Replying, out: bytes, keep: bool) -> None:
        """Send the (last part of an) answer once its record is written: all answers of one turn share one write."""
        self._replies.append((replying, out, keep))

    def copy(self, exchange: Any, attempt: Attempt) -> None:
        """Mirror the request after its answer has left."""
        self._copies.append((exchange, attempt))

    def _flush(self) -> None:
        self._flush_due = False
        if self._ended:
            return
        journal = self.journal
        kept = journal.flush()
        replies, self._replies = self._replies, []
        if journal.refusing and not kept:  # of the whole group, and there is no answer without a record
            _send(replies, True, False)
        elif journal.always:
            journal.when_durable(partial(_send, replies, self.journal.refusing))
        else:
            _send(replies, False, True)
        if self._copies:
            copies, self._copies = self._copies, []
            for exchange, attempt in copies:
                self.mirror(exchange, attempt)
            self.departures.leave()

    # ---- snapshots

    def apply(self, models: list[Model], flags: dict[str, Flags]) -> None:
        """Serve these models under these flags from the next request on. What is under way ends as it began."""
        before = self.served
        served = {}
        for model in models:
            old = before.get(model.name)
            now = flags.get(model.name)
            if now is None or model.version(now.production) is None:
                now = initial(model)
            served[model.name] = (
                old
                if old is not None and old.model == model and old.flags == now
                else Served(self, model, now, old)
            )
        self._replace(served)
        for name, old in before.items():
            new = served.get(name)
            if new is not old:
                old.retire(new)

    def apply_one(self, model: Model, flags: Flags) -> None:
        """The same for one model: what a flag change costs does not grow with the number of models."""
        old = self.served.get(model.name)
        if old is not None and old.flags.revision > flags.revision and old.model == model:
            return  # a late message about an older state
        if model.version(flags.production) is None:
            return
        new = Served(self, model, flags, old)
        if old is not None and old.model.match == model.match:
            self.served[model.name] = new
            routes = self._routes[_prefix(model)]
            routes[routes.index(old)] = new
        else:
            self._replace({**self.served, model.name: new})
        if old is not None:
            old.retire(new)

    def _replace(self, served: dict[str, Served]) -> None:
        routes: dict[str, list[Served]] = {}
        for one in served.values():
            routes.setdefault(_prefix(one.model), []).append(one)
        for listed in routes.values():  # the most particular first
            listed.sort(
                key=lambda one: (one.model.match.host is None, -len(one.model.match.headers), one.name)
            )
        self.served = served
        self._routes = routes
        self._depths = tuple(sorted({prefix.count("/") for prefix in routes}, reverse=True))

    def upstream(self, model: Model, version: Version, timeout_s: float, *, shadow: bool) -> Upstream:
        return Upstream(
            self.loop,
            version.urls,
            timeout_s=timeout_s,
            connect_timeout_s=version.connect_timeout_s,
            max_header_bytes=self.server.max_header_bytes,
            tls=partial(self._context, model.tls),
            server_name=model.tls.server_name,
            receive_buffer=SHADOW_RECEIVE_BUFFER if shadow else 0,
            on_eject=partial(self._ejected, model.name, version.name),
            departures=self.departures,
        )

    def _ejected(self, model: str, version: str, place: int, reason: str) -> None:
        self.statistics.count("gateway_upstream_ejections_total", model, version, str(place), reason)

    def ejected(self) -> list[Series]:
        """How many URLs of each version are left out now, canaries' and production's; shadows have windows of their own."""
        return [
            Series("gateway_upstream_ejected_urls", (served.name, version), upstream.ejected)
            for served in self.served.values()
            for version, upstream in served.upstreams.items()
            if upstream.several
        ]

    def _context(self, tls: UpstreamTls) -> ssl.SSLContext:
        """Made when first connected with: reading authorities takes milliseconds, and most models need none."""
        context = self._tls.get(tls)
        if context is None:
            context = self._tls[tls] = client_context(tls)
        return context

    # ---- routing

    def route(self, request: Request) -> Served | None:
        """The model with the longest matching prefix, or None. Costs one look-up for each depth in use, however many models."""
        path = request.path.decode("latin-1")
        places: list[int] = []
        place = path.find("/", 1)
        while place > 0:
            places.append(place)
            place = path.find("/", place + 1)
        whole = len(places) + 1  # segments of the path
        for depth in self._depths:
            if depth > whole:
                continue
            prefix = "" if depth == 0 else path if depth == whole else path[: places[depth - 1]]
            for served in self._routes.get(prefix, ()):
                if self._matches(served.model, request):
                    return served
        return None

    @staticmethod
    def _matches(model: Model, request: Request) -> bool:
        match = model.match
        if match.host is not None:
            host = request.host.decode("latin-1").lower()
            if host != match.host and host.rpartition(":")[0] != match.host:
                return False
        return all(
            request.named.get(name.encode()) == value.encode("latin-1", "replace")
            for name, value in match.headers
        )

    @staticmethod
    def reserved(request: Request) -> bool:
        """Whether the path belongs to the gateway itself: it never reaches a model."""
        path = request.path.decode("latin-1")
        end = path.find("/", 1)
        return (path[1:] if end < 0 else path[1:end]) in RESERVED or path == "/"

    # ---- callers

    def may_force(self, request: Request, peer: str) -> bool:
        """Whether the caller shows a token with scope operate. Wrong ones are counted, and keep no right one out."""
        token = request.named.get(b"x-gateway-token", b"")
        if not token:
            scheme, _, token = request.named.get(b"authorization", b"").partition(b" ")
            if scheme.lower() != b"bearer":
                return False
        digest = sha256(token.strip()).hexdigest()
        allowed = False
        for known in self._auth.tokens:
            same = hmac.compare_digest(digest, known.sha256.lower())
            allowed |= same and ("operate" in known.scopes or "admin" in known.scopes)
        self._failures.settle(peer, self.loop.time(), right=allowed)
        return allowed

    def trusts(self, peer: str) -> bool:
        """Whether this peer's X-Forwarded-* fields are believed."""
        if not self._trusted:
            return False
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return False
        return any(address in network for network in self._trusted)

    # ---- guard

    def guard_tripped(self, served: Served, trip: Trip) -> None:
        flags = served.flags
        self._guard_listener.guard_tripped(
            GuardTrip(
                served.name,
                flags.candidate or "",
                flags.rollout_id,
                flags.revision,
                trip.reason,
                trip.requests,
                trip.errors,
                self.wall_ns(),
                trip.log_e,
            )
        )

    def close_batches(self, now: float) -> None:
        """By the clock: what the guards bet on ends here."""
        for served in self.served.values():
            if served.canary is not None:
                trip = served.guard.close_batch(now)
                if trip is not None:
                    self.guard_tripped(served, trip)

    def sweep(self, now: float) -> None:
        """Close connections to model servers that were idle too long."""
        for served in self.served.values():
            for upstream in (*served.upstreams.values(), *served.shadow_upstreams.values()):
                upstream.sweep(now)

    def close(self) -> None:
        """The journal is about to be closed: what ends later is nobody's answer any more, and leaves no record."""
        self._ended = True
        for served in self.served.values():
            served.retire(None)
        self.control.close()


def _prefix(model: Model) -> str:
    return model.match.path_prefix.rstrip("/")
