"""Requests as bytes on the wire: what is taken, what is refused and how, and that exactly one request goes on for each one taken.

The cases follow RFC 9110 and RFC 9112; each names the section it is about where that helps.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from app.domain.model import Match, Model, Version
from app.domain.policy import ServerPolicy
from tests.misbehaving import MisbehavingUpstream
from tests.worker import RunningWorker, eventually, read_all, read_answer, running_worker

OK = 200
REFUSED = 400


@pytest.fixture(scope="module")
def upstream() -> Iterator[MisbehavingUpstream]:
    with MisbehavingUpstream(default="echo") as server:
        yield server


@pytest.fixture(scope="module")
def worker(upstream: MisbehavingUpstream) -> Iterator[RunningWorker]:
    models = [
        Model("m", "v1", (Version("v1", (upstream.url,)),), match=Match("/m", strip=True)),
        Model("hosted", "v1", (Version("v1", (upstream.url,)),), match=Match("/h", host="models.example")),
        Model(
            "headed", "v1", (Version("v1", (upstream.url,)),), match=Match("/h", headers=(("x-tenant", "a"),))
        ),
        Model("deep", "v1", (Version("v1", (upstream.url,)),), match=Match("/m/deep/er")),
    ]
    policy = ServerPolicy(receive_timeout_s=1.0, max_header_bytes=16_384, max_body_bytes=1_000_000)
    with running_worker(models, server=policy) as running:
        yield running


H = b"Host: t\r\n"
TAKEN = {
    "plain": b"POST /m/echo HTTP/1.1\r\n" + H + b"Content-Length: 2\r\n\r\n{}",
    "no body": b"POST /m/echo HTTP/1.1\r\n" + H + b"Content-Length: 0\r\n\r\n",
    "get": b"GET /m/echo HTTP/1.1\r\n" + H + b"\r\n",
    "chunked": b"POST /m/echo HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "chunk extension": b"POST /m/echo HTTP/1.1\r\n"
    + H
    + b"Transfer-Encoding: chunked\r\n\r\n2;a=b\r\n{}\r\n0\r\n\r\n",
    "trailers": b"POST /m/echo HTTP/1.1\r\n"
    + H
    + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-T: 1\r\n\r\n",
    "upper-case coding": b"POST /m/echo HTTP/1.1\r\n"
    + H
    + b"Transfer-Encoding: Chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "1.0 without host": b"GET /m/echo HTTP/1.0\r\n\r\n",
    "1.0 with length": b"POST /m/echo HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}",
    "absolute form": b"GET http://elsewhere/m/echo HTTP/1.1\r\n" + H + b"\r\n",
    "lower-case field names": b"POST /m/echo HTTP/1.1\r\nhost: t\r\ncontent-length: 2\r\n\r\n{}",
    "host with port": b"GET /m/echo HTTP/1.1\r\nHost: a.example:8080\r\n\r\n",
    "host is IPv6": b"GET /m/echo HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n",
    "query": b"GET /m/echo?a=%00&b=../c HTTP/1.1\r\n" + H + b"\r\n",
    "encoded unreserved": b"GET /%6d/echo HTTP/1.1\r\n" + H + b"\r\n",
    "unknown method": b"PATCH /m/echo HTTP/1.1\r\n" + H + b"Content-Length: 0\r\n\r\n",
    "empty field": b"GET /m/echo HTTP/1.1\r\n" + H + b"X-Empty:\r\n\r\n",
    "tab in field": b"GET /m/echo HTTP/1.1\r\n" + H + b"X-Tab: a\tb\r\n\r\n",
    "obs-text in field": b"GET /m/echo HTTP/1.1\r\n" + H + b"X-Text: \xe4\r\n\r\n",
    "upgrade ignored": b"GET /m/echo HTTP/1.1\r\n" + H + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    "te dropped": b"GET /m/echo HTTP/1.1\r\n" + H + b"TE: trailers\r\nConnection: TE\r\n\r\n",
    "empty line first": b"\r\nGET /m/echo HTTP/1.1\r\n" + H + b"\r\n",
    "same length again": b"GET /m/echo HTTP/1.1\r\n" + H + b"X-A: 1\r\nX-A: 2\r\n\r\n",
}
HOSTILE = {
    "length and coding (9112 6.1)": b"POST /m/echo HTTP/1.1\r\n"
    + H
    + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding and length": b"POST /m/echo HTTP/1.1\r\n"
    + H
    + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
    "two lengths": b"POST /m/echo HTTP/1.1\r\n" + H + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "same length twice": b"POST /m/echo HTTP/1.1\r\n"
    + H
    + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "length list": b"POST /m/echo HTTP/1.1\r\n" + H + b"Content-Length: 2, 2\r\n\r\n{}",
    "signed length": b"POST /m/echo HTTP/1.1\r\n" + H + b"Content-Length: +2\r\n\r\n{}",
    "negative length": b"POST /m/echo HTTP/1.1\r\n" + H + b"Content-Length: -2\r\n\r\n{}",
    "hexadecimal length": b"POST /m/echo HTTP/1.1\r\n" + H + b"Content-Length: 0x2\r\n\r\n{}",
    "length too long": b"POST /m/echo HTTP/1.1\r\n"
    + H
    + b"Content-Length: 99999999999999999999999\r\n\r\n{}",
    "empty length": b"POST /m/echo HTTP/1.1\r\n" + H + b"Content-Length: \r\n\r\n{}",
    "coding twice (TE.TE)": b"POST /m/echo HTTP/1.1\r\n"
    + H
    + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "coding not last": b"POST /m/echo HTTP/1.1\r\n"
    + H
    + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "coding before chunked": b"POST /m/echo HTTP/1.1\r\n"
    + H
    + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "coding with vertical tab": b"POST /m/echo HTTP/1.1\r\n"
    + H
    + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "unknown coding": b"POST /m/echo HTTP/1.1\r\n" + H + b"Transfer-Encoding: x\r\n\r\n",
    "coding in 1.0": b"POST /m/echo HTTP/1.0\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bad chunk size": b"POST /m/echo HTTP/1.1\r\n"
    + H
    + b"Transfer-Encoding: chunked\r\n\r\nx\r\n{}\r\n0\r\n\r\n",
    "negative chunk size": b"POST /m/echo HTTP/1.1\r\n"
    + H
    + b"Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
    "prefixed chunk size": b"POST /m/echo HTTP/1.1\r\n"
    + H
    + b"Transfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n",
    "chunk longer than said": b"POST /m/echo HTTP/1.1\r\n"
    + H
    + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{}\r\n0\r\n\r\n",
    "chunk size overflow": b"POST /m/echo HTTP/1.1\r\n"
    + H
    + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n{}\r\n0\r\n\r\n",
    "bare LF in head": b"POST /m/echo HTTP/1.1\nHost: t\n\n",
    "bare LF after field": b"GET /m/echo HTTP/1.1\r\nHost: t\nX: y\r\n\r\n",
    "bare CR in field": b"GET /m/echo HTTP/1.1\r\n" + H + b"X-A: a\rb\r\n\r\n",
    "NUL in field": b"GET /m/echo HTTP/1.1\r\n" + H + b"X-A: a\0b\r\n\r\n",
    "NUL in name": b"GET /m/echo HTTP/1.1\r\n" + H + b"X\0A: b\r\n\r\n",
    "folded field (9112 5.2)": b"GET /m/echo HTTP/1.1\r\n" + H + b"X-A: a\r\n b\r\n\r\n",
    "space before colon (5.1)": b"GET /m/echo HTTP/1.1\r\n" + H + b"X-A : a\r\n\r\n",
    "space in name": b"GET /m/echo HTTP/1.1\r\n" + H + b"X A: a\r\n\r\n",
    "field without colon": b"GET /m/echo HTTP/1.1\r\n" + H + b"X-A\r\n\r\n",
    "field without name": b"GET /m/echo HTTP/1.1\r\n" + H + b": a\r\n\r\n",
    "field before first": b"GET /m/echo HTTP/1.1\r\n X: y\r\n" + H + b"\r\n",
    "no host (9110 7.2)": b"GET /m/echo HTTP/1.1\r\n\r\n",
    "empty host": b"GET /m/echo HTTP/1.1\r\nHost:\r\n\r\n",
    "two hosts": b"GET /m/echo HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "joined hosts": b"GET /m/echo HTTP/1.1\r\nHost: a, b\r\n\r\n",
    "host with path": b"GET /m/echo HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "host with user": b"GET /m/echo HTTP/1.1\r\nHost: a@b\r\n\r\n",
    "host with space": b"GET /m/echo HTTP/1.1\r\nHost: a b\r\n\r\n",
    "host with bad port": b"GET /m/echo HTTP/1.1\r\nHost: a:b\r\n\r\n",
    "dot segments": b"GET /m/../admin HTTP/1.1\r\n" + H + b"\r\n",
    "single dot": b"GET /m/./echo HTTP/1.1\r\n" + H + b"\r\n",
    "encoded dots": b"GET /m/%2e%2e/admin HTTP/1.1\r\n" + H + b"\r\n",
    "half-encoded dots": b"GET /m/.%2E/admin HTTP/1.1\r\n" + H + b"\r\n",
    "encoded NUL in path": b"GET /m/echo%00 HTTP/1.1\r\n" + H + b"\r\n",
    "encoded CRLF in path": b"GET /m/echo%0d%0aX:%20y HTTP/1.1\r\n" + H + b"\r\n",
    "backslash": b"GET /m\\..\\admin HTTP/1.1\r\n" + H + b"\r\n",
    "encoded backslash": b"GET /m/%5c..%5cadmin HTTP/1.1\r\n" + H + b"\r\n",
    "fragment": b"GET /m/echo#x HTTP/1.1\r\n" + H + b"\r\n",
    "asterisk": b"OPTIONS * HTTP/1.1\r\n" + H + b"\r\n",
    "authority form": b"CONNECT a:443 HTTP/1.1\r\n" + H + b"\r\n",
    "other scheme": b"GET ftp://a/m/echo HTTP/1.1\r\n" + H + b"\r\n",
    "absolute form, bad host": b"GET http://a@b/m/echo HTTP/1.1\r\n" + H + b"\r\n",
    "no target": b"GET HTTP/1.1\r\n" + H + b"\r\n",
    "space in target": b"GET /m/ echo HTTP/1.1\r\n" + H + b"\r\n",
    "bad method": b"G@T /m/echo HTTP/1.1\r\n" + H + b"\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/2.0": b"GET /m/echo HTTP/2.0\r\n" + H + b"\r\n",
    "HTTP/0.9": b"GET /m/echo\r\n\r\n",
    "HTTP/1.2": b"GET /m/echo HTTP/1.2\r\n" + H + b"\r\n",
    "lower-case http": b"GET /m/echo http/1.1\r\n" + H + b"\r\n",
    "TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "not HTTP": b"hello\r\n\r\n",
    "expectation": b"POST /m/echo HTTP/1.1\r\n" + H + b"Expect: 200-ok\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("case", TAKEN)
def test_a_valid_request_is_answered_and_goes_on_once(
    worker: RunningWorker, upstream: MisbehavingUpstream, case: str
) -> None:
    before = upstream.count()
    with worker.connect() as client:
        client.sendall(TAKEN[case])
        answer = read_answer(client)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert upstream.count() == before + 1


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_request_is_refused_closed_and_never_goes_on(
    worker: RunningWorker, upstream: MisbehavingUpstream, case: str
) -> None:
    before = upstream.count()
    answer = worker.raw(HOSTILE[case] + b"GET /m/echo?smuggled HTTP/1.1\r\n" + H + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 400 "), answer[:80]
    assert b"\r\nConnection: close\r\n" in answer
    assert b"\r\nX-Gateway-Error: bad_request\r\n" in answer
    assert answer.count(b"HTTP/1.1 ") == 1
    assert upstream.count() == before


def test_pipelined_requests_are_answered_in_turn_and_go_on_once_each(
    worker: RunningWorker, upstream: MisbehavingUpstream
) -> None:
    before = upstream.count()
    requests = b"".join(
        b"POST /m/echo HTTP/1.1\r\n" + H + b"Content-Length: 5\r\n\r\n%05d" % n for n in range(200)
    )
    last = b"POST /m/echo HTTP/1.1\r\n" + H + b"Connection: close\r\nContent-Length: 4\r\n\r\nlast"
    answer = worker.raw(requests + last)
    bodies = [part[-5:] for part in answer.split(b"HTTP/1.1 200 OK")[1:-1]]
    assert bodies == [b"%05d" % n for n in range(200)]
    assert answer.endswith(b"last")
    assert upstream.count() == before + 201


def test_a_request_may_come_byte_by_byte(worker: RunningWorker) -> None:
    with worker.connect() as client:
        for byte in TAKEN["chunked"]:
            client.sendall(bytes([byte]))
        assert read_answer(client).endswith(b"{}")


def test_a_client_that_expects_100_continue_gets_it(worker: RunningWorker) -> None:
    with worker.connect() as client:
        client.sendall(
            b"POST /m/echo HTTP/1.1\r\n" + H + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        )
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"{}")
        assert read_answer(client).endswith(b"{}")


@pytest.mark.parametrize(
    ("request_bytes", "status", "error"),
    [
        (b"POST /m/echo HTTP/1.1\r\n" + H + b"Content-Length: 1000001\r\n\r\n", 413, b"payload_too_large"),
        (
            b"POST /m/echo HTTP/1.1\r\n"
            + H
            + b"Transfer-Encoding: chunked\r\n\r\n"
            + (b"fffff\r\n" + b"x" * 0xFFFFF + b"\r\n"),
            413,
            b"payload_too_large",
        ),
        (b"GET /m/echo HTTP/1.1\r\n" + H + b"X: " + b"x" * 20_000 + b"\r\n\r\n", 431, b"headers_too_large"),
        (b"GET /m/echo HTTP/1.1\r\n" + H + b"A: b\r\n" * 20_000 + b"\r\n", 431, b"headers_too_large"),
        (b"GET /m/" + b"x" * 20_000 + b" HTTP/1.1\r\n" + H + b"\r\n", 431, b"headers_too_large"),
        (b"GET /m/echo HTTP/1.1\r\n" + H + b"X: " + b"x" * 20_000, 431, b"headers_too_large"),
        (b"GET /nowhere HTTP/1.1\r\n" + H + b"Connection: close\r\n\r\n", 404, b"no_route"),
        (b"GET /mm/echo HTTP/1.1\r\n" + H + b"Connection: close\r\n\r\n", 404, b"no_route"),
        (b"GET /m%2Fecho HTTP/1.1\r\n" + H + b"Connection: close\r\n\r\n", 404, b"no_route"),
        (b"GET //m/echo HTTP/1.1\r\n" + H + b"Connection: close\r\n\r\n", 404, b"no_route"),
        (b"GET /admin/models HTTP/1.1\r\n" + H + b"Connection: close\r\n\r\n", 503, b"control_unavailable"),
        (b"GET /%61dmin/models HTTP/1.1\r\n" + H + b"Connection: close\r\n\r\n", 503, b"control_unavailable"),
    ],
)
def test_what_cannot_be_served_is_a_problem_that_says_so(
    worker: RunningWorker, request_bytes: bytes, status: int, error: bytes
) -> None:
    answer = worker.raw(request_bytes)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\nX-Gateway-Error: " + error in answer
    assert b"\r\nContent-Type: application/problem+json\r\n" in answer


@pytest.mark.parametrize(
    ("request_bytes", "model"),
    [
        (b"GET /m/deep/er/echo HTTP/1.1\r\n" + H, "deep"),
        (b"GET /m/deep/echo HTTP/1.1\r\n" + H, "m"),
        (b"GET /h/echo HTTP/1.1\r\nHost: models.example\r\n", "hosted"),
        (b"GET /h/echo HTTP/1.1\r\nHost: Models.Example:80\r\n", "hosted"),
        (b"GET /h/echo HTTP/1.1\r\nHost: t\r\nX-Tenant: a\r\n", "headed"),
        (b"GET /h/echo HTTP/1.1\r\nHost: t\r\nX-Tenant: b\r\n", None),
    ],
)
def test_the_most_particular_model_answers(
    worker: RunningWorker, request_bytes: bytes, model: str | None
) -> None:
    answer = worker.raw(request_bytes + b"Connection: close\r\n\r\n")
    if model is None:
        assert b"no_route" in answer
        return
    identity = answer.split(b"X-Prediction-Id: ")[1][:36].decode()
    record = next(r for r in worker.predictions(model) if r.prediction_id.hex() == identity.replace("-", ""))
    assert record.status == 200


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"POST /m/echo HTTP/1.1\r\nHo",
        b"POST /m/echo HTTP/1.1\r\n" + H + b"Content-Length: 10\r\n\r\n12345",
        b"POST /m/echo HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n5\r\n123",
    ],
)
def test_a_request_that_does_not_arrive_ends_with_its_connection(worker: RunningWorker, start: bytes) -> None:
    with worker.connect() as client:
        client.sendall(start)
        begun = time.monotonic()
        read_all(client)
        # receive_timeout_s is 1; the sweep looks four times a second. An order of magnitude is what counts here.
        assert time.monotonic() - begun < 5.0


def test_fields_named_by_connection_and_the_gateways_own_do_not_go_on(
    worker: RunningWorker, upstream: MisbehavingUpstream
) -> None:
    worker.raw(
        b"GET /m/echo?fields HTTP/1.1\r\n"
        + H
        + b"Connection: close, X-Secret\r\nX-Secret: 1\r\nKeep-Alive: 1\r\nProxy-Authorization: x\r\n"
        b"X-Gateway-Token: x\r\nX-Kept: yes\r\nX-Forwarded-For: 6.6.6.6\r\nX-Request-Id: r-1\r\n"
        b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\ntracestate: a=b\r\nVia: 1.0 fred\r\n\r\n"
    )
    received = next(r for r in upstream.requests if r.target == "/echo?fields")
    assert [
        received.header(name)
        for name in ("x-secret", "keep-alive", "proxy-authorization", "x-gateway-token", "connection")
    ] == [None] * 5
    assert received.header("x-kept") == "yes"
    assert received.header("x-request-id") == "r-1"
    assert received.header("x-forwarded-for") == "127.0.0.1"
    assert received.header("x-forwarded-host") == "t"
    assert received.header("via") == "1.0 fred, 1.1 model-gateway"
    assert received.header("tracestate") == "a=b"
    parent = str(received.header("traceparent")).split("-")
    assert parent[1] == "0af7651916cd43dd8448eb211c80319c"
    assert parent[2] != "b7ad6b7169203331"
    record = next(r for r in worker.predictions("m") if r.target == "/echo?fields")
    assert record.request_id == "r-1"


@pytest.mark.parametrize("size", [10, 65_536, 65_537, 900_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_bodies_of_any_size_go_through_byte_for_byte(
    worker: RunningWorker, upstream: MisbehavingUpstream, size: int, chunked: bool
) -> None:
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    if chunked:
        pieces = b"".join(
            b"%x\r\n%b\r\n" % (len(body[at : at + 7777]), body[at : at + 7777]) for at in range(0, size, 7777)
        )
        request = (
            b"POST /m/echo HTTP/1.1\r\n"
            + H
            + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
            + pieces
            + b"0\r\n\r\n"
        )
    else:
        request = (
            b"POST /m/echo HTTP/1.1\r\n"
            + H
            + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % size
            + body
        )
    answer = worker.raw(request)
    assert answer.partition(b"\r\n\r\n")[2] == body


def test_a_worker_that_is_told_to_stop_finishes_what_is_under_way(upstream: MisbehavingUpstream) -> None:
    model = Model("m", "v1", (Version("v1", (upstream.url,)),), match=Match("/m", strip=True))
    with running_worker([model]) as worker, worker.connect() as idle, worker.connect() as busy:
        before = upstream.count("slow")
        busy.sendall(b"POST /m/slow?delay=0.5 HTTP/1.1\r\n" + H + b"Content-Length: 2\r\n\r\n{}")
        upstream.wait_until(lambda server: server.count("slow") == before + 1)
        worker.process.terminate()
        answer = read_all(busy)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"Connection: close" in answer
        assert read_all(idle) == b""
        eventually(lambda: worker.process.poll() == 0, what="the end of the worker")
