"""More than anybody should send: compressed bombs, answers without end, labels without end, requests beyond what can be served."""

from __future__ import annotations

import asyncio
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.domain.model import Match, Model, Version
from app.domain.policy import ServerPolicy
from benchmarks.peers.processes import Child
from tests.client import load, post
from tests.faults.observed import footprint, forget_peak, peak_mib
from tests.faults.paced import ROOT, Seen, paced
from tests.faults.traffic import credit
from tests.misbehaving import MisbehavingUpstream
from tests.misbehaviours import bomb
from tests.ports import free_port
from tests.system import RunningGateway, running_gateway
from tests.worker import running_worker

Figure = Callable[[str, object], None]


@pytest.fixture(scope="module")
def system(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[RunningGateway, MisbehavingUpstream]]:
    with (
        MisbehavingUpstream(default="echo") as v1,
        running_gateway(tmp_path_factory.mktemp("too-much"), credit(v1), port=free_port()) as gateway,
    ):
        yield gateway, v1


# ---- bombs


async def test_a_gzip_bomb_passes_as_it_is_and_is_unpacked_by_nobody(
    system: tuple[RunningGateway, MisbehavingUpstream], record_property: Figure
) -> None:
    gateway, v1 = system
    packed = bomb(256 * 1024**2)  # 256 kB
    await load(gateway.port, [post("/models/credit/echo")])
    await asyncio.to_thread(gateway.settled)
    pids = {role: gateway.child(role) for role in ("worker", "control")}
    before = {role: footprint(pid).resident_mib for role, pid in pids.items()}
    for pid in pids.values():
        forget_peak(pid)
    request = post("/models/credit/echo", packed, Content_Encoding="gzip")
    (there,) = await load(gateway.port, [request])
    assert there.status == 200
    assert v1.requests[-1].body == packed
    (back,) = await load(gateway.port, [post("/models/credit/gzip_bomb?bytes=268435456")], timeout_s=60)
    assert (back.status, back.headers["content-encoding"]) == (200, "gzip")
    accounts = await asyncio.to_thread(gateway.settled)  # the recorder has read both
    assert accounts["stored"] + accounts["quarantined"] >= 3
    grown = {role: peak_mib(pid) - before[role] for role, pid in pids.items()}
    assert max(grown.values()) < 64
    record_property(
        "figure",
        f"256 MiB in 256 kB, there and back: worker {grown['worker']:+.0f} MiB, control process {grown['control']:+.0f} MiB",
    )


@pytest.mark.parametrize("path", ["/feedback", "/admin/models/credit/baseline", "/admin/models/credit/flags"])
async def test_our_own_endpoints_unpack_nothing(
    system: tuple[RunningGateway, MisbehavingUpstream], path: str
) -> None:
    gateway, _ = system
    packed = bomb(64 * 1024**2)
    request = post(path, packed, Content_Encoding="gzip", Authorization=f"Bearer {gateway.token}")
    if path.endswith("flags"):
        request = request.replace(b"POST", b"PATCH", 1)
    forget_peak(gateway.child("control"))
    before = footprint(gateway.child("control")).resident_mib
    (answer,) = await load(gateway.port, [request])
    assert 400 <= answer.status < 500
    assert peak_mib(gateway.child("control")) - before < 16


@pytest.mark.parametrize(
    "mib", [pytest.param(256, id="256 MiB"), pytest.param(10_240, id="10 GiB", marks=pytest.mark.faults)]
)
async def test_a_long_answer_streams_through_a_bounded_memory(mib: int, record_property: Figure) -> None:
    """To a client that stops reading in between, for longer than it takes to send all that fits anywhere."""
    size = mib << 20
    with MisbehavingUpstream() as upstream:
        version = Version("v1", (upstream.url,), timeout_s=900.0)
        with running_worker([Model("m", "v1", (version,), match=Match("/m", strip=True))]) as worker:
            await load(worker.port, [post("/m/ok")])
            before = footprint(worker.process.pid).resident_mib
            forget_peak(worker.process.pid)
            reader, writer = await asyncio.open_connection("127.0.0.1", worker.port, limit=1 << 20)
            writer.write(post(f"/m/long_body?bytes={size}", Connection="close"))
            assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(1.0)
            got, begun = 0, time.monotonic()
            while piece := await reader.read(1 << 20):
                got += len(piece)
            writer.close()
            assert got == size
            grown = peak_mib(worker.process.pid) - before
            assert grown < 64
            rate = mib / (time.monotonic() - begun)
            record_property("figure", f"{mib} MiB streamed with {grown:+.0f} MiB, {rate:.0f} MiB/s")


# ---- labels

SERIES = 250  # of a gateway with one model of one version, whatever was ever asked of it


@pytest.mark.parametrize(
    ("count", "scrape_s"),
    [pytest.param(3000, 5.0, id="3,000"), pytest.param(100_000, 1.0, id="100,000", marks=pytest.mark.faults)],
)
async def test_paths_methods_and_versions_of_a_client_make_no_series(
    system: tuple[RunningGateway, MisbehavingUpstream], count: int, scrape_s: float, record_property: Figure
) -> None:
    gateway, v1 = system
    methods = ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "REPORT", "PURGE", "MKCOL")

    def requests(start: int, end: int) -> Iterator[bytes]:
        for number in range(start, end):
            match number % 3:
                case 0:
                    target, more = f"/models/credit/p{number}/echo?q={number}", {"X_User_Id": f"u{number}"}
                case 1:
                    target, more = f"/nowhere/{number}", {"X_Model_Version": f"v{number}"}
                case _:
                    target, more = f"/models/credit/echo?{number}", {"X_Gateway_Version": f"v{number}"}
            request = post(target, b"{}", **more)
            yield request.replace(b"POST", methods[number % len(methods)].encode(), 1)

    def series() -> int:
        text = gateway.admin("GET", "/metrics").text
        return sum(not line.startswith("#") for line in text.splitlines())

    await load(gateway.port, requests(0, 60))
    await asyncio.to_thread(gateway.settled)
    before = series()
    for start in range(60, count, 10_000):
        answers = await load(gateway.port, requests(start, min(count, start + 10_000)), timeout_s=300)
        assert {a.status for a in answers} <= {200, 400, 403, 404}
        v1.requests.clear()
    await asyncio.to_thread(gateway.settled, 300)
    took = 0.0
    for _ in range(5):
        begun = time.monotonic()
        after = series()
        took = max(took, time.monotonic() - begun)
    # Kinds of records and reasons that had not come before; none of them is a client's word.
    assert after - before < 40
    assert after < SERIES
    assert took < scrape_s
    record_property(
        "figure", f"{count} requests: {before} series before, {after} after; scrape {took * 1000:.0f} ms"
    )


# ---- load

PLACES, DELAY_S = 16, 0.1
LIMIT_MIB = 128  # of resident memory, which an idle worker has half of; what it may map for its data is limited by the kernel
DATA_KIB = 256 * 1024


@dataclass(frozen=True)
class Criteria:
    """What must hold, for how long a run."""

    seconds: float
    goodput: float  # of the peak
    refused_p99_ms: float
    slower: float  # p99 of normal load afterwards ÷ before
    within_s: int  # until it is normal again


@pytest.mark.parametrize(
    "must",
    [
        pytest.param(Criteria(2.0, 0.5, 1000.0, math.inf, 2), id="short"),
        pytest.param(Criteria(60.0, 0.8, 50.0, 2.0, 10), id="a minute", marks=pytest.mark.faults),
    ],
)
def test_ten_times_too_much_is_refused_at_once_and_the_rest_is_served(
    tmp_path: Path, must: Criteria, record_property: Figure
) -> None:
    """In the long form the worker has a core of its own; clients and the model server, each a process, share the others."""
    cores = sorted(os.sched_getaffinity(0))
    apart = must.seconds > 10 and len(cores) > 1
    others = frozenset(cores[1:] if apart else cores)
    on_others = ("taskset", "-c", ",".join(map(str, sorted(others)))) if apart else ()
    server_command = [sys.executable, "-m", "tests.misbehaving", "0"]
    with Child(
        "model server", server_command, tmp_path / "log", cpus=others, cwd=ROOT, stdout=subprocess.PIPE
    ) as server:
        url = server.first_line().split("/NAME")[0]
        assert server.process.stdout is not None
        server.process.stdout.close()
        model = Model("m", "v1", (Version("v1", (url,)),), match=Match("/m", strip=True))
        limited = ("sh", "-c", f'ulimit -d {DATA_KIB}; exec "$@"', "sh")
        with running_worker([model], server=ServerPolicy(max_inflight=PLACES), before=limited) as worker:
            if apart:
                os.sched_setaffinity(worker.process.pid, frozenset(cores[:1]))

            def load(connections: int, seconds: float, rate: float | None = None) -> Seen:
                return paced(
                    worker.port,
                    f"/m/slow?delay={DELAY_S}",
                    connections=connections,
                    seconds=seconds,
                    rate=rate,
                    before=on_others,
                )

            peak = load(PLACES, must.seconds / 6 + 1).rate()
            normal_rate = 0.3 * PLACES / DELAY_S
            before = load(64, must.seconds / 6 + 1, normal_rate)
            assert set(before.statuses()) == {200}

            forget_peak(worker.process.pid)
            over = load(512, must.seconds, 10 * PLACES / DELAY_S)
            memory = peak_mib(worker.process.pid)
            after = load(64, must.within_s + 3, normal_rate)

            assert set(over.statuses()) == {200, 503}
            assert (over.lost, after.lost) == ({}, {})
            assert over.rate() >= must.goodput * peak
            refused = over.ms(503, 0.5), over.ms(503, 0.99)
            assert refused[0] < DELAY_S * 1000 / 2
            assert refused[1] < must.refused_p99_ms
            assert memory < LIMIT_MIB
            normal_from = after.normal_from(must.slower * before.ms(200, 0.99))
            assert normal_from <= must.within_s
            record_property(
                "figure",
                f"{len(over.answers)} requests in {must.seconds:.0f} s: goodput {over.rate() / peak:.0%} of peak, "
                f"{over.statuses()[503]} × 503 within p50 {refused[0]:.1f} / p99 {refused[1]:.0f} ms, memory {memory:.0f} MiB "
                f"(limit {LIMIT_MIB}); normal from second {normal_from} on, p99 {after.ms(200, 0.99):.0f} ms "
                f"({before.ms(200, 0.99):.0f} before)",
            )


async def test_what_is_refused_says_why_and_when_to_come_back() -> None:
    with MisbehavingUpstream() as upstream:
        model = Model("m", "v1", (Version("v1", (upstream.url,)),), match=Match("/m", strip=True))
        with running_worker([model], server=ServerPolicy(max_inflight=PLACES)) as worker:
            answers = await load(
                worker.port, [post(f"/m/slow?delay={DELAY_S}")] * 4 * PLACES, connections=4 * PLACES
            )
            refused = [a for a in answers if a.status != 200]
            assert refused
            assert {(a.status, a.headers["x-gateway-error"], a.headers["retry-after"]) for a in refused} == {
                (503, "overloaded", "1")
            }
            assert upstream.count() == len(answers) - len(refused)
