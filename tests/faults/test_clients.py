"""Clients that attack or leave: slow ones are closed in time, those who go leave nothing behind. Against a real worker."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.domain.model import Match, Model, Version
from app.domain.policy import ServerPolicy
from tests.client import load, post
from tests.faults.measured import measured
from tests.faults.observed import KINDS, Footprint, Living, footprint
from tests.faults.slow_clients import MIX, slow_clients
from tests.faults.totals import WorkerTotals
from tests.faults.traffic import Traffic
from tests.misbehaving import MisbehavingUpstream
from tests.worker import TREE, RunningWorker, eventually, read_answer, running_worker

RECEIVE_S = 1.0
MAX_INFLIGHT = 80
SLOW = 6 * len(MIX)
GOOD = 10  # files of good traffic: four clients, as many upstream connections, a segment; fewer than slow clients of most kinds
LATE_S = 4.0  # what a busy machine may add; a client that is forgotten stays for 30 s, its version's deadline
RESET = struct.pack("ii", 1, 0)
Figure = Callable[[str, object], None]


@pytest.fixture
def upstream() -> Iterator[MisbehavingUpstream]:
    with MisbehavingUpstream(default="ok") as server:
        yield server


@pytest.fixture
def living(tmp_path: Path) -> Living:
    return Living(tmp_path, TREE)


@pytest.fixture
def worker(upstream: MisbehavingUpstream, living: Living) -> Iterator[RunningWorker]:
    model = Model("m", "v1", (Version("v1", (upstream.url,)),), match=Match("/m", strip=True))
    policy = ServerPolicy(receive_timeout_s=RECEIVE_S, max_inflight=MAX_INFLIGHT)
    with running_worker([model], server=policy, before=living.command) as running:
        yield running


@pytest.fixture
def roomy(upstream: MisbehavingUpstream) -> Iterator[RunningWorker]:
    """Takes all slow readers at once: what is refused is no slow client but an idle one, which may keep its connection."""
    model = Model("m", "v1", (Version("v1", (upstream.url,)),), match=Match("/m", strip=True))
    with running_worker([model], server=ServerPolicy(receive_timeout_s=RECEIVE_S)) as running:
        yield running


# ---- slow on purpose


async def test_slow_clients_are_closed_in_time_and_good_ones_are_answered_all_the_while(
    roomy: RunningWorker, record_property: Figure
) -> None:
    before = footprint(roomy.process.pid).descriptors

    def closed(more: int) -> bool:
        return footprint(roomy.process.pid).descriptors <= before + more

    with WorkerTotals(roomy) as totals, slow_clients(roomy.port, SLOW) as slow:
        async with Traffic(roomy.port, request=lambda user: post("/m/ok", X_User_Id=user)) as good:
            await asyncio.to_thread(slow.ended, 60.0)
            await asyncio.to_thread(eventually, lambda: closed(GOOD), 10.0, "the end of their connections")
            await good.more(50)
        totals.all_places_free()
    good.all_good()
    assert slow.left == []
    assert slow.closed == SLOW
    slowest = max(slow.slowest_s.values())
    assert slowest < RECEIVE_S + LATE_S
    record_property("figure", f"{SLOW} slow sockets closed within {slowest:.1f} s (limit {RECEIVE_S:.0f} s)")


@pytest.mark.faults
def test_good_clients_are_as_fast_amid_two_thousand_slow_ones_as_without(record_property: Figure) -> None:
    """The worker has a core of its own; clients, slow clients and model servers share the others, each in a process of its own."""
    found = measured("benchmarks.slow_clients")
    record_property("figure", found["line"])
    assert found["ratio"] < 2.0
    assert found["failed"] == {}
    assert set(found["slowest_s"]) == set(MIX)  # of each kind some were closed
    # A look at the deadlines every quarter of a second, and the time to hear of it: a tenth.
    assert max(found["slowest_s"].values()) < 1.1 * found["receive_timeout_s"]


# ---- leaving

ROUND = 50  # connections at a time


def send_and_leave(worker: RunningWorker, upstream: MisbehavingUpstream, count: int) -> tuple[int, float]:
    """Clients that leave at different moments, a round at a time: how many of them had sent a whole request, and the longest time from
    the leaving of a round until the server has seen all its calls end.
    """
    whole = 0
    slowest = 0.0
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
            left = time.monotonic()
        upstream.wait_until(lambda server: server.open_connections == 0)
        slowest = max(slowest, time.monotonic() - left)
        whole += expected
    return whole, slowest


@dataclass(frozen=True)
class Before:
    """What a worker holds while nothing is under way."""

    footprint: Footprint
    objects: dict[str, int]

    @classmethod
    def of(cls, worker: RunningWorker, living: Living) -> Before:
        return cls(footprint(worker.process.pid), living.count(worker.process.pid))


def flat(worker: RunningWorker, living: Living, before: Before, mib: float) -> float:
    """Nothing is left open and nothing lives on; how much the resident memory has grown, in MiB."""
    eventually(
        lambda: footprint(worker.process.pid).descriptors <= before.footprint.descriptors + 2,
        what="closed files",
    )
    objects = living.count(worker.process.pid)
    for kind in KINDS:  # of connections, one may come and go
        assert objects.get(kind, 0) <= before.objects.get(kind, 0) + 2, (kind, objects)
    assert objects["all"] < before.objects["all"] + 1_000
    grown = footprint(worker.process.pid).resident_mib - before.footprint.resident_mib
    assert grown < mib
    return grown


@pytest.mark.parametrize(
    ("clients", "within_s"),
    [
        pytest.param(500, 5.0, id="500"),
        pytest.param(10_000, 1.0, id="10,000", marks=pytest.mark.faults),
    ],
)
async def test_clients_that_leave_take_their_upstream_call_with_them_and_leave_nothing_behind(
    worker: RunningWorker,
    upstream: MisbehavingUpstream,
    living: Living,
    clients: int,
    within_s: float,
    record_property: Figure,
) -> None:
    warm, _ = send_and_leave(worker, upstream, ROUND * 4)  # pools, caches, the parser's buffers
    with WorkerTotals(worker) as totals:
        totals.all_places_free()
        before = Before.of(worker, living)
        whole, slowest = send_and_leave(worker, upstream, clients)
        assert slowest <= within_s
        totals.all_places_free()
        # What leaks in 500 would be seen: a streamed answer buffers up to 256 KiB, a half request 64 KiB.
        grown = flat(worker, living, before, 16.0)
    eventually(
        lambda: sum(r.ended == "aborted" for r in worker.predictions("m")) == warm + whole, what="the records"
    )
    # Each request that is not given back would take one of MAX_INFLIGHT places for ever.
    answers = await load(worker.port, [post("/m/slow?delay=0.3")] * 70, connections=70)
    assert {a.status for a in answers} == {200}
    record_property(
        "figure",
        f"{clients} clients left: upstream calls ended within {slowest:.2f} s, memory {grown:+.1f} MiB, objects as before, "
        f"{whole} recorded as aborted",
    )


@pytest.mark.parametrize(
    "clients", [pytest.param(500, id="500"), pytest.param(10_000, id="10,000", marks=pytest.mark.faults)]
)
async def test_resets_after_the_answer_leave_nothing_behind(
    worker: RunningWorker, living: Living, clients: int, record_property: Figure
) -> None:
    def answered_then_reset(count: int) -> None:
        for _ in range(count):
            with worker.connect() as client:
                client.sendall(post("/m/ok"))
                assert read_answer(client).startswith(b"HTTP/1.1 200 ")
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    await asyncio.to_thread(answered_then_reset, 200)
    before = Before.of(worker, living)
    await asyncio.to_thread(answered_then_reset, clients)
    grown = flat(worker, living, before, 4.0)
    assert len(worker.predictions("m")) == clients + 200
    record_property("figure", f"{clients} resets: memory {grown:+.1f} MiB, files and objects as before")
