"""Requests that came in one turn of the loop leave together; each is sent once, and only if somebody still waits for it."""

from __future__ import annotations

import asyncio

import pytest

from app.proxy.address import Address
from app.proxy.attempt import Attempt
from app.proxy.connection import Connection, Departures
from app.proxy.upstream import Upstream
from tests.misbehaving import MisbehavingUpstream


class Post:
    """The head of a request with the body `body`."""

    def at(self, address: Address, framing: bytes) -> bytes:
        return b"POST /ok HTTP/1.1\r\nHost: " + address.authority + b"\r\n" + framing + b"\r\n"


class Waiting:
    """Who started an attempt, and a future for its end."""

    def __init__(self) -> None:
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def answered(self, attempt: Attempt) -> None:
        self.ended.set_result(f"{attempt.status}")

    def failed(self, attempt: Attempt) -> None:
        self.ended.set_result(attempt.error)

    def progressed(self, attempt: Attempt) -> None: ...

    def drained(self, attempt: Attempt) -> None: ...

    def stalled(self, attempt: Attempt) -> None: ...


class Left(Connection):
    """A connection that only notes its departure."""

    def __init__(self, upstream: Upstream, log: list[str], name: str) -> None:
        super().__init__(upstream.endpoints[0])
        self._log = log
        self._name = name

    def depart(self) -> None:
        self._log.append(self._name)


def start(upstream: Upstream) -> tuple[Attempt, Waiting]:
    waiting = Waiting()
    attempt = Attempt(upstream, waiting, b"POST", Post(), b"Content-Length: 2\r\n", b"{}")
    upstream.start(attempt)
    return attempt, waiting


def upstream_at(url: str) -> Upstream:
    return Upstream(asyncio.get_running_loop(), (url,), timeout_s=5.0, connect_timeout_s=1.0)


async def test_what_came_in_one_turn_leaves_at_its_end_and_a_full_burst_at_once() -> None:
    upstream = upstream_at("http://127.0.0.1:1")
    departures = Departures(asyncio.get_running_loop())
    log: list[str] = []
    departures.add(Left(upstream, log, "alone"))
    assert log == []
    await asyncio.sleep(0)
    assert log == ["alone"]
    names = [f"r{number}" for number in range(Departures.BURST + 1)]
    for name in names:
        departures.add(Left(upstream, log, name))
    assert log[1:] == names[:-1]
    await asyncio.sleep(0)
    assert log[1:] == names


async def test_a_request_given_up_in_its_turn_is_never_sent() -> None:
    with MisbehavingUpstream() as server:
        upstream = upstream_at(server.url)
        _, first = start(upstream)
        assert await first.ended == "200"
        attempt, _ = start(upstream)  # on the idle connection
        assert attempt.connection is not None
        attempt.cancel()
        _, last = start(upstream)
        assert await last.ended == "200"
        assert server.count() == 2
        upstream.close()


@pytest.mark.parametrize("error", [None, ConnectionResetError()])
async def test_a_post_whose_idle_connection_is_lost_before_it_departs_goes_on_another(
    error: Exception | None,
) -> None:
    """Not a byte of it was sent: this is no repetition."""
    with MisbehavingUpstream() as server:
        upstream = upstream_at(server.url)
        _, first = start(upstream)
        assert await first.ended == "200"
        attempt, waiting = start(upstream)
        assert attempt.connection is not None
        attempt.connection.connection_lost(
            error
        )  # as the loop would, had the server closed in this very turn
        assert await waiting.ended == "200"
        assert (server.count(), server.accepted) == (2, 2)
        upstream.close()


@pytest.mark.parametrize("said", [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong", b""])
async def test_what_a_server_says_before_a_request_departs_is_never_taken_for_its_answer(said: bytes) -> None:
    """Neither bytes nor an end: the request goes on another connection, and is sent once."""
    with MisbehavingUpstream() as server:
        upstream = upstream_at(server.url)
        _, first = start(upstream)
        assert await first.ended == "200"
        attempt, waiting = start(upstream)
        connection = attempt.connection
        assert connection is not None
        if said:
            connection.data_received(said)  # as the loop would, had it come in this very turn
        else:
            connection.eof_received()
        assert connection.closed
        assert await waiting.ended == "200"
        assert b"".join(attempt.parts) != b"wrong"
        assert (server.count(), server.accepted) == (2, 2)
        upstream.close()
