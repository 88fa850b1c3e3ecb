"""More than anybody should send: compressed bombs, answers without end, labels without end, requests beyond what can be served."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

import pytest

from app.domain.model import Match, Model, Version
from app.domain.policy import ServerPolicy
from tests.client import Answer, load, post, read_answer
from tests.faults.observed import footprint, forget_peak, peak_mib, quantile
from tests.faults.traffic import credit
from tests.misbehaving import MisbehavingUpstream
from tests.misbehaviours import bomb
from tests.ports import free_port
from tests.system import RunningGateway, running_gateway
from tests.worker import RunningWorker, running_worker

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


@pytest.mark.faults
async def test_an_answer_of_10_gb_streams_through_a_bounded_memory(record_property: Figure) -> None:
    with MisbehavingUpstream() as upstream:
        version = Version("v1", (upstream.url,), timeout_s=900.0)
        with running_worker([Model("m", "v1", (version,), match=Match("/m", strip=True))]) as worker:
            await load(worker.port, [post("/m/ok")])
            before = footprint(worker.process.pid).resident_mib
            forget_peak(worker.process.pid)
            reader, writer = await asyncio.open_connection("127.0.0.1", worker.port, limit=1 << 20)
            writer.write(post("/m/long_body?bytes=10737418240", Connection="close"))
            assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
            got, begun = 0, time.monotonic()
            while piece := await reader.read(1 << 20):
                got += len(piece)
            writer.close()
            assert got == 10 * 1024**3
            grown = peak_mib(worker.process.pid) - before
            assert grown < 64
            rate = got / (time.monotonic() - begun) / 1024**2
            record_property("figure", f"10 GiB streamed with {grown:+.0f} MiB, {rate:.0f} MiB/s")


# ---- labels


@pytest.mark.parametrize(
    "count", [pytest.param(3000, id="3,000"), pytest.param(100_000, id="100,000", marks=pytest.mark.faults)]
)
async def test_paths_methods_and_versions_of_a_client_make_no_series(
    system: tuple[RunningGateway, MisbehavingUpstream], count: int, record_property: Figure
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
    begun = time.monotonic()
    after = series()
    took = time.monotonic() - begun
    assert (
        after - before < 40
    )  # kinds of records and reasons that had not come before; none of them is a client's word
    assert took < 10  # an order of magnitude above what must hold
    record_property(
        "figure", f"{count} requests: {before} series before, {after} after; scrape {took * 1000:.0f} ms"
    )


# ---- load

PLACES, DELAY_S = 16, 0.1


@pytest.mark.parametrize(
    "seconds", [pytest.param(1.5, id="short"), pytest.param(60.0, id="a minute", marks=pytest.mark.faults)]
)
async def test_ten_times_too_much_is_refused_at_once_and_the_rest_is_served(
    seconds: float, record_property: Figure
) -> None:
    with MisbehavingUpstream() as upstream:
        model = Model("m", "v1", (Version("v1", (upstream.url,)),), match=Match("/m", strip=True))
        with running_worker([model], server=ServerPolicy(max_inflight=PLACES)) as worker:
            request = post(f"/m/slow?delay={DELAY_S}")
            begun = time.monotonic()
            peak_answers = await load(worker.port, [request] * PLACES * 10, connections=PLACES)
            peak = len(peak_answers) / (time.monotonic() - begun)
            assert {a.status for a in peak_answers} == {200}
            before = footprint(worker.process.pid).resident_mib
            forget_peak(worker.process.pid)
            answers, took = await _open_loop(worker, request, 10 * PLACES / DELAY_S, seconds)
            refused = [s for a, s in zip(answers, took, strict=True) if a.status == 503]
            good = sum(a.status == 200 for a in answers)
            grown = peak_mib(worker.process.pid) - before
            assert {a.status for a in answers} == {200, 503}
            assert {
                (a.headers["x-gateway-error"], a.headers["retry-after"]) for a in answers if a.status == 503
            } == {("overloaded", "1")}
            assert good / seconds > 0.5 * peak  # 0.8 is the goal; clients and server share two cores here
            assert quantile(refused, 0.5) < DELAY_S / 2
            assert grown < 64
            after = await load(worker.port, [request] * PLACES, connections=PLACES)
            assert {a.status for a in after} == {200}
            record_property(
                "figure",
                f"{len(answers)} requests in {seconds:.0f} s: goodput {good / seconds / peak:.0%} of peak, {len(refused)} × 503 "
                f"within p50 {quantile(refused, 0.5) * 1000:.1f} / p99 {quantile(refused, 0.99) * 1000:.0f} ms, memory {grown:+.0f} MiB",
            )


async def _open_loop(
    worker: RunningWorker, request: bytes, rate: float, seconds: float
) -> tuple[list[Answer], list[float]]:
    """Requests come at their rate whether or not earlier ones are answered; connections are used again."""
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    answers: list[Answer] = []
    took: list[float] = []

    async def one() -> None:
        reader, writer = idle.pop() if idle else await asyncio.open_connection("127.0.0.1", worker.port)
        begun = time.perf_counter()
        writer.write(request)
        answer = await read_answer(reader)
        took.append(time.perf_counter() - begun)
        answers.append(answer)
        if answer.headers.get("connection") == "close":
            writer.close()
        else:
            idle.append((reader, writer))

    begun = time.monotonic()
    async with asyncio.TaskGroup() as group:
        sent = 0
        while (now := time.monotonic() - begun) < seconds:
            while sent < now * rate:
                group.create_task(one())
                sent += 1
            await asyncio.sleep(0.002)
    for _, writer in idle:
        writer.close()
    return answers, took
