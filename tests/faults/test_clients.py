"""Clients that attack or leave: slow ones are closed in time, those who go leave nothing behind. Against a real worker."""

from __future__ import annotations

import asyncio
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

import pytest

from app.domain.model import Match, Model, Version
from app.domain.policy import ServerPolicy
from tests.client import load, post
from tests.faults.observed import Footprint, footprint, quantile
from tests.faults.traffic import Traffic
from tests.misbehaving import MisbehavingUpstream
from tests.worker import RunningWorker, eventually, read_answer, running_worker

RECEIVE_S = 1.0
MAX_INFLIGHT = 80
GOOD = 12  # files of good traffic: four clients, as many upstream connections, a segment; fewer than slow clients of a kind
RESET = struct.pack("ii", 1, 0)
Figure = Callable[[str, object], None]


@pytest.fixture
def upstream() -> Iterator[MisbehavingUpstream]:
    with MisbehavingUpstream(default="ok") as server:
        yield server


@pytest.fixture
def worker(upstream: MisbehavingUpstream) -> Iterator[RunningWorker]:
    model = Model("m", "v1", (Version("v1", (upstream.url,)),), match=Match("/m", strip=True))
    policy = ServerPolicy(receive_timeout_s=RECEIVE_S, max_inflight=MAX_INFLIGHT)
    with running_worker([model], server=policy) as running:
        yield running


@pytest.fixture
def roomy(upstream: MisbehavingUpstream) -> Iterator[RunningWorker]:
    """Takes all slow readers at once: what is refused is no slow client but an idle one, which may keep its connection."""
    model = Model("m", "v1", (Version("v1", (upstream.url,)),), match=Match("/m", strip=True))
    with running_worker([model], server=ServerPolicy(receive_timeout_s=RECEIVE_S)) as running:
        yield running


# ---- slow on purpose

SLOW = {  # how it begins, and what is sent after it five times a second
    "nothing": (b"", b""),
    "head": (b"POST /m/ok HTTP/1.1\r\nHost: t\r\n", b"X-Slow: 1\r\n"),
    "one field": (b"POST /m/ok HTTP/1.1\r\nHost: t\r\nX-Slow: ", b"x"),
    "body": (b"POST /m/ok HTTP/1.1\r\nHost: t\r\nContent-Length: 100000\r\n\r\n", b"x"),
    "chunks": (b"POST /m/ok HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "reading": (b"GET /m/long_body?bytes=20000000 HTTP/1.1\r\nHost: t\r\n\r\n", b""),
}


@dataclass
class Slow:
    """Sockets that each begin a request and never come to an end, driven by one thread; for as long as the block lasts.

    Those that only read nothing cannot see that they were closed: the kernel's buffer stands before it.
    """

    port: int
    count: int
    left: list[str] = field(default_factory=list)  # kinds that were not closed though they would have seen it
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Slow:
        self._thread = threading.Thread(target=self._run, name="slow clients", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        kinds = list(SLOW)
        with ExitStack() as stack:
            watched = select.poll()
            sockets: dict[int, tuple[socket.socket, str]] = {}
            for number in range(self.count):
                kind = kinds[number % len(kinds)]
                client = stack.enter_context(socket.socket())
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.connect(("127.0.0.1", self.port))
                client.sendall(SLOW[kind][0])
                watched.register(client, select.POLLRDHUP | select.POLLHUP | select.POLLERR)
                sockets[client.fileno()] = (client, kind)
            ending = False
            while not ending:
                ending = self._stop.wait(0.2)  # one last look after it
                for number, _ in watched.poll(0):
                    watched.unregister(number)
                    del sockets[number]
                for client, kind in sockets.values():
                    with suppress(OSError):
                        client.send(SLOW[kind][1])
            self.left = [kind for _, kind in sockets.values() if kind != "reading"]


@pytest.mark.parametrize(
    ("sockets", "answers"),
    [
        pytest.param(90, 150, id="90 sockets"),
        pytest.param(2000, 2000, id="2,000 sockets", marks=pytest.mark.faults),
    ],
)
async def test_slow_clients_are_closed_in_time_and_good_ones_do_not_notice(
    roomy: RunningWorker, sockets: int, answers: int, record_property: Figure
) -> None:
    def request(user: str) -> bytes:
        return post("/m/ok", X_User_Id=user)

    before = footprint(roomy.process.pid).descriptors

    def closed(more: int) -> bool:
        return footprint(roomy.process.pid).descriptors <= before + more

    async with Traffic(roomy.port, request=request, pause_s=0.002) as undisturbed:
        await undisturbed.more(answers)
    with Slow(roomy.port, sockets) as slow:
        async with Traffic(roomy.port, request=request, pause_s=0.002) as disturbed:
            await asyncio.to_thread(
                eventually, lambda: not closed(sockets // 2), 30.0, "the slow connections"
            )
            begun = time.monotonic()
            await disturbed.more(answers)
            await asyncio.to_thread(eventually, lambda: closed(GOOD), 60.0, "the end of the slow connections")
            took = time.monotonic() - begun
    undisturbed.all_good()
    disturbed.all_good()
    assert slow.left == []
    assert took < 30 * RECEIVE_S  # an order of magnitude: this machine may be busy
    ratio = quantile(disturbed.took_s, 0.99) / quantile(undisturbed.took_s, 0.99)
    record_property(
        "figure",
        f"{sockets} slow sockets: closed within {took:.1f} s (limit {RECEIVE_S:.0f} s); good p99 {ratio:.1f}×",
    )


# ---- leaving

ROUND = 50  # connections at a time


def send_and_leave(worker: RunningWorker, upstream: MisbehavingUpstream, count: int) -> int:
    """Clients that leave at different moments; how many of them had sent a whole request."""
    whole = 0
    for start in range(0, count, ROUND):
        before = upstream.count()
        expected = 0
        with ExitStack() as stack:
            for number in range(start, start + ROUND):
                client = stack.enter_context(worker.connect())
                match number % 5:
                    case 0:
                        client.sendall(b"POST /m/hang HTTP/1.1\r\nHos")
                    case 1:
                        client.sendall(b"POST /m/hang HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n\r\n12345")
                    case 2:  # its answer has begun and goes on
                        client.sendall(b"GET /m/long_body?bytes=20000000 HTTP/1.1\r\nHost: t\r\n\r\n")
                        client.recv(1000)
                        expected += 1
                    case _:
                        client.sendall(post("/m/hang"))
                        expected += 1
            upstream.wait_until(lambda server, wanted=before + expected: server.count() >= wanted)  # type: ignore[misc]
        whole += expected
    return whole


def flat(worker: RunningWorker, before: Footprint, mib: float) -> float:
    """Nothing is left open; how much the resident memory has grown, in MiB."""
    eventually(
        lambda: footprint(worker.process.pid).descriptors <= before.descriptors + 8, what="closed files"
    )
    grown = footprint(worker.process.pid).resident_mib - before.resident_mib
    assert grown < mib
    return grown


@pytest.mark.parametrize(
    "clients", [pytest.param(500, id="500"), pytest.param(10_000, id="10,000", marks=pytest.mark.faults)]
)
async def test_clients_that_leave_take_their_upstream_call_with_them_and_leave_nothing_behind(
    worker: RunningWorker, upstream: MisbehavingUpstream, clients: int, record_property: Figure
) -> None:
    whole = send_and_leave(worker, upstream, ROUND * 4)  # warm: pools, caches, the parser's buffers
    upstream.wait_until(lambda server: server.open_connections == 0)
    before = footprint(worker.process.pid)
    slowest = 0.0
    for _ in range(clients // (ROUND * 5)):
        whole += send_and_leave(worker, upstream, ROUND * 5)
        begun = time.monotonic()
        upstream.wait_until(lambda server: server.open_connections == 0)
        slowest = max(slowest, time.monotonic() - begun)
    # What leaks in 500 would be seen: a streamed answer buffers up to 256 KiB, a half request 64 KiB.
    grown = flat(worker, before, 16.0)
    eventually(
        lambda: sum(r.ended == "aborted" for r in worker.predictions("m")) == whole, what="the records"
    )
    # Each request that is not given back would take one of MAX_INFLIGHT places for ever.
    answers = await load(worker.port, [post("/m/slow?delay=0.3")] * 70, connections=70)
    assert {a.status for a in answers} == {200}
    record_property(
        "figure",
        f"{clients} clients left: upstream calls ended within {slowest:.2f} s, memory {grown:+.1f} MiB, {whole} recorded as aborted",
    )


@pytest.mark.parametrize(
    "clients", [pytest.param(500, id="500"), pytest.param(10_000, id="10,000", marks=pytest.mark.faults)]
)
async def test_resets_after_the_answer_leave_nothing_behind(
    worker: RunningWorker, upstream: MisbehavingUpstream, clients: int, record_property: Figure
) -> None:
    def answered_then_reset(count: int) -> None:
        for _ in range(count):
            with worker.connect() as client:
                client.sendall(post("/m/ok"))
                assert read_answer(client).startswith(b"HTTP/1.1 200 ")
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    await asyncio.to_thread(answered_then_reset, 200)
    before = footprint(worker.process.pid)
    await asyncio.to_thread(answered_then_reset, clients)
    grown = flat(worker, before, 4.0)
    assert len(worker.predictions("m")) == clients + 200
    record_property("figure", f"{clients} resets: memory {grown:+.1f} MiB, files as before")
