"""One request to one version, between whoever asked for it and the connection that carries it.

Its owner is told of progress, end or failure, once, by a plain call: no task and no future stand between.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Protocol

from app.proxy.address import Address
from app.proxy.deadlines import Deadline

if TYPE_CHECKING:
    from app.proxy.connection import Connection
    from app.proxy.upstream import Endpoint, Upstream

Field = tuple[bytes, bytes]


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
        # Seconds of the monotonic clock itself: the loop's stands still during a turn, and counts whole milliseconds.
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
        self.ended_at = monotonic()
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None
        if self.endpoint is not None:
            self.endpoint.inflight -= 1
