"""Carries a request for the control process (API, metrics, dashboard): framed and held back as any other, and nothing else."""

from __future__ import annotations

from app.proxy.attempt import Attempt
from app.proxy.fields import VIA, problem
from app.proxy.relay import Relay, answer_head, request_framing
from app.proxy.request import RequestHead


class Passage(Relay):
    """A request for the control process: API, metrics, dashboard."""

    __slots__ = ()

    def _end(self) -> None:
        self.ended = True
        self.plane.passages -= 1

    def begin(self) -> None:
        self.plane.passages += 1
        request = self.request
        open_body = not request.complete
        body = request.body()
        if request.length < 0 and body:
            body = b"%x\r\n%b\r\n" % (len(body), body)
        if request.length < 0 and not open_body:
            body += b"0\r\n\r\n"
        head = RequestHead(request, 0, self.client.peer.encode(), self.plane.trusts(self.client.peer), b"")
        self.attempt = Attempt(
            self.plane.control,
            self,
            request.method,
            head,
            request_framing(request),
            body,
            open_body=open_body,
        )
        self.attempt.upstream.start(self.attempt)

    def progressed(self, attempt: Attempt) -> None:
        attempt.no_deadline()
        self.client.write(self.stream(attempt, b"Via: " + VIA + b"\r\n", 0))

    def answered(self, attempt: Attempt) -> None:
        if self.head_sent:
            out = self.stream(attempt, b"", 0)
            if self.chunked:
                out += b"0\r\n\r\n"
        else:
            out = answer_head(
                attempt, b"Via: " + VIA + b"\r\n", self.framing(attempt, whole=True), self.ending
            )
            if not self.bodyless(attempt):
                out += b"".join(attempt.parts)
        self._end()
        if out:
            self.client.write(out)
        self.client.finished(keep=self.keeps)

    def failed(self, attempt: Attempt) -> None:
        self._end()
        if self.head_sent:
            self.client.finished(keep=False)
            return
        keep = self.keeps and not self.request.http10
        _, out = problem("control_unavailable", close=not keep, head_only=self.request.method == b"HEAD")
        self.client.write(out)
        self.client.finished(keep=keep)

    def client_gone(self) -> None:
        if not self.ended and self.attempt is not None:
            self._end()
            self.attempt.cancel()
