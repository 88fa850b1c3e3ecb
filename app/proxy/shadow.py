"""Copies of a request that was already answered: to shadow versions, and of a canary's request to production (the control mirror).

Own connections, own deadline, bounded concurrency and memory. Whatever a copy does, hang, crash or answer without end, ends here: nothing
of it reaches the client, and what is not sent is counted with its reason.
"""

from __future__ import annotations

from app.journal.records import ShadowRecord
from app.link.messages import Pair
from app.proxy.attempt import Attempt
from app.proxy.exchange import Exchange, answer_status, pair_of, shadow_record
from app.proxy.plane import Plane
from app.proxy.request import CopiedHead
from app.proxy.served import Served

# A copy's answer may be this large, or four times production's; a larger one is cut off at once. Reading costs the worker: with 1 MiB,
# 250 answers without end a second moved production's p99 by 13 % (benchmarks/shadow_faults.py).
MAX_ANSWER = 256 * 1024
MAX_PAIRS = 10_000  # between two publications


class Copy:
    """One copy of one request under way."""

    __slots__ = (
        "_answer_size",
        "_body",
        "_first",
        "_first_version",
        "_head",
        "_largest",
        "_parent",
        "at_ns",
        "id",
        "role",
        "served",
        "shadows",
        "version",
    )

    def __init__(
        self,
        shadows: Shadows,
        exchange: Exchange,
        version: str,
        role: str,
        first: Attempt | None,
        largest: int,
        head: CopiedHead,
    ) -> None:
        self.shadows = shadows
        self.served = exchange.served
        self.id = exchange.id
        self.at_ns = exchange.request.at_ns
        self.version = version
        self.role = role
        self._first = first  # whose answer the client had, where the two are a pair of the evidence
        self._first_version = exchange.version
        self._largest = largest
        self._head = head
        self._parent = exchange.head.traceparent
        self._body: list[bytes] = []
        self._answer_size = 0

    def progressed(self, attempt: Attempt) -> None:
        cap = self.shadows.plane.capture_bytes
        for part in attempt.parts:
            if self._answer_size < cap:
                self._body.append(part[: cap - self._answer_size])
            self._answer_size += len(part)
        attempt.parts.clear()
        if self._answer_size > self._largest or attempt.length > self._largest:
            attempt.cancel()
            attempt.error = "too_large"
            self._end(attempt)

    def answered(self, attempt: Attempt) -> None:
        self.progressed(attempt)
        if not attempt.error:
            self._end(attempt)

    def failed(self, attempt: Attempt) -> None:
        self._end(attempt)

    def stalled(self, attempt: Attempt) -> None:
        """The body was handed over whole; it waits in the socket's buffer, within the deadline."""

    def drained(self, attempt: Attempt) -> None:
        """See `stalled`."""

    def _end(self, attempt: Attempt) -> None:
        served = self.served
        plane = self.shadows.plane
        self.shadows.running[(served.name, self.version, self.role)] -= 1
        seconds = attempt.ended_at - attempt.started_at
        is_error = bool(attempt.error) or attempt.status >= 500
        served.track(self.version, self.role, False).record(answer_status(attempt), is_error, seconds)
        if attempt.error:
            plane.statistics.count("gateway_shadow_dropped_total", served.name, self.version, attempt.error)
        if self.role == "control":
            first = self._first
            waited = (
                first is None or first.status > 0 or bool(first.error)
            )  # else it was asked for its slowness
            served.observe(self.version, is_error, seconds * 1000.0, attempt.ended_at, fair=waited)
        if self._first is not None:
            self.shadows.pair(pair_of(served, self._first_version, self._first, attempt, self.version))
        plane.record(self._record(attempt), "shadow")

    def _record(self, attempt: Attempt) -> ShadowRecord:
        return shadow_record(
            self.id,
            self.at_ns,
            self.served,
            self.version,
            self.role,
            attempt,
            self.shadows.plane.capture_bytes,
            b"".join(self._body),
            self._head.traceparent if self.shadows.plane.tracing >= 0.0 else b"",
            self._parent[36:52],
        )


class Shadows:
    """Starts copies within their bounds."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        plane.mirror = self.mirror
        self.running: dict[tuple[str, str, str], int] = {}
        self.pairs: list[Pair] = []

    def mirror(self, exchange: Exchange, attempt: Attempt) -> None:
        """Called after the answer has left, or the client has."""
        served = exchange.served
        place = exchange.place
        largest = max(MAX_ANSWER, 4 * attempt.size)
        if place < served.model.shadow.sample and not exchange.left:
            # While a promoted version is watched, the former production is its shadow: some of those are pairs.
            first = attempt if served.watched and place < served.model.canary.control.max_share else None
            for version in served.shadow_versions:
                if version != exchange.version:
                    self._start(exchange, version, "shadow", first if exchange.counts else None, largest)
        if not exchange.counts:
            return
        if exchange.role == "canary":
            if served.within_control_budget(place):
                self._start(exchange, served.flags.production, "control", attempt, largest)
        elif exchange.role == "production" and place < served.noise:
            self._start(exchange, exchange.version, "control", attempt, largest)

    def _start(
        self, exchange: Exchange, version: str, role: str, first: Attempt | None, largest: int
    ) -> None:
        served = exchange.served
        request = exchange.request
        key = (served.name, version, role)
        running = self.running.get(key, 0)
        if running >= served.model.shadow.max_concurrency:
            self._drop(served, version, "saturated")
            return
        if not request.retained:
            self._drop(served, version, "oversize")
            return
        if self.plane.draining:
            self._drop(served, version, "draining")
            return
        self.running[key] = running + 1
        head = CopiedHead(exchange.head)
        copy = Copy(self, exchange, version, role, first, largest, head)
        framing = b"Content-Length: %d\r\n" % request.size if request.length else b""
        attempt = Attempt(
            served.shadow_upstreams[version], copy, request.method, head, framing, request.body()
        )
        attempt.upstream.start(attempt)

    def _drop(self, served: Served, version: str, reason: str) -> None:
        self.plane.statistics.count("gateway_shadow_dropped_total", served.name, version, reason)

    def pair(self, pair: Pair) -> None:
        if len(self.pairs) < MAX_PAIRS:
            self.pairs.append(pair)
        else:
            self.plane.statistics.count("gateway_pairs_dropped_total", pair.model)

    def take_pairs(self) -> list[Pair]:
        taken, self.pairs = self.pairs, []
        return taken
