"""What every forwarded request shares: how its answer is framed for the client, and back-pressure both ways."""

from __future__ import annotations

from functools import lru_cache
from time import monotonic

from app.proxy.attempt import Attempt
from app.proxy.fields import PLAIN, RESPONSE_OWN, listed, status_line
from app.proxy.plane import Client, Plane
from app.proxy.request import Request


def answer_head(attempt: Attempt, own: bytes, framing: bytes, ending: bytes) -> bytes:
    """Status line, the model server's end-to-end fields, the gateway's own (`own`, lines with CRLF), framing, and the end of the head."""
    lines = [status_line(attempt.status)]
    connection = attempt.named.get(b"connection")
    dropped = listed(connection) if connection is not None and connection.lower() not in PLAIN else ()
    for name, value in attempt.fields:
        lower = name.lower()
        if lower not in RESPONSE_OWN and lower not in dropped:
            lines += (name, b": ", value, b"\r\n")
    lines += (own, framing, ending)
    return b"".join(lines)


@lru_cache(maxsize=1024)
def text(value: bytes) -> str:
    """A field's value as text; the same few values come again and again. Long ones would fill the cache with what comes once."""
    return value.decode("latin-1")


def field(attempt: Attempt, name: bytes) -> str:
    """A field of the answer as text, empty when absent."""
    value = attempt.named.get(name)
    return "" if value is None else text(value) if len(value) < 100 else value.decode("latin-1")


def inference_length(value: str) -> int:
    return int(value) if value.isascii() and value.isdigit() and len(value) < 10 else -1


def request_framing(request: Request) -> bytes:
    """How the body is framed towards the server: as it came, but for chunk boundaries."""
    if request.length < 0:
        return b"Transfer-Encoding: chunked\r\n"
    if (
        request.length == 0
        and request.method in (b"GET", b"HEAD", b"OPTIONS", b"DELETE")
        and b"content-length" not in request.named
    ):
        return b""
    return b"Content-Length: %d\r\n" % request.length


class Relay:
    """What an exchange and a passage share: the answer's way back, streamed or whole, and the request body's way there."""

    __slots__ = (
        "attempt",
        "captured",
        "captured_size",
        "chunked",
        "client",
        "ended",
        "first_data_at",
        "head_sent",
        "plane",
        "request",
    )

    def __init__(self, plane: Plane, client: Client, request: Request) -> None:
        self.plane = plane
        self.client = client
        self.request = request
        self.attempt: Attempt | None = None
        self.head_sent = False
        self.chunked = False
        self.captured: list[bytes] = []  # of a streamed answer, up to the journal's cap
        self.captured_size = 0
        self.first_data_at = 0.0  # when the first of a streamed answer's body was sent on
        self.ended = False

    # ---- from the client

    def body_part(self, data: bytes) -> None:
        attempt = self.attempt
        if attempt is not None and attempt.open_body and not attempt.done:
            attempt.send(b"%x\r\n%b\r\n" % (len(data), data) if self.request.length < 0 else data)

    def body_end(self) -> None:
        attempt = self.attempt
        if attempt is not None and attempt.open_body:
            if self.request.length < 0 and not attempt.done:
                attempt.send(b"0\r\n\r\n")
            attempt.end_body()

    def client_stalled(self) -> None:
        if self.attempt is not None:
            self.attempt.pause()

    def client_drained(self) -> None:
        if self.attempt is not None:
            self.attempt.resume()

    # ---- from the server

    def stalled(self, attempt: Attempt) -> None:
        if attempt is self.attempt:
            self.client.pause_body()

    def drained(self, attempt: Attempt) -> None:
        if attempt is self.attempt:
            self.client.resume_body()

    @property
    def keeps(self) -> bool:
        """Whether the client's connection can take another request after this answer."""
        request = self.request
        return request.keep_alive and request.complete and not self.plane.draining

    @property
    def ending(self) -> bytes:
        """The end of an answer's head: what becomes of the connection (RFC 9112 section 9.3; a client of HTTP/1.0 must be told)."""
        if not self.keeps:
            return b"Connection: close\r\n\r\n"
        return b"Connection: keep-alive\r\n\r\n" if self.request.http10 else b"\r\n"

    def bodyless(self, attempt: Attempt) -> bool:
        return attempt.status in (204, 304) or self.request.method == b"HEAD"

    def framing(self, attempt: Attempt, *, whole: bool) -> bytes:
        """How the answer's body is framed towards the client. Sets `chunked`."""
        if attempt.status == 204:
            return b""
        if self.bodyless(attempt):
            return b"Content-Length: %d\r\n" % attempt.length if attempt.length >= 0 else b""
        if whole:
            return b"Content-Length: %d\r\n" % attempt.size
        if attempt.length >= 0:
            return b"Content-Length: %d\r\n" % attempt.length
        if self.request.http10:
            self.request.keep_alive = False
            return b""
        self.chunked = True
        return b"Transfer-Encoding: chunked\r\n"

    def stream(self, attempt: Attempt, own: bytes, capture: int) -> bytes:
        """What has come since the last call, framed for the client; with the head in front the first time."""
        parts = attempt.parts
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        out = b""
        if not self.head_sent:
            self.head_sent = True
            framing = self.framing(attempt, whole=False)
            out = answer_head(attempt, own, framing, self.ending)
        if data:
            if self.first_data_at == 0.0:
                self.first_data_at = monotonic()
            if self.captured_size < capture:
                self.captured.append(data[: capture - self.captured_size])
                self.captured_size += len(self.captured[-1])
            out += b"%x\r\n%b\r\n" % (len(data), data) if self.chunked else data
        return out
