"""Requests as bytes on the wire, from RFC 9110 and RFC 9112: what of each reaches the model server, and how the connection stands after it.

Beside `test_requests`, whose hostile cases are answered 400 and closed: here each case says what the model server gets, byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from app.domain.model import Match, Model, Version
from app.domain.policy import ServerPolicy
from tests.misbehaving import MisbehavingUpstream
from tests.worker import RunningWorker, read_answer, running_worker

H = b"Host: t\r\n"
INNER = b"GET /admin HTTP/1.1\r\nHost: t\r\n\r\n"
TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
L0 = b"Content-Length: 0\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


@dataclass(frozen=True)
class Case:
    sent: bytes
    method: str = "POST"
    target: str = "/x"
    body: bytes = b""
    has: dict[str, str] = field(default_factory=dict)  # fields that the model server gets
    lacks: tuple[str, ...] = ()
    kept: bool = True  # the client's connection takes another request


def get(target: str, *, to: str | None = None, fields: bytes = H) -> Case:
    return Case(b"GET %b HTTP/1.1\r\n%b\r\n" % (target.encode("latin-1"), fields), "GET", to or target)


def post(
    fields: bytes, *, has: dict[str, str] | None = None, lacks: tuple[str, ...] = (), kept: bool = True
) -> Case:
    return Case(b"POST /x HTTP/1.1\r\n" + H + fields + L0, has=has or {}, lacks=lacks, kept=kept)


def body(fields: bytes, sent: bytes, got: bytes, **more: str) -> Case:
    return Case(b"POST /x HTTP/1.1\r\n" + H + fields + sent, body=got, has=more)


CASES = {
    # ---- methods and targets
    **{f"method {method}": Case(method.encode() + b" /x HTTP/1.1\r\n" + H + L0, method)
       for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "REPORT")},
    "GET has no content-length when it had none": Case(
        b"GET /x HTTP/1.1\r\n" + H + b"\r\n", "GET", lacks=("content-length", "transfer-encoding")),
    "GET with a body (9110 9.3.1)": Case(b"GET /x HTTP/1.1\r\n" + H + b"Content-Length: 2\r\n\r\n{}", "GET", body=b"{}"),
    "a query": get("/x?a=1&b=%2e%2e&c=//&d=?"),
    "an empty query": get("/x?"),
    "a path of empty segments": get("/x//y///z"),
    "sub-delimiters (3986 2.2)": get("/x/!$&'()*+,;=:@"),
    "unreserved characters are decoded (3986 6.2.2.2)": get("/%78/%41%7e%2d", to="/x/A~-"),
    "reserved ones stay encoded": get("/x/%2F%3F%23%25"),
    "in the query nothing is decoded": get("/x?%41=%2F"),
    "not UTF-8": get("/x/%ff%fe"),
    "dots that are no segments": get("/x/...,.a/b."),
    "absolute form (9112 3.2.2)": get("http://other.example:81/x?q", to="/x?q"),
    "absolute form of https": get("https://other.example/x", to="/x"),
    "scheme in capitals": get("HTTP://other.example/x", to="/x"),
    # ---- bodies
    "content-length with leading zeros": body(b"Content-Length: 0002\r\n\r\n", b"{}", b"{}"),
    "content-length with space around": body(b"Content-Length: \t 2 \t\r\n\r\n", b"{}", b"{}"),
    "every byte": body(b"Content-Length: 256\r\n\r\n", bytes(range(256)), bytes(range(256))),
    "a request within a body": body(b"Content-Length: %d\r\n\r\n" % len(INNER), INNER, INNER),
    "chunks are joined": body(CHUNKED, b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n", b"{}"),
    "a chunk size in capitals": body(CHUNKED, b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
    "a chunk size with leading zeros": body(CHUNKED, b"00000002\r\n{}\r\n000\r\n\r\n", b"{}"),
    "a chunk extension is dropped": body(CHUNKED, b'2;a;b=c;d="e f"\r\n{}\r\n0;x\r\n\r\n', b"{}"),
    "an empty chunked body": body(CHUNKED, b"0\r\n\r\n", b""),
    "chunked with space around": body(b"Transfer-Encoding: \tchunked \r\n\r\n", b"2\r\n{}\r\n0\r\n\r\n", b"{}"),
    "a trailer never becomes a field": Case(
        b"POST /x HTTP/1.1\r\n" + H + CHUNKED + b"2\r\n{}\r\n0\r\nAuthorization: forged\r\nX-T: 1\r\n\r\n",
        body=b"{}", lacks=("authorization", "x-t", "trailer")),
    "a large body in small chunks": body(CHUNKED, b"3\r\nabc\r\n" * 30_000 + b"0\r\n\r\n", b"abc" * 30_000),
    # ---- fields that go on
    "names keep their spelling": post(b"x-LoWeR: 1\r\n", has={"x-LoWeR": "1"}),
    "space around a value": post(b"X-A: \t a b \t\r\n", has={"X-A": "a b"}),
    "an empty value": post(b"X-A:\r\n", has={"X-A": ""}),
    "a value with colons": post(b"X-A: a:b: c\r\n", has={"X-A": "a:b: c"}),
    "obs-text": post(b"X-A: \xe4\xff\r\n", has={"X-A": "\xe4\xff"}),
    "all characters of a name": post(b"!#$%&'*+-.^_`|~09aZ: 1\r\n", has={"!#$%&'*+-.^_`|~09aZ": "1"}),
    "authorization": post(b"Authorization: Bearer abc\r\n", has={"Authorization": "Bearer abc"}),
    "cookies": post(b"Cookie: a=1; b=2\r\n", has={"Cookie": "a=1; b=2"}),
    "content coding": post(b"Content-Encoding: gzip\r\n", has={"Content-Encoding": "gzip"}),
    "x-request-id": post(b"X-Request-Id: r1\r\n", has={"X-Request-Id": "r1"}),
    "ten thousand bytes of value": post(b"X-A: " + b"a" * 10_000 + b"\r\n", has={"X-A": "a" * 10_000}),
    # ---- fields that end here, or are the gateway's own
    "hop-by-hop fields (9110 7.6.1)": post(
        b"Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: x\r\nTE: trailers\r\nTrailer: X\r\n",
        lacks=("keep-alive", "proxy-connection", "proxy-authorization", "te", "trailer", "connection")),
    "what connection names": post(
        b"Connection: X-Hop, keep-alive\r\nX-Hop: 1\r\nX-End: 2\r\n", has={"X-End": "2"}, lacks=("x-hop", "connection")),
    "what two connection fields name": post(b"Connection: X-A\r\nX-A: 1\r\nConnection: X-B\r\nX-B: 2\r\n", lacks=("x-a", "x-b")),
    "what connection names before it stands": post(b"X-Hop: 1\r\nConnection: x-HOP\r\n", lacks=("x-hop",)),
    "host is the model server's": Case(b"POST /x HTTP/1.1\r\nHost: spoofed.example\r\n" + L0, has={"X-Forwarded-Host": "spoofed.example"}),
    "forwarded fields are not believed": post(
        b"X-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nForwarded: for=10.0.0.1\r\n",
        has={"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "t"}, lacks=("forwarded",)),
    "via grows (9110 7.6.3)": post(b"Via: 1.0 first\r\n", has={"Via": "1.0 first, 1.1 model-gateway"}),
    "a prediction id is ours": post(b"X-Prediction-Id: forged\r\n"),
    "the token for forcing is not passed on": post(b"X-Gateway-Token: secret\r\n", lacks=("x-gateway-token",)),
    "trace goes on under a new parent": post(b"tracestate: a=b\r\ntraceparent: " + TRACE + b"\r\n", has={"tracestate": "a=b"}),
    "an invalid trace ends here": post(b"traceparent: 00-0-0-00\r\ntracestate: a=b\r\n", lacks=("traceparent", "tracestate")),
    # ---- connections
    "connection: close": post(b"Connection: close\r\n", kept=False, lacks=("connection",)),
    "close among options": post(b"Connection: x-a, Close\r\n", kept=False),
    "HTTP/1.0 closes (9112 9.3)": Case(b"GET /x HTTP/1.0\r\n\r\n", "GET", kept=False),
    "HTTP/1.0 with keep-alive": Case(b"GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "GET"),
    "HTTP/1.0 with host": Case(b"POST /x HTTP/1.0\r\nHost: a.example\r\nContent-Length: 2\r\n\r\n{}", body=b"{}", kept=False,
                               has={"X-Forwarded-Host": "a.example"}),
    "empty lines before a request (9112 2.2)": Case(b"\r\n\r\n\r\nGET /x HTTP/1.1\r\n" + H + b"\r\n", "GET"),
    "an upgrade is not taken (9110 7.8)": Case(
        b"GET /x HTTP/1.1\r\n" + H + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n", "GET", kept=False, lacks=("upgrade",)),
    "expect 100-continue with the body at once": body(b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n", b"{}", b"{}"),
}  # fmt: skip


@pytest.fixture(scope="module")
def upstream() -> Iterator[MisbehavingUpstream]:
    with MisbehavingUpstream(default="echo") as server:
        yield server


@pytest.fixture(scope="module")
def worker(upstream: MisbehavingUpstream) -> Iterator[RunningWorker]:
    model = Model("m", "v1", (Version("v1", (upstream.url,)),), match=Match("/"))
    with running_worker([model], server=ServerPolicy(receive_timeout_s=5.0)) as running:
        yield running


@pytest.mark.parametrize("name", CASES)
def test_a_request(worker: RunningWorker, upstream: MisbehavingUpstream, name: str) -> None:
    case = CASES[name]
    upstream.requests.clear()
    with worker.connect() as client:
        client.sendall(case.sent)
        answer = read_answer(client)
        if answer.startswith(b"HTTP/1.1 100 "):
            answer = answer.partition(b"\r\n\r\n")[2] or read_answer(client)
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        if case.kept:
            assert b"\r\nConnection: close" not in answer
            client.sendall(b"POST /second HTTP/1.1\r\n" + H + b"Content-Length: 6\r\n\r\nsecond")
            assert read_answer(client).endswith(b"\r\n\r\nsecond")
        else:
            assert b"\r\nConnection: close\r\n" in answer
            assert client.recv(1) == b""
    (got, *more) = upstream.requests
    assert [request.target for request in more] == ["/second"] * case.kept
    assert (got.method, got.target, got.body) == (case.method, case.target, case.body)
    names = [key.decode("latin-1") for key, _ in got.headers]
    for key, value in case.has.items():
        assert key in names
        assert got.header(key) == value
    lower = [key.lower() for key in names]
    assert not set(case.lacks) & set(lower)
    assert lower.count("host") == 1
    assert got.header("host") == upstream.url.removeprefix("http://")
    assert lower.count("content-length") + lower.count("transfer-encoding") <= 1
    assert lower.count("x-prediction-id") == 1
    assert got.header("x-prediction-id") != "forged"
