"""SIGTERM to a whole gateway amid long requests and idle connections: what is under way is answered, and it ends in time."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.client import Answer, post, read_answer
from tests.faults.traffic import Traffic, credit
from tests.misbehaving import MisbehavingUpstream
from tests.ports import free_port
from tests.system import running_gateway
from tests.worker import eventually

LONG = 10


async def test_a_stop_answers_what_is_under_way_and_closes_what_is_idle(
    tmp_path: Path, v1: MisbehavingUpstream, record_property: Callable[[str, object], None]
) -> None:
    with running_gateway(tmp_path, credit(v1), port=free_port(), server={"drain_s": 10}) as gateway:
        idle = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(20)]
        for reader, writer in idle[:10]:  # used before, and kept alive
            writer.write(post("/models/credit/ok"))
            assert (await read_answer(reader)).status == 200
        busy = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(LONG)]
        for _, writer in busy:
            writer.write(post("/models/credit/slow?delay=1"))
        v1.wait_until(lambda server: server.count("slow") == LONG)
        gateway.process.terminate()
        begun = time.monotonic()
        answers = await asyncio.gather(*(read_answer(reader) for reader, _ in busy))
        assert {(a.status, a.headers["connection"]) for a in answers} == {(200, "close")}
        assert [await reader.read() for reader, _ in idle] == [b""] * len(idle)
        assert await asyncio.to_thread(gateway.process.wait, 30) == 0
        took = time.monotonic() - begun
        for _, writer in idle + busy:
            writer.close()
        assert took < 10  # drain_s; what is under way needs one of them
        record_property(
            "figure",
            f"{LONG} requests of 1 s answered, 20 idle closed, ended after {took:.1f} s (drain_s 10)",
        )


@pytest.mark.parametrize(
    "later_s", [pytest.param(8.0, id="shortly"), pytest.param(1.0, id="long", marks=pytest.mark.faults)]
)
async def test_a_request_longer_than_the_drain_does_not_hold_up_the_end(
    tmp_path: Path, v1: MisbehavingUpstream, later_s: float, record_property: Callable[[str, object], None]
) -> None:
    """The workers give it up after `drain_s`; then the processes end. A supervisor that has to kill waits for half a minute."""
    with running_gateway(tmp_path, credit(v1), port=free_port(), server={"drain_s": 2}) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(post("/models/credit/hang"))
        v1.wait_until(lambda server: server.count("hang") == 1)
        gateway.process.terminate()
        begun = time.monotonic()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await read_answer(reader)
        cut = time.monotonic() - begun
        assert await asyncio.to_thread(gateway.process.wait, 30) == 0
        took = time.monotonic() - begun
        writer.close()
        assert 1.9 < cut < 2 + later_s  # it had its time
        assert took < 2 + later_s
        record_property("figure", f"with a request that hangs: ended after {took:.1f} s (drain_s 2)")


async def test_copies_that_hang_at_the_end_leave_no_word_in_the_log(
    tmp_path: Path, v1: MisbehavingUpstream, v2: MisbehavingUpstream
) -> None:
    """Their deadlines pass while the journal is being closed."""
    v2.default = "hang"
    models = credit(v1, v2, shadow={"timeout_s": 0.5, "max_concurrency": 64})
    journal = {"fsync": "always"}
    with running_gateway(
        tmp_path, models, port=free_port(), server={"drain_s": 1}, journal=journal
    ) as gateway:
        await asyncio.to_thread(gateway.set_flags, "credit", shadow_versions=["v2"])
        async with Traffic(gateway.port, clients=8, pause_s=0.005) as traffic:
            await traffic.more(200)
        traffic.all_good()
        gateway.process.terminate()
        assert await asyncio.to_thread(gateway.process.wait, 30) == 0
        assert "Traceback" not in (tmp_path / "gateway.log").read_text()


@pytest.mark.faults
async def test_rolling_restarts_under_load_fail_no_request(
    tmp_path: Path, v1: MisbehavingUpstream, record_property: Callable[[str, object], None]
) -> None:
    """Five in a row, with clients that keep their connections and honour `Connection: close`."""
    with running_gateway(tmp_path, credit(v1), port=free_port(), server={"workers": 2}) as gateway:
        async with Traffic(gateway.port, clients=8, pause_s=0.005) as traffic:
            for _ in range(5):
                await traffic.more(200)
                worker = gateway.child("worker")
                gateway.process.send_signal(signal.SIGHUP)
                await asyncio.to_thread(
                    eventually,
                    lambda worker=worker: not Path(f"/proc/{worker}").exists(),
                    60.0,
                    "a new worker",
                )
            await traffic.more(200)
        traffic.all_good()
        found: list[Answer] = traffic.answers
        record_property("figure", f"5 rolling restarts, {len(found)} requests, none failed")
