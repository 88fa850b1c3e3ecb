"""The catalogue of the misbehaving upstream: what a model server can do wrong, byte by byte, one function
each.

A behaviour gets the connection and the request that was read from it; it may leave the connection open,
then the next request is read. It must never hold more than a block of what it sends in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import gzip
import socket
import struct
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qsl, urlsplit

ANSWER = b'{"prediction": 1, "confidence": 0.75}'
CHUNK = 65536
MAX_BODY_SENT = 10 * 1024**3


@dataclasses.dataclass(frozen=True, slots=True)
class Received:
    """One request as it arrived; `connection` counts from 1, `at` is monotonic in seconds."""

    behaviour: str
    connection: int
    method: str
    target: str
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    at: float

    def header(self, name: str) -> str | None:
        """The first field of that name, or None."""
        wanted = name.lower().encode()
        return next((value.decode("latin-1") for key, value in self.headers if key.lower() == wanted), None)

    def number(self, name: str, default: float) -> float:
        """A parameter of the query string, `/drip?interval=0.1`."""
        return float(dict(parse_qsl(urlsplit(self.target).query)).get(name, default))


class PeerGone(Exception):
    """The other side closed or reset the connection."""


class Connection:
    """One accepted socket with the few verbs that a behaviour needs."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self.number = number
        self.open = True

    async def send(self, data: bytes) -> None:
        try:
            await self._loop.sock_sendall(self._sock, data)
        except OSError as error:
            raise PeerGone from error

    async def read_until(self, mark: bytes) -> bytes:
        while (at := self._buffer.find(mark)) < 0:
            await self._fill()
        return self._take(at + len(mark))

    async def read_exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            await self._fill()
        return self._take(size)

    async def wait_for_close(self) -> None:
        """Reads and ignores until the other side leaves."""
        with contextlib.suppress(PeerGone):
            while True:
                await self._fill()
                self._buffer.clear()

    def reset(self) -> None:
        """Closes with RST: the other side sees ECONNRESET, not a clean end."""
        if self.open:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close()

    def close(self) -> None:
        if self.open:
            self.open = False
            self._sock.close()

    async def _fill(self) -> None:
        try:
            data = await self._loop.sock_recv(self._sock, CHUNK)
        except OSError as error:
            raise PeerGone from error
        if not data:
            raise PeerGone
        self._buffer += data

    def _take(self, size: int) -> bytes:
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data


Behaviour = Callable[[Connection, Received], Awaitable[None]]
BEHAVIOURS: dict[str, Behaviour] = {}


def behaviour(function: Behaviour) -> Behaviour:
    """Registers a behaviour under its function's name."""
    BEHAVIOURS[function.__name__] = function
    return function


def reply(body: bytes = ANSWER, status: str = "200 OK", *fields: str, length: int | None = None) -> bytes:
    """A correct HTTP/1.1 response; `length` overrides the Content-Length that is announced."""
    announced = len(body) if length is None else length
    head = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {announced}", *fields]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def raw(*lines: str, body: bytes = ANSWER, end: str = "\r\n") -> bytes:
    """A response whose head is exactly these lines."""
    return (end.join(lines) + end + end).encode("latin-1") + body


# Behaving: the controls against which the others are compared.


@behaviour
async def ok(connection: Connection, request: Received) -> None:
    await connection.send(reply(b"" if request.method == "HEAD" else ANSWER, length=len(ANSWER)))


@behaviour
async def echo(connection: Connection, request: Received) -> None:
    await connection.send(reply(request.body))


@behaviour
async def slow(connection: Connection, request: Received) -> None:
    await asyncio.sleep(request.number("delay", 1.0))
    await connection.send(reply())


@behaviour
async def error_500(connection: Connection, request: Received) -> None:
    await connection.send(reply(b'{"error": "the model failed"}', "500 Internal Server Error"))


@behaviour
async def error_503(connection: Connection, request: Received) -> None:
    await connection.send(reply(b'{"error": "busy"}', "503 Service Unavailable", "Retry-After: 1"))


@behaviour
async def redirect(connection: Connection, request: Received) -> None:
    await connection.send(reply(b"", "307 Temporary Redirect", "Location: http://127.0.0.1:1/elsewhere"))


@behaviour
async def chunked(connection: Connection, request: Received) -> None:
    head = raw("HTTP/1.1 200 OK", "Content-Type: application/json", "Transfer-Encoding: chunked", body=b"")
    await connection.send(head + b"".join(b"1\r\n%c\r\n" % byte for byte in ANSWER) + b"0\r\n\r\n")


@behaviour
async def until_close(connection: Connection, request: Received) -> None:
    await connection.send(raw("HTTP/1.0 200 OK", "Content-Type: application/json"))
    connection.close()


# Row 1: hangs and drips.


@behaviour
async def hang(connection: Connection, request: Received) -> None:
    await connection.wait_for_close()
    raise PeerGone


@behaviour
async def hang_in_head(connection: Connection, request: Received) -> None:
    await connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Le")
    await connection.wait_for_close()
    raise PeerGone


@behaviour
async def hang_in_body(connection: Connection, request: Received) -> None:
    await connection.send(reply(ANSWER[:10], length=len(ANSWER)))
    await connection.wait_for_close()
    raise PeerGone


@behaviour
async def drip(connection: Connection, request: Received) -> None:
    """The head at once, the body one byte each `interval` seconds."""
    await connection.send(reply(b"", length=len(ANSWER)))
    await _drip(connection, ANSWER, request.number("interval", 1.0))


@behaviour
async def drip_head(connection: Connection, request: Received) -> None:
    await _drip(connection, reply(), request.number("interval", 1.0))


async def _drip(connection: Connection, data: bytes, interval: float) -> None:
    for byte in data:
        await connection.send(bytes((byte,)))
        await asyncio.sleep(interval)


# Row 2: resets and early ends.


@behaviour
async def reset_before_headers(connection: Connection, request: Received) -> None:
    connection.reset()


@behaviour
async def close_before_headers(connection: Connection, request: Received) -> None:
    connection.close()


@behaviour
async def reset_in_head(connection: Connection, request: Received) -> None:
    await _cut(connection, b"HTTP/1.1 200 OK\r\nContent-Ty", connection.reset)


@behaviour
async def close_in_head(connection: Connection, request: Received) -> None:
    await _cut(connection, b"HTTP/1.1 200 OK\r\nContent-Ty", connection.close)


@behaviour
async def reset_mid_body(connection: Connection, request: Received) -> None:
    await _cut(connection, reply(ANSWER[:10], length=len(ANSWER)), connection.reset)


@behaviour
async def close_mid_body(connection: Connection, request: Received) -> None:
    await _cut(connection, reply(ANSWER[:10], length=len(ANSWER)), connection.close)


@behaviour
async def reset_mid_chunk(connection: Connection, request: Received) -> None:
    await _cut(connection, _CHUNKED_HEAD + b"20\r\n" + ANSWER[:10], connection.reset)


@behaviour
async def close_before_last_chunk(connection: Connection, request: Received) -> None:
    await _cut(connection, _CHUNKED_HEAD + b"%x\r\n%b\r\n" % (len(ANSWER), ANSWER), connection.close)


@behaviour
async def reset_mid_long_body(connection: Connection, request: Received) -> None:
    """Half of a long body (`bytes`, 8 MiB), enough that its head has reached the client before the reset."""
    size = int(request.number("bytes", 8 * 1024**2))
    await connection.send(reply(b"", length=size))
    await _send_bytes(connection, size // 2)
    connection.reset()


async def _cut(connection: Connection, data: bytes, end: Callable[[], None]) -> None:
    await connection.send(data)
    # RST discards what the peer has not read yet, so the bytes get a moment to arrive.
    await asyncio.sleep(0.05)
    end()


_CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


# Row 3: broken framing.


@behaviour
async def bad_status_line(connection: Connection, request: Received) -> None:
    await connection.send(raw("HTTP/1.1 OK", f"Content-Length: {len(ANSWER)}"))


@behaviour
async def bad_status_code(connection: Connection, request: Received) -> None:
    await connection.send(raw("HTTP/1.1 2x0 OK", f"Content-Length: {len(ANSWER)}"))


@behaviour
async def status_99999(connection: Connection, request: Received) -> None:
    await connection.send(raw("HTTP/1.1 99999 Much", f"Content-Length: {len(ANSWER)}"))


@behaviour
async def not_http(connection: Connection, request: Received) -> None:
    await connection.send(b"SSH-2.0-OpenSSH_9.6\r\n")


@behaviour
async def http_2_preface(connection: Connection, request: Received) -> None:
    await connection.send(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + b"\x00" * 18)


@behaviour
async def two_content_lengths(connection: Connection, request: Received) -> None:
    size = len(ANSWER)
    await connection.send(raw("HTTP/1.1 200 OK", f"Content-Length: {size}", f"Content-Length: {size + 5}"))


@behaviour
async def content_length_list(connection: Connection, request: Received) -> None:
    size = len(ANSWER)
    await connection.send(raw("HTTP/1.1 200 OK", f"Content-Length: {size}, {size + 5}"))


@behaviour
async def negative_content_length(connection: Connection, request: Received) -> None:
    await connection.send(raw("HTTP/1.1 200 OK", "Content-Length: -5"))


@behaviour
async def signed_content_length(connection: Connection, request: Received) -> None:
    await connection.send(raw("HTTP/1.1 200 OK", f"Content-Length: +{len(ANSWER)}"))


@behaviour
async def length_and_chunked(connection: Connection, request: Received) -> None:
    head = raw("HTTP/1.1 200 OK", f"Content-Length: {len(ANSWER)}", "Transfer-Encoding: chunked", body=b"")
    await connection.send(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(ANSWER), ANSWER))


@behaviour
async def chunked_twice(connection: Connection, request: Received) -> None:
    head = raw("HTTP/1.1 200 OK", "Transfer-Encoding: chunked, chunked", body=b"")
    await connection.send(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(ANSWER), ANSWER))


@behaviour
async def unknown_transfer_encoding(connection: Connection, request: Received) -> None:
    await connection.send(raw("HTTP/1.1 200 OK", "Transfer-Encoding: x-wonder"))


@behaviour
async def bad_chunk_size(connection: Connection, request: Received) -> None:
    await connection.send(_CHUNKED_HEAD + b"zz\r\n" + ANSWER + b"\r\n0\r\n\r\n")


@behaviour
async def chunk_longer_than_said(connection: Connection, request: Received) -> None:
    await connection.send(_CHUNKED_HEAD + b"3\r\n" + ANSWER + b"\r\n0\r\n\r\n")


@behaviour
async def bare_lf(connection: Connection, request: Received) -> None:
    await connection.send(raw("HTTP/1.1 200 OK", f"Content-Length: {len(ANSWER)}", end="\n"))


@behaviour
async def bare_cr_in_field(connection: Connection, request: Received) -> None:
    await connection.send(raw("HTTP/1.1 200 OK", "X-Note: one\rtwo", f"Content-Length: {len(ANSWER)}"))


@behaviour
async def nul_in_field(connection: Connection, request: Received) -> None:
    await connection.send(raw("HTTP/1.1 200 OK", "X-Note: one\x00two", f"Content-Length: {len(ANSWER)}"))


@behaviour
async def space_before_colon(connection: Connection, request: Received) -> None:
    await connection.send(raw("HTTP/1.1 200 OK", f"Content-Length : {len(ANSWER)}"))


@behaviour
async def folded_field(connection: Connection, request: Received) -> None:
    await connection.send(raw("HTTP/1.1 200 OK", "X-Note: one", " two", f"Content-Length: {len(ANSWER)}"))


@behaviour
async def more_than_announced(connection: Connection, request: Received) -> None:
    """A right answer, then bytes that nobody asked for: the next request must not be answered by them."""
    await connection.send(reply() + reply(b'{"prediction": "smuggled"}'))


@behaviour
async def late_extra_answer(connection: Connection, request: Received) -> None:
    """As `more_than_announced`, but the extra answer comes while the connection lies idle in the pool."""
    await connection.send(reply())
    await asyncio.sleep(request.number("delay", 0.05))
    await connection.send(reply(b'{"prediction": "smuggled"}'))


@behaviour
async def close_after_answer(connection: Connection, request: Received) -> None:
    """Promises keep-alive and hangs up: the stale connection of every pool."""
    await connection.send(reply())
    connection.close()


@behaviour
async def reset_after_answer(connection: Connection, request: Received) -> None:
    await _cut(connection, reply(), connection.reset)


# Row 4: interim answers, trailers, bodies where none belongs.


@behaviour
async def continue_first(connection: Connection, request: Received) -> None:
    await connection.send(b"HTTP/1.1 100 Continue\r\n\r\n" + reply())


@behaviour
async def early_hints_first(connection: Connection, request: Received) -> None:
    await connection.send(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n" + reply())


@behaviour
async def interim_for_ever(connection: Connection, request: Received) -> None:
    while True:
        await connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")


@behaviour
async def switching_protocols(connection: Connection, request: Received) -> None:
    head = raw("HTTP/1.1 101 Switching Protocols", "Upgrade: x", "Connection: upgrade", body=b"x")
    await connection.send(head)


@behaviour
async def trailers(connection: Connection, request: Received) -> None:
    body = b"%x\r\n%b\r\n0\r\n" % (len(ANSWER), ANSWER)
    await connection.send(_CHUNKED_HEAD + body + b"X-Checksum: 42\r\nX-Model-Version: forged\r\n\r\n")


@behaviour
async def endless_trailer(connection: Connection, request: Received) -> None:
    await connection.send(_CHUNKED_HEAD + b"%x\r\n%b\r\n0\r\nX-T: " % (len(ANSWER), ANSWER))
    while True:
        await connection.send(b"a" * CHUNK)


@behaviour
async def body_on_204(connection: Connection, request: Received) -> None:
    await connection.send(raw("HTTP/1.1 204 No Content", f"Content-Length: {len(ANSWER)}"))


@behaviour
async def body_on_304(connection: Connection, request: Received) -> None:
    await connection.send(raw("HTTP/1.1 304 Not Modified", f"Content-Length: {len(ANSWER)}"))


@behaviour
async def body_on_head(connection: Connection, request: Received) -> None:
    """Answers every method, HEAD too, with a body."""
    await connection.send(reply())


@behaviour
async def no_content(connection: Connection, request: Received) -> None:
    await connection.send(raw("HTTP/1.1 204 No Content", body=b""))


@behaviour
async def hop_by_hop(connection: Connection, request: Received) -> None:
    """Fields that must not reach the client, among one that must."""
    await connection.send(
        reply(
            ANSWER,
            "200 OK",
            "Connection: keep-alive, X-Secret",
            "X-Secret: for the next hop only",
            "Keep-Alive: timeout=5",
            "Proxy-Authenticate: Basic",
            "Upgrade: h2c",
            "X-Prediction-Id: forged",
            "X-Kept: yes",
            "Set-Cookie: a=1",
            "Set-Cookie: b=2",
        )
    )


# Rows 5, 9 and 22: too much.


@behaviour
async def huge_header(connection: Connection, request: Received) -> None:
    size = int(request.number("bytes", 1024**2))
    await connection.send(reply(ANSWER, "200 OK", "X-Huge: " + "x" * size))


@behaviour
async def many_headers(connection: Connection, request: Received) -> None:
    count = int(request.number("count", 20_000))
    fields = (f"X-Field-{number}: {number}" for number in range(count))
    await connection.send(reply(ANSWER, "200 OK", *fields))


@behaviour
async def endless_header(connection: Connection, request: Received) -> None:
    await connection.send(b"HTTP/1.1 200 OK\r\nX-Endless: ")
    await _send_bytes(connection, MAX_BODY_SENT)


@behaviour
async def long_body(connection: Connection, request: Received) -> None:
    """`bytes` bytes (200 MB) with a right Content-Length."""
    size = int(request.number("bytes", 200_000_000))
    await connection.send(reply(b"", length=size))
    await _send_bytes(connection, size)


@behaviour
async def endless_body(connection: Connection, request: Received) -> None:
    """Chunks until the other side leaves, or 10 GB have gone."""
    await connection.send(_CHUNKED_HEAD)
    chunk = b"%x\r\n%b\r\n" % (CHUNK, b"x" * CHUNK)
    for _ in range(MAX_BODY_SENT // CHUNK):
        await connection.send(chunk)
    await connection.send(b"0\r\n\r\n")


@functools.cache
def bomb(size: int) -> bytes:
    """A few kilobytes that unpack to `size` bytes; made once, since that takes seconds on a busy machine."""
    return gzip.compress(b"0" * size, compresslevel=9)


@behaviour
async def gzip_bomb(connection: Connection, request: Received) -> None:
    """A few kilobytes that unpack to `bytes` bytes (64 MiB)."""
    packed = bomb(int(request.number("bytes", 64 * 1024**2)))
    await connection.send(reply(packed, "200 OK", "Content-Encoding: gzip"))


async def _send_bytes(connection: Connection, size: int) -> None:
    block = b"x" * CHUNK
    sent = 0
    while sent < size:
        await connection.send(block[: size - sent])
        sent += len(block)
