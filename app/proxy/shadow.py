"""Copies of a request that was already answered: to shadow versions, and of a canary's request to production (the control mirror,
which may also be asked at the same time as the canary).

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
        "judges",
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
        self.judges: Exchange | None = (
            None  # whose canary's failure waits for what production makes of the request
        )
        self._first = first  # whose answer the client had, where the two are a pair of the evidence
        self._first_version = exchange.assignment.version
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
        if self.judges is not None:
            self.judges.judge_canary(shared=is_error)
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


class Twin:
    """Production's answer to a canary's request, asked for at the same time.

    While the canary does well it is a control call like any other. Fails the canary, what has come of this answer is the client's at
    once, and the rest as it comes: it goes over production's own connections, with production's own deadline.
    """

    __slots__ = (
        "_ended",
        "_exchange",
        "_first",
        "_head",
        "_parent",
        "_shadows",
        "attempt",
        "version",
    )

    def __init__(self, shadows: Shadows, exchange: Exchange, version: str) -> None:
        request = exchange.request
        self._shadows = shadows
        self._exchange: Exchange = exchange
        self._first: Attempt | None = None  # the client's answer, once it is complete
        self._ended = False  # this answer is complete, or will not come
        self._head = CopiedHead(exchange.head)
        self._parent = exchange.head.traceparent[36:52]
        self.version = version
        framing = b"Content-Length: %d\r\n" % request.size if request.length else b""
        self.attempt = Attempt(
            exchange.served.upstreams[version], self, request.method, self._head, framing, request.body()
        )

    # ---- for the exchange

    @property
    def usable(self) -> bool:
        return self.attempt.error != "too_large"

    def hand_over(self, exchange: Exchange) -> None:
        attempt = self.attempt
        if not self._ended:
            self._free()
        exchange.attempt = attempt
        attempt.owner = exchange
        if not attempt.done:
            if attempt.head_complete:
                exchange.progressed(attempt)
        elif attempt.error:
            exchange.failed(attempt)
        else:
            exchange.answered(attempt)

    def first_ended(self, first: Attempt | None) -> None:
        self._first = first
        if self._ended:
            self._tell()

    # ---- from the model server

    def progressed(self, attempt: Attempt) -> None:
        if attempt.size > MAX_ANSWER or attempt.length > MAX_ANSWER:
            attempt.cancel()
            attempt.error = "too_large"
            self._end()

    def answered(self, attempt: Attempt) -> None:
        self._end()

    def failed(self, attempt: Attempt) -> None:
        self._end()

    def stalled(self, attempt: Attempt) -> None:
        """The body was handed over whole; it waits in the socket's buffer, within the deadline."""

    def drained(self, attempt: Attempt) -> None:
        """See `stalled`."""

    def _free(self) -> None:
        self._shadows.running[(self._exchange.served.name, self.version, "control")] -= 1

    def _end(self) -> None:
        self._ended = True
        self._free()
        if self._first is not None or self._exchange.ended:
            self._tell()

    def _tell(self) -> None:
        """Both are complete, and the client has the canary's answer (or none): this one is evidence."""
        exchange, attempt = self._exchange, self.attempt
        served = exchange.served
        plane = self._shadows.plane
        if attempt.error:
            plane.statistics.count("gateway_shadow_dropped_total", served.name, self.version, attempt.error)
        if attempt.error != "too_large":  # we cut that one off: it says nothing of the version
            seconds = attempt.ended_at - attempt.started_at
            is_error = bool(attempt.error) or attempt.status >= 500
            served.track(self.version, "control", False).record(answer_status(attempt), is_error, seconds)
            served.observe(self.version, is_error, seconds * 1000.0, attempt.ended_at, fair=True)
            if self._first is not None:
                first_version = exchange.assignment.version
                self._shadows.pair(pair_of(served, first_version, self._first, attempt, self.version))
        plane.record(
            shadow_record(
                exchange.id,
                exchange.request.at_ns,
                served,
                self.version,
                "control",
                attempt,
                plane.capture_bytes,
                None,
                self._head.traceparent if plane.tracing >= 0.0 else b"",
                self._parent,
            ),
            "shadow",
        )


class Shadows:
    """Starts copies within their bounds."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        plane.mirror = self.mirror
        plane.accompany = self.accompany
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
        if exchange.failure is not None:
            self._production_tried(exchange, attempt, largest)
        elif served.concurrent or not exchange.counts:
            return
        elif exchange.role == "canary":
            if served.within_control_budget(place):
                self._start(exchange, served.flags.production, "control", attempt, largest)
        elif (
            exchange.role == "production"
            and place < served.noise
            and self._start(exchange, exchange.version, "control", attempt, largest)
        ):
            served.asked_twice()

    def _production_tried(self, exchange: Exchange, attempt: Attempt, largest: int) -> None:
        """The canary failed, and production answered in its stead: a pair as any other, drawn as any other. Where the client left before
        production had answered, it is asked again, for the canary's failure must be judged.
        """
        served = exchange.served
        failure = exchange.failure
        assert failure is not None
        drawn = exchange.counts and served.within_control_budget(exchange.place)
        if not exchange.left:
            if drawn:
                canary = exchange.assignment.version
                self.pair(pair_of(served, canary, failure, attempt, exchange.version))
        elif not (
            drawn and self._start(exchange, served.flags.production, "control", failure, largest, True)
        ):
            # Nobody knows what production would have said. Other requests are compared, unless none is.
            exchange.judge_canary(shared=served.compares)

    def accompany(self, exchange: Exchange) -> Twin | None:
        """Ask production at the same time as the canary, if this request is drawn for the control mirror; or twice at the same time,
        to see how much production differs from itself when asked so.
        """
        served = exchange.served
        place = exchange.place
        if not (served.within_control_budget(place) if exchange.role == "canary" else place < served.noise):
            return None
        version = served.flags.production
        key = (served.name, version, "control")
        if not self._may_start(exchange, version, "control"):
            return None
        self.running[key] = self.running.get(key, 0) + 1
        if exchange.role == "production":
            served.asked_twice()
        twin = Twin(self, exchange, version)
        twin.attempt.upstream.start(twin.attempt)
        return twin

    def _may_start(self, exchange: Exchange, version: str, role: str) -> bool:
        """Within the bounds; else it is counted why not."""
        served = exchange.served
        if self.running.get((served.name, version, role), 0) >= served.model.shadow.max_concurrency:
            self._drop(served, version, "saturated")
        elif not exchange.request.retained:
            self._drop(served, version, "oversize")
        elif self.plane.draining:
            self._drop(served, version, "draining")
        else:
            return True
        return False

    def _start(
        self,
        exchange: Exchange,
        version: str,
        role: str,
        first: Attempt | None,
        largest: int,
        judges: bool = False,
    ) -> bool:
        served = exchange.served
        request = exchange.request
        if not self._may_start(exchange, version, role):
            return False
        key = (served.name, version, role)
        self.running[key] = self.running.get(key, 0) + 1
        head = CopiedHead(exchange.head)
        copy = Copy(self, exchange, version, role, first, largest, head)
        if judges:
            copy.judges = exchange
        framing = b"Content-Length: %d\r\n" % request.size if request.length else b""
        attempt = Attempt(
            served.shadow_upstreams[version], copy, request.method, head, framing, request.body()
        )
        attempt.upstream.start(attempt)
        return True

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
