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
from http.cookies import CookieError, SimpleCookie
from typing import Any, Protocol
from urllib.parse import parse_qs

from app.domain.attempts import FailureLimit
from app.domain.evidence.tick import KeyVotes
from app.domain.flags import Flags, initial
from app.domain.model import Model, UpstreamTls, Version
from app.domain.policy import AuthPolicy, ServerPolicy
from app.domain.prediction import PredictionIds
from app.journal.records import Record
from app.journal.writer import Writer
from app.link.messages import GuardTrip
from app.protocols.json_paths import compile_key_path
from app.proxy.fields import VIA
from app.proxy.guard import LocalGuard, Trip
from app.proxy.redaction import Redactor
from app.proxy.request import Request
from app.proxy.statistics import Statistics, Track
from app.proxy.tls import client_context
from app.proxy.upstream import SHADOW_RECEIVE_BUFFER, Attempt, Departures, Upstream

RESERVED = frozenset(
    (
        "admin",
        "feedback",
        "predictions",
        "metrics",
        "healthz",
        "readyz",
        "openapi.json",
        "docs",
        "ofrep",
        "ui",
    )
)


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


def _send(replies: list[tuple[Client, bytes, bool]]) -> None:
    for client, out, keep in replies:
        if out:
            client.write(out)
        client.finished(keep=keep)


class GuardListener(Protocol):
    def guard_tripped(self, trip: GuardTrip) -> None: ...


class Served:
    """A model as this worker serves it under one set of flags. Connections, counters and windows live on from one to the next."""

    def __init__(self, plane: Plane, model: Model, flags: Flags, before: Served | None) -> None:
        self.plane = plane
        self.model = model
        self.flags = flags
        self.name = model.name
        same = before is not None and before.model.name == model.name
        self.upstreams = self._upstreams(before, shadow=False)
        self.shadow_upstreams = self._upstreams(before, shadow=True)
        self.overhead = plane.statistics.overhead_of(model.name)
        keep = (
            before is not None
            and same
            and (before.flags.rollout_id, before.flags.candidate) == (flags.rollout_id, flags.candidate)
        )
        self.guard: LocalGuard = (
            before.guard
            if keep and before is not None and before.model.guard == model.guard
            else LocalGuard(model.guard, flags.candidate, flags.production)
        )
        self.strip = len(model.match.path_prefix.rstrip("/")) if model.match.strip else 0
        self.shadow_versions = (
            tuple(
                v
                for v in flags.shadow_versions
                if v in self.shadow_upstreams and v not in flags.disabled_versions
            )
            if flags.shadow_enabled and model.shadow.sample > 0
            else ()
        )
        self.canary = flags.candidate if flags.canary_enabled and flags.canary_percent > 0 else None
        self.json_key = (
            compile_key_path(model.routing_key.name) if model.routing_key.source == "json" else None
        )
        self.key_header = (
            model.routing_key.name.lower().encode("latin-1") if model.routing_key.source == "header" else None
        )
        self.redactor = (
            Redactor(model, plane.privacy_secret) if model.privacy.drop or model.privacy.hash else None
        )
        control = model.canary.control
        # Under a rollout without a share: it shadows, or its promoted candidate is being watched.
        self.watched: bool = self.canary is None and flags.rollout_id != ""
        # How often production is asked twice while it is compared with anything.
        compared = bool(self.shadow_versions) or (
            self.canary is not None and control.sample > 0.0 and control.max_share > 0.0
        )
        self.noise: float = model.shadow.noise_sample if compared else 0.0
        self.votes: KeyVotes | None = before.votes if before is not None else None
        if model.evidence.unit != "key" or model.routing_key.source == "prediction_id":
            self.votes = None
        elif self.votes is None:
            self.votes = KeyVotes()
        self._labels: dict[tuple[str, str], bytes] = {}
        self._tracks: dict[tuple[str, str, bool], Track] = {}

    def _upstreams(self, before: Served | None, *, shadow: bool) -> dict[str, Upstream]:
        old = {} if before is None else before.shadow_upstreams if shadow else before.upstreams
        if before is not None and before.model.tls != self.model.tls:
            old = {}
        made: dict[str, Upstream] = {}
        for version in self.model.versions:
            timeout = self.model.shadow.timeout_s if shadow else version.timeout_s
            kept = old.get(version.name)
            if kept is not None and (kept.urls, kept.timeout_s, kept.connect_timeout_s) == (
                version.urls,
                timeout,
                version.connect_timeout_s,
            ):
                made[version.name] = kept
            else:
                made[version.name] = self.plane.upstream(self.model, version, timeout, shadow=shadow)
        return made

    def retire(self, successor: Served | None) -> None:
        """Let go of the connections that the successor does not use."""
        for mine, theirs in (
            (self.upstreams, successor.upstreams if successor else {}),
            (self.shadow_upstreams, successor.shadow_upstreams if successor else {}),
        ):
            for name, upstream in mine.items():
                if theirs.get(name) is not upstream:
                    upstream.close()

    def track(self, version: str, role: str, forced: bool) -> Track:
        key = (version, role, forced)
        track = self._tracks.get(key)
        if track is None:
            track = self._tracks[key] = self.plane.statistics.track(self.name, version, role, forced=forced)
        return track

    def reply_fields(self, version: str, role: str) -> bytes:
        """The gateway's own reply fields but for the prediction id."""
        key = (version, role)
        lines = self._labels.get(key)
        if lines is None:
            lines = self._labels[key] = b"\r\nX-Model-Version: %s\r\nX-Model-Role: %s\r\nVia: %s\r\n" % (
                version.encode(),
                role.encode(),
                VIA,
            )
        return lines

    def routing_key(self, request: Request) -> str | None:
        """The sticky key, or None when the request has none (the prediction id then serves)."""
        if self.key_header is not None:
            value = request.named.get(self.key_header)
            return value.decode("latin-1") if value else None
        if self.json_key is not None:
            return self.json_key(request.body()) if request.complete and request.retained else None
        key = self.model.routing_key
        if key.source == "query":
            found = parse_qs(request.query.decode("latin-1")).get(key.name)
            return found[0] if found else None
        if key.source == "cookie":
            try:
                morsel = SimpleCookie(request.text(b"cookie")).get(key.name)
            except CookieError:
                return None
            return morsel.value if morsel is not None else None
        return None

    @property
    def needs_body_for_key(self) -> bool:
        return self.json_key is not None and self.canary is not None

    # ---- the local guard

    def observe(self, version: str, is_error: bool, latency_ms: float, now: float, *, fair: bool) -> None:
        trip = self.guard.observe(version, is_error, latency_ms, now, fair=fair)
        if trip is not None:
            self.plane.guard_tripped(self, trip)

    def within_control_budget(self, place: float) -> bool:
        """Whether the request at this place (0..1, by its id) is compared with production.

        `max_share` bounds control calls to a share of all requests, so that production's load grows by no more than that.
        """
        control = self.model.canary.control
        if self.canary is None or place >= control.sample:
            return False
        percent = self.flags.canary_percent / 100.0
        return percent <= control.max_share or place < control.max_share / percent


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
    ) -> None:
        self.loop = loop
        self.server = server
        self.journal = journal
        self.capture_bytes = capture_bytes
        self.control = control
        self.privacy_secret = privacy_secret
        self.tracing = tracing  # share of new traces that are sampled; below 0: no spans, and none is begun
        self.statistics = Statistics()
        self.mirror: Callable[[Any, Any], None] = _no_mirror  # app.proxy.shadow puts itself here
        self._replies: list[tuple[Client, bytes, bool]] = []
        self._copies: list[tuple[Any, Attempt]] = []
        self._flush_due = False
        self.departures = Departures(loop)
        self.ids = PredictionIds(os.urandom(32))
        self.wall_ns = wall_ns
        self.inflight = 0
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
        self.journal.enqueue(record, kind)
        if not self._flush_due:
            self._flush_due = True
            self.loop.call_soon(self._flush)

    def reply(self, client: Client, out: bytes, keep: bool) -> None:
        """Send the (last part of an) answer once its record is written: all answers of one turn share one write."""
        self._replies.append((client, out, keep))

    def copy(self, exchange: Any, attempt: Attempt) -> None:
        """Mirror the request after its answer has left."""
        self._copies.append((exchange, attempt))

    def _flush(self) -> None:
        self._flush_due = False
        journal = self.journal
        journal.flush()
        replies, self._replies = self._replies, []
        if journal.always:
            journal.when_durable(partial(_send, replies))
        else:
            _send(replies)
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
        """Whether the caller shows a token with scope operate. An address that guessed too often has to wait."""
        now = self.loop.time()
        if self._failures.retry_after_s(peer, now):
            return False
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
        if not allowed:
            self._failures.failed(peer, now)
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
        for served in self.served.values():
            served.retire(None)
        self.control.close()


def _prefix(model: Model) -> str:
    return model.match.path_prefix.rstrip("/")
