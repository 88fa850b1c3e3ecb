"""A request's body reaches the model server whole, however it comes: behind another request, in pieces, or with a wish to upgrade."""

from __future__ import annotations

import hashlib
import os
import socket
import time

import pytest

from app.domain.model import Match, Model, Version
from app.domain.policy import ServerPolicy
from tests.misbehaving import ANSWER, MisbehavingUpstream
from tests.worker import RunningWorker, read_answer, running_worker


def model(url: str) -> Model:
    return Model("m", "v1", (Version("v1", (url,), timeout_s=10.0),), match=Match("/m"))


def chunks(body: bytes, size: int = 60_000) -> bytes:
    return b"".join(
        b"%x\r\n%b\r\n" % (len(body[at : at + size]), body[at : at + size])
        for at in range(0, len(body), size)
    )


def received(server: MisbehavingUpstream, behaviour: str) -> list[str]:
    return [hashlib.sha256(r.body).hexdigest() for r in server.requests if r.behaviour == behaviour]


def answered(client: socket.socket, count: int) -> bytes:
    """That many answers, one behind the other."""
    client.settimeout(15)
    found = b""
    while found.count(b"HTTP/1.1 200") < count or not found.endswith(ANSWER):
        piece = client.recv(65536)
        assert piece, found
        found += piece
    return found


SLOW = b"GET /m/slow?delay=0.4 HTTP/1.1\r\nHost: t\r\n\r\n"


@pytest.mark.parametrize("rest", ["at once", "after the first answer"])
@pytest.mark.parametrize("framing", ["chunked", "length"])
def test_a_large_body_behind_another_request_arrives_whole(framing: str, rest: str) -> None:
    body = os.urandom(3_000_000)
    late = 100_000 if rest != "at once" else 0
    head = b"POST /m/ok HTTP/1.1\r\nHost: t\r\n"
    if framing == "chunked":
        parts = (
            head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks(body[: len(body) - late]),
            (chunks(body[len(body) - late :]) if late else b"") + b"0\r\n\r\n",
        )
    else:
        parts = (
            head + b"Content-Length: %d\r\n\r\n" % len(body) + body[: len(body) - late],
            body[len(body) - late :],
        )
    with MisbehavingUpstream() as server, running_worker([model(server.url)]) as worker:
        with worker.connect() as client:
            client.sendall(SLOW)
            server.wait_until(lambda one: one.count("slow") == 1)
            client.setblocking(True)
            client.settimeout(15)
            client.sendall(parts[0])  # more than is read before its turn: it waits in the sockets
            client.sendall(parts[1])
            answered(client, 2)
        assert received(server, "ok") == [hashlib.sha256(body).hexdigest()]


def test_a_body_larger_than_what_is_kept_for_replay_arrives_whole() -> None:
    body = os.urandom(6_000)
    policy = ServerPolicy(replay_bytes=1_000)
    with MisbehavingUpstream() as server, running_worker([model(server.url)], server=policy) as worker:
        with worker.connect() as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.sendall(b"POST /m/ok HTTP/1.1\r\nHost: t\r\nContent-Length: 6000\r\n\r\n")
            for at in range(0, 6_000, 1_000):
                client.sendall(body[at : at + 1_000])
                time.sleep(0.01)  # pieces of their own, not one that the kernel joined
            answered(client, 1)
        assert received(server, "ok") == [hashlib.sha256(body).hexdigest()]


UPGRADES = [
    b"Connection: upgrade\r\nUpgrade: websocket\r\n",
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n",
    b"Upgrade: h2c\r\n",
]


def upgrading(worker: RunningWorker, wish: bytes, framing: bytes, body: bytes, *, split: bool) -> bytes:
    with worker.connect() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = b"POST /m/echo HTTP/1.1\r\nHost: t\r\n" + wish + framing + b"\r\n"
        for piece in (head, body[:7], body[7:]) if split else (head + body,):
            client.sendall(piece)
            time.sleep(0.02 if split else 0.0)
        client.settimeout(5)
        return read_answer(client)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("wish", UPGRADES)
def test_a_request_that_wishes_to_upgrade_keeps_its_body(wish: bytes, split: bool) -> None:
    """Clients that offer HTTP/2 on clear text send exactly this; the wish is not taken (RFC 9110 section 7.8), the request is."""
    body = b'{"features": [1, 2, 3]}'
    with MisbehavingUpstream() as server, running_worker([model(server.url)]) as worker:
        length = upgrading(worker, wish, b"Content-Length: %d\r\n" % len(body), body, split=split)
        chunked = upgrading(
            worker, wish, b"Transfer-Encoding: chunked\r\n", chunks(body) + b"0\r\n\r\n", split=split
        )
        for answer in (length, chunked):
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert answer.endswith(b"\r\n\r\n" + body)
        assert {request.body for request in server.requests} == {body}


def test_a_body_announced_with_expect_behind_another_request_is_asked_for() -> None:
    with MisbehavingUpstream() as server, running_worker([model(server.url)]) as worker:
        with worker.connect() as client:
            client.sendall(
                SLOW + b"POST /m/ok HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
            )
            client.settimeout(5)
            found = b""
            while b"100 Continue" not in found:
                piece = client.recv(65536)
                assert piece, found
                found += piece
            client.sendall(b"hello")
            answered(client, 1)
        assert [r.body for r in server.requests if r.behaviour == "ok"] == [b"hello"]
