"""Answers as bytes on the wire, from RFC 9110 and RFC 9112: what a client gets of each, and whether its connection is used again.

Each case ends with a second request: it must get its own answer, over the same connection only when the first left it in step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from app.domain.model import Match, Model, Version
from app.domain.policy import ServerPolicy
from tests.proxy.replying import Replying
from tests.worker import RunningWorker, eventually, read_all, read_answer, running_worker

OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = b"Content-Length: 2\r\n\r\n{}"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


@dataclass(frozen=True)
class Case:
    """What the server sends, and what the client gets of it."""

    sent: bytes
    body: bytes = b"{}"
    status: int = 200
    kept: bool = True  # the connection to the server serves the next request
    closes: bool = False  # the server, after this answer
    has: tuple[bytes, ...] = ()  # lines of the client's head
    lacks: tuple[bytes, ...] = ()


RIGHT = {
    "content-length (9112 6.2)": Case(OK + LENGTH),
    "content-length 0": Case(OK + b"Content-Length: 0\r\n\r\n", b""),
    "content-length with leading zeros": Case(OK + b"Content-Length: 002\r\n\r\n{}"),
    "content-length with space around": Case(OK + b"Content-Length: \t2 \r\n\r\n{}"),
    "lower-case field names": Case(OK + b"content-length: 2\r\n\r\n{}"),
    "chunked (9112 7.1)": Case(OK + CHUNKED + b"2\r\n{}\r\n" + END),
    "many chunks": Case(OK + CHUNKED + b"1\r\na\r\n" * 50 + END, b"a" * 50),
    "chunk size in capitals": Case(OK + CHUNKED + b"A\r\n0123456789\r\n" + END, b"0123456789"),
    "chunk size with leading zeros": Case(OK + CHUNKED + b"0002\r\n{}\r\n" + END),
    "chunk extension (7.1.1)": Case(OK + CHUNKED + b"2;name=value\r\n{}\r\n0;last\r\n\r\n"),
    "quoted chunk extension": Case(OK + CHUNKED + b'2;a="b c"\r\n{}\r\n' + END),
    "trailers are dropped (9110 6.5.1)": Case(
        OK + CHUNKED + b"2\r\n{}\r\n0\r\nX-Checksum: 1\r\n\r\n", lacks=(b"x-checksum",)
    ),
    "coding in capitals": Case(OK + b"Transfer-Encoding: CHUNKED\r\n\r\n2\r\n{}\r\n" + END),
    "no reason phrase (9112 4)": Case(b"HTTP/1.1 200 \r\n" + LENGTH),
    "neither reason nor space": Case(b"HTTP/1.1 200\r\n" + LENGTH),
    "reason phrase with obs-text": Case(b"HTTP/1.1 200 gr\xfc\xdf\r\n" + LENGTH),
    "unknown 2xx": Case(b"HTTP/1.1 299 Odd\r\n" + LENGTH, status=299),
    "unknown 5xx": Case(b"HTTP/1.1 599 Odd\r\n" + LENGTH, status=599),
    "204 (9110 15.3.5)": Case(b"HTTP/1.1 204 No Content\r\n\r\n", b"", 204),
    "205": Case(b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n", b"", 205),
    "304 announces a length without a body (9110 15.4.5)": Case(
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\nETag: x\r\n\r\n", b"", 304, has=(b"etag: x",)
    ),
    "a redirect is the client's": Case(
        b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\n" + LENGTH,
        status=302,
        has=(b"location: http://169.254.169.254/",),
    ),
    "401 keeps its challenge": Case(
        b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\n" + LENGTH,
        status=401,
        has=(b"www-authenticate: basic",),
    ),
    "100 first (9110 15.2.1)": Case(b"HTTP/1.1 100 Continue\r\n\r\n" + OK + LENGTH),
    "several interim answers": Case(b"HTTP/1.1 102 Processing\r\n\r\n" * 3 + OK + LENGTH),
    "103 with fields": Case(
        b"HTTP/1.1 103 Early Hints\r\nX-Hint: 1\r\n\r\n" + OK + LENGTH, lacks=(b"x-hint",)
    ),
    "connection: close (9112 9.6)": Case(OK + b"Connection: close\r\n" + LENGTH, kept=False),
    "close among options": Case(OK + b"Connection: x-other, close\r\n" + LENGTH, kept=False),
    "HTTP/1.0 closes": Case(b"HTTP/1.0 200 OK\r\n" + LENGTH, kept=False),
    "HTTP/1.0 with keep-alive": Case(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n" + LENGTH),
    "until the end of the connection (6.3, case 8)": Case(OK + b"\r\nall of it", b"all of it", kept=False, closes=True),
    "an empty body until the end": Case(OK + b"\r\n", b"", kept=False, closes=True),
    "the server closes after a whole answer": Case(OK + LENGTH, kept=False, closes=True),
    "space around values (9112 5)": Case(OK + b"X-Padded: \t a b \t\r\n" + LENGTH, has=(b"x-padded: a b",)),
    "an empty value": Case(OK + b"X-Empty:\r\n" + LENGTH, has=(b"x-empty:",)),
    "obs-text in a value": Case(OK + b"X-Text: \xe4\xf6\r\n" + LENGTH, has=(b"x-text: \xe4\xf6",)),
    "every character of a name (9110 5.6.2)": Case(
        OK + b"!#$%&'*+-.^_`|~09az: 1\r\n" + LENGTH, has=(b"!#$%&'*+-.^_`|~09az: 1",)
    ),
    "fields of one name stay apart": Case(
        OK + b"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\n" + LENGTH, has=(b"set-cookie: a=1", b"set-cookie: b=2")
    ),
    "what connection names is dropped (9110 7.6.1)": Case(
        OK + b"Connection: X-Hop\r\nX-Hop: secret\r\nX-End: kept\r\n" + LENGTH,
        has=(b"x-end: kept",),
        lacks=(b"x-hop",),
    ),
    "hop-by-hop fields are dropped": Case(
        OK + b"Keep-Alive: timeout=60\r\nProxy-Authenticate: Basic\r\nUpgrade: h2c\r\nTrailer: X\r\nTE: trailers\r\n" + LENGTH,
        lacks=(b"keep-alive:", b"proxy-authenticate", b"upgrade", b"trailer", b"te:"),
    ),
    "the gateway's own fields are its own": Case(
        OK + b"X-Prediction-Id: forged\r\nX-Model-Role: forged\r\nX-Model-Version: forged\r\nX-Gateway-Error: forged\r\n" + LENGTH,
        has=(b"x-model-version: v1", b"x-model-role: production"),
        lacks=(b"forged",),
    ),
    "a coded body is passed as it is": Case(OK + b"Content-Encoding: gzip\r\n" + LENGTH, has=(b"content-encoding: gzip",)),
    "an answer within an answer": Case(
        OK + b"Content-Length: 38\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ),
    "more behind the answer (9112 6.3)": Case(
        OK + LENGTH + b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nsmuggle", kept=False, lacks=(b"smuggle",)
    ),
    "more behind the last chunk": Case(OK + CHUNKED + b"2\r\n{}\r\n" + END + b"HTTP/1.1 200 OK\r\n\r\n", kept=False),
    "a body on 204": Case(b"HTTP/1.1 204 No Content\r\nContent-Length: 7\r\n\r\nsmuggle", b"", 204, kept=False),
    "a coding on 204 (9112 6.1)": Case(b"HTTP/1.1 204 No Content\r\n" + CHUNKED + END, b"", 204, kept=False),
    "a body on 304": Case(b"HTTP/1.1 304 Not Modified\r\n\r\nsmuggle", b"", 304, kept=False),
}  # fmt: skip


def bad(sent: bytes, *, closes: bool = False) -> Case:
    return Case(sent, status=502, kept=False, closes=closes, has=(b"x-gateway-error: upstream_protocol",))


WRONG = {
    "length and coding (9112 6.3, case 3)": bad(OK + b"Content-Length: 2\r\n" + CHUNKED + b"2\r\n{}\r\n" + END),
    "coding and length": bad(OK + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\n{}\r\n" + END),
    "two lengths": bad(OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}"),
    "the same length twice": bad(OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}"),
    "a list of lengths": bad(OK + b"Content-Length: 2, 2\r\n\r\n{}"),
    "a signed length": bad(OK + b"Content-Length: +2\r\n\r\n{}"),
    "a negative length": bad(OK + b"Content-Length: -2\r\n\r\n{}"),
    "a hexadecimal length": bad(OK + b"Content-Length: 0x2\r\n\r\n{}"),
    "an empty length": bad(OK + b"Content-Length:\r\n\r\n{}"),
    "a length beyond 64 bits": bad(OK + b"Content-Length: 18446744073709551618\r\n\r\n{}"),
    "a fractional length": bad(OK + b"Content-Length: 2.0\r\n\r\n{}"),
    "identity coding": bad(OK + b"Transfer-Encoding: identity\r\n\r\n{}", closes=True),
    "a coding before chunked": bad(OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n" + END),
    "chunked not last": bad(OK + b"Transfer-Encoding: chunked, gzip\r\n\r\n2\r\n{}\r\n" + END, closes=True),
    "chunked twice": bad(OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n2\r\n{}\r\n" + END),
    "two coding fields": bad(OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n" + END),
    "almost chunked": bad(OK + b"Transfer-Encoding: xchunked\r\n\r\n2\r\n{}\r\n" + END, closes=True),
    "chunked behind a vertical tab": bad(OK + b"Transfer-Encoding: \x0bchunked\r\n\r\n2\r\n{}\r\n" + END, closes=True),
    "chunked in HTTP/1.0 (9112 6.1)": bad(b"HTTP/1.0 200 OK\r\n" + CHUNKED + b"2\r\n{}\r\n" + END),
    "chunk size that is no number": bad(OK + CHUNKED + b"g\r\n{}\r\n" + END),
    "signed chunk size": bad(OK + CHUNKED + b"+2\r\n{}\r\n" + END),
    "negative chunk size": bad(OK + CHUNKED + b"-2\r\n{}\r\n" + END),
    "prefixed chunk size": bad(OK + CHUNKED + b"0x2\r\n{}\r\n" + END),
    "no chunk size": bad(OK + CHUNKED + b"\r\n{}\r\n" + END),
    "space before the chunk size": bad(OK + CHUNKED + b" 2\r\n{}\r\n" + END),
    "chunk size beyond 64 bits": bad(OK + CHUNKED + b"10000000000000002\r\n{}\r\n" + END),
    "chunk longer than said": bad(OK + CHUNKED + b"1\r\n{}\r\n" + END),
    "chunk without its line end": bad(OK + CHUNKED + b"2\r\n{}0\r\n\r\n"),
    "chunk size ended by a bare LF": bad(OK + CHUNKED + b"2\n{}\r\n" + END),
    "chunk ended by a bare LF": bad(OK + CHUNKED + b"2\r\n{}\n" + END),
    "bare CR in a chunk extension": bad(OK + CHUNKED + b"2;a\rb\r\n{}\r\n" + END),
    "bare LFs": bad(b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}"),
    "a bare LF after a field": bad(OK + b"X-A: 1\nX-B: 2\r\n" + LENGTH),
    "a bare CR in a value (9112 2.2)": bad(OK + b"X-A: 1\rX-B: 2\r\n" + LENGTH),
    "NUL in a value (9110 5.5)": bad(OK + b"X-A: 1\x002\r\n" + LENGTH),
    "NUL in a name": bad(OK + b"X\x00A: 1\r\n" + LENGTH),
    "a control character in a name": bad(OK + b"X\x01A: 1\r\n" + LENGTH),
    "space before the colon (9112 5.1)": bad(OK + b"X-A : 1\r\n" + LENGTH),
    "space in a name": bad(OK + b"X A: 1\r\n" + LENGTH),
    "a folded field (9112 5.2)": bad(OK + b"X-A: 1\r\n 2\r\n" + LENGTH),
    "a fold before the first field": bad(OK + b" X-A: 1\r\n" + LENGTH),
    "a field without colon": bad(OK + b"X-A\r\n" + LENGTH),
    "a field without name": bad(OK + b": 1\r\n" + LENGTH),
    "HTTP/2": bad(b"HTTP/2 200 OK\r\n" + LENGTH),
    "HTTP/2.0": bad(b"HTTP/2.0 200 OK\r\n" + LENGTH),
    "HTTP/0.9": bad(b"HTTP/0.9 200 OK\r\n" + LENGTH),
    "HTTP/1.2": bad(b"HTTP/1.2 200 OK\r\n" + LENGTH),
    "HTTP in lower case": bad(b"http/1.1 200 OK\r\n" + LENGTH),
    "another protocol": bad(b"ICY 200 OK\r\n" + LENGTH),
    "a status of two digits": bad(b"HTTP/1.1 20 OK\r\n" + LENGTH),
    "a status of four digits": bad(b"HTTP/1.1 2000 OK\r\n" + LENGTH),
    "a status of letters": bad(b"HTTP/1.1 abc OK\r\n" + LENGTH),
    "status 0": bad(b"HTTP/1.1 000 OK\r\n" + LENGTH),
    "a status beyond the classes (9110 15)": bad(b"HTTP/1.1 600 OK\r\n" + LENGTH),
    "two spaces before the status": bad(b"HTTP/1.1  200 OK\r\n" + LENGTH),
    "no status": bad(b"HTTP/1.1\r\n" + LENGTH),
    "101 that nobody asked for": bad(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
    "text before the status line": bad(b"hello\r\n" + OK + LENGTH),
    "a request": bad(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n"),
    "another protocol's greeting": bad(b"SSH-2.0-OpenSSH_9.2\r\n", closes=True),
    "half a head": bad(b"HTTP/1.1 200 OK\r\nContent-", closes=True),
    "only interim answers": bad(b"HTTP/1.1 100 Continue\r\n\r\n", closes=True),
}  # fmt: skip
CUT = {
    "a body shorter than said (9112 8)": Case(OK + b"Content-Length: 3\r\n\r\n{}", kept=False, closes=True),
    "no last chunk": Case(OK + CHUNKED + b"2\r\n{}\r\n", b"{}(cut)", kept=False, closes=True),
    "no end of the last chunk": Case(OK + CHUNKED + b"2\r\n{}\r\n0\r\n", b"{}(cut)", kept=False, closes=True),
    "half a chunk": Case(OK + CHUNKED + b"4\r\n{}", b"{}(cut)", kept=False, closes=True),
    "half a trailer": Case(OK + CHUNKED + b"2\r\n{}\r\n0\r\nX-A: ", b"{}(cut)", kept=False, closes=True),
}  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[Replying]:
    with Replying() as running:
        yield running


@pytest.fixture(scope="module")
def worker(server: Replying) -> Iterator[RunningWorker]:
    model = Model("m", "v1", (Version("v1", (server.url,), timeout_s=10.0),), match=Match("/m"))
    with running_worker([model]) as running:
        yield running


def ask(worker: RunningWorker, *, until_close: bool) -> tuple[int, list[bytes], bytes]:
    """(status, lower-case lines of the head, body without chunk framing) of one POST."""
    connection = b"Connection: close\r\n" if until_close else b""
    request = b"POST /m HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n" + connection + b"\r\n{}"
    if until_close:
        answer = worker.raw(request)
    else:
        with worker.connect() as client:
            client.sendall(request)
            answer = read_answer(client)
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = [line.rstrip(b" \t") for line in head.lower().split(b"\r\n")]
    if b"transfer-encoding: chunked" in lines:
        body = unchunked(body)
    return int(head[9:12]), lines, body


def unchunked(data: bytes) -> bytes:
    body = b""
    while data:
        size, _, rest = data.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            return body
        body, data = body + rest[:length], rest[length + 2 :]
    return body + b"(cut)"


@pytest.mark.parametrize("name", [*RIGHT, *WRONG, *CUT])
def test_an_answer(worker: RunningWorker, server: Replying, name: str) -> None:
    case = {**RIGHT, **WRONG, **CUT}[name]
    server.served.clear()
    server.answers = [(case.sent, case.closes)]
    status, lines, body = ask(worker, until_close=True)
    assert status == case.status
    if status != 502:
        assert body == case.body
    for line in case.has:
        assert line in lines
    for text in case.lacks:
        assert not any(text in line for line in lines)
    assert len(server.served) == 1  # never asked twice
    if case.closes:  # a POST that meets the end of its connection on the way is not repeated
        eventually(lambda: server.served[0] in server.ended)

    status, _, body = ask(worker, until_close=False)
    assert (status, body) == (200, b"next")
    assert (server.served[1] == server.served[0]) == case.kept


def test_a_request_that_breaks_after_its_answer_has_begun_cuts_the_answer(
    worker: RunningWorker, server: Replying
) -> None:
    """Another answer within the first would be taken for a part of its body."""
    server.served.clear()
    server.answers = [(OK + b"Content-Length: 1000\r\n\r\nbegin", False)]
    with worker.connect() as client:
        client.sendall(b"POST /m HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n")
        answer = b""
        while not answer.endswith(b"begin"):
            answer += client.recv(65536)
        client.sendall(b"no chunk size\r\n")
        answer += read_all(client)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.endswith(b"\r\n\r\nbegin")
    assert len(server.served) == 1


def test_a_body_that_stops_arriving_is_408_and_leaves_the_model_server(server: Replying) -> None:
    model = Model("m", "v1", (Version("v1", (server.url,), timeout_s=10.0),), match=Match("/m"))
    with running_worker([model], server=ServerPolicy(receive_timeout_s=0.3)) as worker:
        server.answers = [(b"HTTP/1.1 100 Continue\r\n\r\n", False)]  # the answer itself waits for the body
        answer = worker.raw(b"POST /m HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{")
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"\r\nX-Gateway-Error: timeout\r\n" in answer
        assert b"\r\nConnection: close\r\n" in answer
        record = eventually(lambda: worker.predictions("m"), what="the record")[0]  # type: ignore[index]
        assert (record.ended, record.status) == ("aborted", 499)
