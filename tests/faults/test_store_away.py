"""PostgreSQL is down, paused, restarted or cuts its connections: traffic does not notice, and every record lands once."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from app.adapters import migrations
from tests.faults.observed import quantile
from tests.faults.traffic import Database, Traffic, accounted, credit, down, up
from tests.misbehaving import MisbehavingUpstream
from tests.ports import free_port
from tests.servers import PostgresServer
from tests.system import running_gateway


async def test_postgres_down_at_start_and_then_without_tables_delays_only_the_records(
    tmp_path: Path, own_postgres: PostgresServer, v1: MisbehavingUpstream
) -> None:
    database = await Database.made(own_postgres, tables=False)
    own_postgres.stop()
    with running_gateway(tmp_path, credit(v1), port=free_port(), store={"url": database.url}) as gateway:
        async with Traffic(gateway.port) as traffic:
            await traffic.more(100)
            await down(gateway, "store")
            await asyncio.to_thread(own_postgres.start)
            await traffic.more(100)
            await down(gateway, "store")  # there, but nobody has run `model-gateway migrate`
            await asyncio.to_thread(migrations.upgrade, database.url)
            await up(gateway)
            await traffic.more(100)
        traffic.all_good()
        accounts = await accounted(gateway, database, traffic.ids)
        assert accounts["received"] == accounts["stored"] == len(traffic.ids) == len(await database.stored())
        assert accounts["dropped"] == {}


def undelayed(traffic: Traffic, began: int, times: float = math.inf) -> str:
    """The answers from there on came as fast as those before, as far as a busy machine can tell; or, where `times` is given, their p99 is
    at most so many times the others'. In words.
    """
    before, since = traffic.took_s[:began], traffic.took_s[began:]
    p99, longest = quantile(since, 0.99), max(since)
    ratio = p99 / quantile(before, 0.99)
    assert ratio < times
    assert p99 < 0.5
    assert longest < (2.5 if times == math.inf else 1.0)
    return f"{len(since)} answers, p99 {p99 * 1000:.0f} ms ({ratio:.1f}× before), the slowest {longest * 1000:.0f} ms"


@pytest.mark.parametrize(
    ("seconds", "times"),
    [
        pytest.param(3.0, math.inf, id="shortly"),  # whatever waited for the store would take as long
        pytest.param(60.0, 2.0, id="a minute", marks=pytest.mark.faults),
    ],
)
async def test_a_paused_postgres_loses_doubles_and_delays_nothing(
    tmp_path: Path,
    own_postgres: PostgresServer,
    v1: MisbehavingUpstream,
    seconds: float,
    times: float,
    record_property: Callable[[str, object], None],
) -> None:
    database = await Database.made(own_postgres)
    with running_gateway(tmp_path, credit(v1), port=free_port(), store={"url": database.url}) as gateway:
        async with Traffic(gateway.port) as traffic:
            await traffic.more(300 if seconds < 10 else 3000)
            own_postgres.pause()
            try:
                before = len(traffic.answers)
                outcome = {"prediction_id": traffic.ids[0], "ground_truth": 1}
                receipt = await asyncio.to_thread(gateway.admin, "POST", "/feedback", outcome)
                await asyncio.sleep(seconds)
                meanwhile = len(traffic.answers) - before
            finally:
                own_postgres.resume()
            await traffic.more(100)
        traffic.all_good()
        assert meanwhile > 20 * seconds
        record_property("figure", f"paused for {seconds:g} s: {undelayed(traffic, before, times)}")
        assert (receipt.status_code, receipt.json()["accepted"]) == (202, 1)  # durable in the journal
        accounts = await accounted(gateway, database, traffic.ids)
        assert accounts["stored"] == len(traffic.ids) + 1
        labelled = "SELECT prediction_id FROM predictions WHERE ground_truth IS NOT NULL"
        assert await database.rows(labelled) == [(traffic.ids[0],)]


async def test_a_restarted_postgres_loses_doubles_and_delays_nothing(
    tmp_path: Path,
    own_postgres: PostgresServer,
    v1: MisbehavingUpstream,
    record_property: Callable[[str, object], None],
) -> None:
    database = await Database.made(own_postgres)
    with running_gateway(tmp_path, credit(v1), port=free_port(), store={"url": database.url}) as gateway:
        async with Traffic(gateway.port) as traffic:
            await traffic.more(200)
            before = len(traffic.answers)
            for end in (own_postgres.stop, own_postgres.kill):
                await traffic.more(100)
                await asyncio.to_thread(end)
                await traffic.more(100)
                await asyncio.to_thread(own_postgres.start)
            await traffic.more(100)
        traffic.all_good()
        record_property("figure", f"stopped and killed: {undelayed(traffic, before)}")
        accounts = await accounted(gateway, database, traffic.ids)
        assert accounts["stored"] == len(traffic.ids)


@pytest.mark.parametrize(
    "rounds", [pytest.param(30, id="shortly"), pytest.param(600, id="a minute", marks=pytest.mark.faults)]
)
async def test_connections_cut_in_a_loop_lose_double_and_delay_nothing(
    tmp_path: Path,
    own_postgres: PostgresServer,
    v1: MisbehavingUpstream,
    rounds: int,
    record_property: Callable[[str, object], None],
) -> None:
    database = await Database.made(own_postgres)
    cut = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
        f"WHERE datname = '{database.name}' AND pid <> pg_backend_pid()"
    )
    with running_gateway(tmp_path, credit(v1), port=free_port(), store={"url": database.url}) as gateway:
        cuts = 0
        async with Traffic(gateway.port, clients=8, pause_s=0.0) as traffic:
            await traffic.more(500)
            before = len(traffic.answers)
            for _ in range(rounds):
                ((times,),) = await database.rows(cut)
                cuts += times
                await traffic.more(5 if rounds < 100 else 40)  # the long form leaves time to connect again
        traffic.all_good()
        record_property("figure", f"{cuts} connections cut: {undelayed(traffic, before)}")
        assert cuts >= min(20, rounds / 10)  # each after the recorder's pause before it connects again
        accounts = await accounted(gateway, database, traffic.ids)
        assert accounts["stored"] == len(traffic.ids)
