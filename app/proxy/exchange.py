"""One request's way: assigned, sent to a version, journaled, answered. Calls back; owns no task and waits for nothing but the model server.

It answers through its client's connection (`Client`) and ends exactly once.
"""

from __future__ import annotations

from time import monotonic
from typing import Protocol

from app.domain.prediction import format_id
from app.domain.routing import Assignment, assign
from app.journal.records import PredictionRecord, ShadowRecord
from app.link.messages import Pair
from app.proxy.attempt import Attempt
from app.proxy.fields import begin_trace, problem
from app.proxy.plane import Client, Plane
from app.proxy.relay import Relay, answer_head, field, inference_length, request_framing
from app.proxy.request import Request, RequestHead
from app.proxy.served import Served

CLIENT_LEFT = 499
MAX_REQUEST_ID = 200  # characters that are recorded: an outcome can name no longer one, and an index takes no much longer one
ERRORS = {
    "timeout": "upstream_timeout",
    "unreachable": "upstream_unreachable",
    "protocol": "upstream_protocol",
    "cut": "upstream_protocol",
}
STATUS_OF = {"timeout": 504, "unreachable": 502, "protocol": 502, "cut": 502}


class ConcurrentControl(Protocol):
    """Production's answer to a canary's request, asked for at the same time (`canary.control.mode: concurrent`)."""

    version: str

    @property
    def usable(self) -> bool:
        """Whether the client can be given this answer, which may still be on its way."""

    def hand_over(self, exchange: Exchange) -> None:
        """The answer, or the rest of it, is the exchange's from now on."""

    def first_ended(self, first: Attempt | None) -> None:
        """The client's answer is complete: the two are compared. None: there is nothing to compare with."""


class Exchange(Relay):
    """A request for a model."""

    __slots__ = (
        "assignment",
        "counts",
        "created",
        "failure",
        "forced",
        "head",
        "id",
        "id_text",
        "judged",
        "key",
        "left",
        "own",
        "role",
        "served",
        "twin",
        "version",
    )

    def __init__(
        self, plane: Plane, served: Served, client: Client, request: Request, forced: str | None
    ) -> None:
        super().__init__(plane, client, request)
        self.served = served
        self.forced = forced
        self.id = plane.ids.next(request.at_ns // 1_000_000)
        self.id_text = format_id(self.id)
        self.created = monotonic()
        self.failure: Attempt | None = None  # the canary's, while production is tried and after
        self.judged = False  # that failure was counted, together with what production made of the request
        self.twin: ConcurrentControl | None = None  # while it is undecided whose answer the client gets
        self.left = False  # the client did not wait for its answer
        flags = served.flags
        # Recorded whether or not it decides anything: what is kept about a key can be found by it.
        key = self.key = served.routing_key(request)
        self.assignment: Assignment = assign(
            production=flags.production,
            candidate=flags.candidate,
            canary_percent=flags.canary_percent,
            canary_enabled=flags.canary_enabled,
            disabled_versions=flags.disabled_versions,
            key=key if key is not None else self.id_text,
            salt=flags.salt,
            forced=forced,
            guard_stopped=served.guard.stop_until > 0.0 and served.guard.stopped(request.at),
        )
        # Forced requests prove nothing, and with `unit: key` only a key's first one in an epoch is a vote.
        votes = served.votes if served.canary is not None else None
        self.counts: bool = forced is None and (
            votes is None or key is None or votes.is_first(key, request.at_ns // 1_000_000_000)
        )
        self.version = self.assignment.version
        self.role = self.assignment.role
        self.own = b""
        plane.inflight += 1
        self.head = RequestHead(
            request,
            served.strip,
            client.peer.encode(),
            bool(plane.server.trusted_proxies) and plane.trusts(client.peer),
            b"X-Prediction-Id: " + self.id_text.encode() + b"\r\n",
            begin_trace(plane.tracing) if plane.tracing >= 0.0 else b"",
        )

    @property
    def place(self) -> float:
        """Where among all requests this one lies, 0..1, for sampling: by its id, so that it depends on nothing else."""
        return int.from_bytes(self.id[-4:], "big") / 4294967296.0

    def begin(self) -> None:
        """Send the request to the assigned version; the body may still be coming."""
        self._send(self.version, self.role)
        if self.served.concurrent and self.counts and self._repeatable and self.role != "fallback":
            self.twin = self.plane.accompany(self)

    @property
    def _repeatable(self) -> bool:
        """Whether all of the request is at hand, for another version."""
        return self.request.complete and self.request.retained

    def _send(self, version: str, role: str) -> None:
        self.version = version
        self.role = role
        self.own = self._own_fields()
        request = self.request
        open_body = not request.complete
        if request.length < 0 and not open_body:
            body, framing = request.body(), b"Content-Length: %d\r\n" % request.size
        else:
            body, framing = request.body(), request_framing(request)
            if request.length < 0 and body:
                body = b"%x\r\n%b\r\n" % (len(body), body)
        self.attempt = Attempt(
            self.served.upstreams[version],
            self,
            request.method,
            self.head,
            framing,
            body,
            open_body=open_body,
        )
        self.attempt.upstream.start(self.attempt)

    def _own_fields(self) -> bytes:
        """The gateway's own fields of the answer."""
        return (
            b"X-Prediction-Id: " + self.id_text.encode() + self.served.reply_fields(self.version, self.role)
        )

    # ---- from the model server

    def progressed(self, attempt: Attempt) -> None:
        if self._falls_back(attempt):
            attempt.cancel()
            self._fall_back(attempt)
            return
        self.client.write(self.stream(attempt, self.own, self.plane.capture_bytes))

    def answered(self, attempt: Attempt) -> None:
        if not self.head_sent and self._falls_back(attempt):
            self._fall_back(attempt)
            return
        if self.head_sent:
            out = self.stream(attempt, self.own, self.plane.capture_bytes)
            if self.chunked:
                out += b"0\r\n\r\n"
            body = b"".join(self.captured)
        else:
            parts = attempt.parts
            body = parts[0] if len(parts) == 1 else b"".join(parts)
            out = answer_head(attempt, self.own, self.framing(attempt, whole=True), self.ending)
            if not self.bodyless(attempt):
                out += body
        self._settle(attempt, attempt.status, attempt.status >= 500, body, "complete", "")
        self._reply(out, self.keeps)
        self._compare(attempt)
        self.attempt = None  # the two name each other: let them go now, not when the collector comes

    def failed(self, attempt: Attempt) -> None:
        if self._falls_back(attempt, failed=True):
            self._fall_back(attempt)
            return
        error = ERRORS[attempt.error]
        if self.head_sent:  # the client must see that the answer is not whole
            self._settle(attempt, attempt.status, True, b"".join(self.captured), "cut", error)
            self._reply(b"", keep=False)
            self._let_go()
            self.attempt = None
            return
        keep = self.keeps and not self.request.http10
        status, out = problem(error, close=not keep, extra=self.own, head_only=self.request.method == b"HEAD")
        self._settle(attempt, status, True, b"", "error", error)
        self._reply(out, keep)
        self._compare(attempt)
        self.attempt = None

    def client_gone(self) -> None:
        """The client left before its answer was complete: stop the work, remember that it was asked."""
        attempt = self.attempt
        if self.ended or attempt is None:
            return
        attempt.cancel()
        self.ended = self.left = True
        self.attempt = None
        self.plane.inflight -= 1
        seconds = attempt.ended_at - attempt.started_at
        self.served.track(self.version, self.role, not self.counts).abandoned(CLIENT_LEFT, seconds)
        self._journal(attempt, CLIENT_LEFT, b"".join(self.captured), "aborted", "")
        if self.failure is not None:
            if self.head_sent:
                self.judge_canary(shared=attempt.status >= 500)
            else:
                self.plane.copy(self, self.failure)  # would production have answered?
        elif self.role == "canary" and self._repeatable:
            self._compare(attempt)  # how long would production have taken?
        else:
            self._let_go()

    # ---- canary failures are not the client's

    def _falls_back(self, attempt: Attempt, *, failed: bool = False) -> bool:
        return (
            self.role == "canary"
            and (failed or attempt.status >= 500)
            and not self.head_sent
            and self.forced is None
            and self.served.model.canary.fallback == "production"
            and self._repeatable
        )

    def _fall_back(self, attempt: Attempt) -> None:
        served = self.served
        self.failure = attempt
        self.plane.record(
            shadow_record(
                self.id,
                self.request.at_ns,
                served,
                self.version,
                "failed",
                attempt,
                self.plane.capture_bytes,
            ),
            "shadow",
        )
        twin = self.twin
        if twin is not None and twin.usable:
            self.version, self.role = twin.version, "fallback"
            self.own = self._own_fields()
            self.twin = None
            twin.hand_over(self)
            return
        self._let_go()
        self._send(served.flags.production, "fallback")

    def judge_canary(self, *, shared: bool) -> None:
        """Count the canary's failure, in one moment with what production made of the same request.

        A tick that held only the first would blame the canary for inputs that fail, or hang, wherever they go. What production failed on
        too is no evidence (`shared`).
        """
        failure = self.failure
        if failure is None or self.judged:
            return
        self.judged = True
        seconds = failure.ended_at - failure.started_at
        version = self.assignment.version
        track = self.served.track(version, "canary", not self.counts)
        track.record(answer_status(failure), True, seconds)
        if shared:
            track.shared_errors += self.counts
        else:
            self.served.observe(version, True, seconds * 1000.0, failure.ended_at, fair=self.counts)

    # ---- the end

    def _settle(
        self, attempt: Attempt, status: int, is_error: bool, body: bytes, ended: str, error: str
    ) -> None:
        """Count and journal, before the last byte leaves."""
        served = self.served
        seconds = attempt.ended_at - attempt.started_at
        served.track(self.version, self.role, not self.counts).record(status, is_error, seconds)
        if self.forced is None:
            # Production is tried after a failure of the canary only: no fair sample, unless it stands for the control mirror.
            fair = self.counts and (self.role != "fallback" or served.within_control_budget(self.place))
            served.observe(self.version, is_error, seconds * 1000.0, attempt.ended_at, fair=fair)
            self.judge_canary(shared=is_error)
        self._journal(attempt, status, body, ended, error)

    def _taken_s(self, attempt: Attempt) -> float:
        """From the first version's being asked to the last byte of the answer. A twin may have answered before the canary failed."""
        failure = self.failure
        if failure is None or self.role != "fallback":
            return attempt.ended_at - attempt.started_at
        return max(attempt.ended_at, failure.ended_at) - failure.started_at

    def _journal(self, attempt: Attempt, status: int, body: bytes, ended: str, error: str) -> None:
        request = self.request
        served = self.served
        assignment = self.assignment
        flags = served.flags
        cap = self.plane.capture_bytes
        request_body, request_encoding = request.body(), request.text(b"content-encoding")
        request_length = inference_length(request.text(b"inference-header-content-length"))
        response_encoding = field(attempt, b"content-encoding")
        response_length = inference_length(field(attempt, b"inference-header-content-length"))
        if len(request_body) > cap:
            request_body = request_body[:cap]
        if len(body) > cap:
            body = body[:cap]
        if self.first_data_at > 0.0:
            track = served.track(self.version, self.role, not self.counts)
            track.streamed(self.first_data_at - attempt.started_at)
        target = self.head.target
        # A key in the body is known once the body is.
        routing_key = self.key if self.key is not None else served.routing_key(request)
        request_id: str | None = request.text(b"x-request-id")[:MAX_REQUEST_ID] or None
        if served.redactor is not None:
            target = target.partition(b"?")[0]  # a query may hold what the body must not
            cut = request.size > len(request_body)
            taken = served.redactor.body(
                request_body, request.text(b"content-type"), request_encoding, request_length, cut
            )
            request_body, request_encoding = taken.body, taken.content_encoding
            request_length = -1 if taken.header_length is None else taken.header_length
            cut = attempt.size > len(body)
            taken = served.redactor.body(
                body, field(attempt, b"content-type"), response_encoding, response_length, cut
            )
            body, response_encoding = taken.body, taken.content_encoding
            response_length = -1 if taken.header_length is None else taken.header_length
            routing_key = served.redactor.key(routing_key) if routing_key is not None else None
            request_id = served.redactor.request_id(request_id) if request_id is not None else None
        self.plane.record(
            PredictionRecord(
                self.id,
                request.at_ns,
                served.name,
                self.version,
                self.role,
                status,
                int(self._taken_s(attempt) * 1e6),
                assignment.reason,
                assignment.bucket,
                flags.canary_percent,
                flags.revision,
                flags.rollout_id,
                self.forced is not None,
                routing_key,
                request_id,
                request.method.decode("latin-1"),
                target.decode("latin-1"),
                request.text(b"content-type"),
                request_encoding,
                request.size,
                request_body,
                field(attempt, b"content-type"),
                response_encoding,
                attempt.size,
                body,
                ended,
                error,
                request_length,
                response_length,
                1.0
                if self.role == "fallback"
                else assignment.propensity,  # production's answer was certain then
                int(((self.first_data_at or attempt.first_byte_at) - attempt.started_at) * 1e6)
                if attempt.first_byte_at
                else -1,
                served.redactor is not None,
                self.head.traceparent.decode() if self.plane.tracing >= 0.0 else "",
                self._parent_span() if self.plane.tracing >= 0.0 else "",
            ),
            "prediction",
        )

    def _parent_span(self) -> str:
        """The caller's span, when the trace is the caller's."""
        sent = self.request.named.get(b"traceparent", b"")
        return sent[36:52].decode() if sent[3:35] == self.head.traceparent[3:35] else ""

    def _reply(self, out: bytes, keep: bool) -> None:
        self.ended = True
        plane = self.plane
        plane.inflight -= 1
        attempt = self.attempt
        if attempt is not None:
            self.served.overhead.observe(max(0.0, monotonic() - self.created - self._taken_s(attempt)))
        plane.reply(self, out, keep)

    def refused(self) -> bytes:
        self.plane.statistics.count("gateway_refused_total", "journal_full")
        detail = "The journal's disk failed, and journal.on_full is refuse."
        return problem("overloaded", detail, close=True, head_only=self.request.method == b"HEAD")[1]

    def _compare(self, attempt: Attempt) -> None:
        """After the answer: copies to shadows, and to production of a canary's request and of a few of its own."""
        served = self.served
        twin, self.twin = self.twin, None
        if twin is not None:
            twin.first_ended(attempt)
        if (
            served.shadow_versions
            or self.failure is not None
            or (
                not served.concurrent  # two ways of asking are two order effects: they are not mixed
                and (self.role == "canary" or (served.noise > 0.0 and self.place < served.noise))
            )
        ):
            self.plane.copy(self, attempt)

    def _let_go(self) -> None:
        """Nobody waits for the concurrent control call any more; it still tells what it may."""
        twin, self.twin = self.twin, None
        if twin is not None:
            twin.first_ended(None)


def answer_status(attempt: Attempt) -> int:
    """The status as a client would have got it."""
    return STATUS_OF.get(attempt.error, attempt.status)


def shadow_record(
    prediction_id: bytes,
    at_ns: int,
    served: Served,
    version: str,
    role: str,
    attempt: Attempt,
    cap: int,
    body: bytes | None = None,
    traceparent: bytes = b"",
    parent_span: bytes = b"",
) -> ShadowRecord:
    """Another version's answer (or failure) as the journal keeps it."""
    if body is None:
        body = b"".join(attempt.parts)
    body = body[:cap]
    encoding = field(attempt, b"content-encoding")
    length = inference_length(field(attempt, b"inference-header-content-length"))
    if served.redactor is not None:
        cut = attempt.size > len(body)
        taken = served.redactor.body(body, field(attempt, b"content-type"), encoding, length, cut)
        body, encoding = taken.body, taken.content_encoding
        length = -1 if taken.header_length is None else taken.header_length
    return ShadowRecord(
        prediction_id,
        at_ns,
        served.name,
        version,
        role,
        answer_status(attempt),
        int((attempt.ended_at - attempt.started_at) * 1e6),
        field(attempt, b"content-type"),
        encoding,
        attempt.size,
        body,
        attempt.error,
        length,
        served.redactor is not None,
        traceparent.decode(),
        parent_span.decode() if traceparent else "",
    )


def pair_of(served: Served, version: str, canary: Attempt, control: Attempt, second: str) -> Pair:
    """The answers of a version and of `second` to the same request, as evidence."""
    return Pair(
        served.name,
        version,
        served.flags.rollout_id,
        bool(canary.error) or canary.status >= 500,
        bool(control.error) or control.status >= 500,
        int((canary.ended_at - canary.started_at) * 1e6),
        int((control.ended_at - control.started_at) * 1e6),
        second,
    )
