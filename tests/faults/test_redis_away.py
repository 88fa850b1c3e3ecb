"""Redis is stopped, paused, flushed, or holds garbage: clients do not notice, the last known flags hold, and the store's truth returns."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from app.adapters.redis_flags import HASH
from app.domain.flags import Flags
from tests.faults.traffic import Database, Traffic, accounted, credit, down, up
from tests.misbehaving import MisbehavingUpstream
from tests.ports import free_port
from tests.servers import PostgresServer, RedisServer
from tests.system import RunningGateway, running_gateway
from tests.worker import eventually


def held(redis: RedisServer) -> Any:
    """The flags of the model in Redis, as far as they are any."""
    with redis.client() as client:
        value: Any = client.hget(HASH, "credit")
    try:
        return msgspec.json.decode(value or b"null")
    except (msgspec.DecodeError, RecursionError):
        return None


def refilled(redis: RedisServer, revision: int) -> None:
    eventually(lambda: (held(redis) or {}).get("revision") == revision, what=f"revision {revision} in Redis")


def refused(gateway: RunningGateway) -> float:
    for line in gateway.admin("GET", "/metrics").text.splitlines():
        if line.startswith("gateway_flags_refused_total"):
            return float(line.split()[1])
    return 0.0


def served(traffic: Traffic) -> list[str]:
    return [answer.headers["x-model-version"] for answer in traffic.answers]


@pytest.mark.parametrize(
    "seconds", [pytest.param(1.0, id="shortly"), pytest.param(60.0, id="a minute", marks=pytest.mark.faults)]
)
async def test_a_stopped_paused_flushed_redis_fails_no_request_and_is_refilled(
    tmp_path: Path, own_redis: RedisServer, v1: MisbehavingUpstream, v2: MisbehavingUpstream, seconds: float
) -> None:
    with running_gateway(tmp_path, credit(v1, v2), port=free_port(), flags={"url": own_redis.url}) as gateway:
        await asyncio.to_thread(gateway.set_flags, "credit", production="v2")
        async with Traffic(gateway.port) as traffic:
            own_redis.pause()
            await asyncio.sleep(seconds)
            await traffic.more(50)
            # The store holds the truth: flags change without Redis.
            await asyncio.to_thread(gateway.set_flags, "credit", disabled_versions=["v1"])
            own_redis.resume()
            await asyncio.to_thread(refilled, own_redis, 2)

            await asyncio.to_thread(own_redis.kill)
            await asyncio.sleep(seconds)
            await traffic.more(50)
            await down(gateway, "flags")
            await asyncio.to_thread(own_redis.start)
            await asyncio.to_thread(refilled, own_redis, 2)

            await asyncio.to_thread(own_redis.empty)
            await asyncio.to_thread(refilled, own_redis, 2)
            await up(gateway)
        traffic.all_good()
        assert set(served(traffic)) == {"v2"}


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff\xfe\x00 no JSON",
        b"[" * 50_000,
        b'{"model": "credit", "revision": "many"}',
        msgspec.json.encode(Flags("credit", 10**6, "v9")),  # no such version
        msgspec.json.encode(Flags("credit", 10**6, "v1")),  # would be servable, but the store never held it
        msgspec.json.encode(Flags("other", 10**6, "v1")),
    ],
    ids=["bytes", "deep", "types", "unknown version", "not the store's", "another model"],
)
async def test_garbage_in_redis_is_refused_counted_and_overwritten(
    replica: tuple[RunningGateway, RedisServer], garbage: bytes
) -> None:
    gateway, redis = replica
    revision = gateway.get("/admin/models/credit/flags")["revision"]
    before = refused(gateway)
    async with Traffic(gateway.port) as traffic:
        with redis.client() as client:
            client.hset(HASH, "credit", garbage)
        await asyncio.to_thread(refilled, redis, revision)
        await asyncio.to_thread(eventually, lambda: refused(gateway) > before)
        await traffic.more(50)
    traffic.all_good()
    assert set(served(traffic)) == {"v2"}


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer) -> Any:
    """One gateway whose production was changed to v2, for several tests."""
    with (
        MisbehavingUpstream(default="ok") as v1,
        MisbehavingUpstream(default="ok") as v2,
        running_gateway(
            tmp_path_factory.mktemp("replica"),
            credit(v1, v2),
            port=free_port(),
            flags={"url": redis_server.url},
        ) as gateway,
    ):
        gateway.set_flags("credit", production="v2")
        yield gateway, redis_server


async def test_with_redis_and_store_down_a_restart_serves_the_last_snapshot_and_without_it_the_file(
    tmp_path: Path,
    own_postgres: PostgresServer,
    own_redis: RedisServer,
    v1: MisbehavingUpstream,
    v2: MisbehavingUpstream,
) -> None:
    database = await Database.made(own_postgres)
    with running_gateway(
        tmp_path,
        credit(v1, v2),
        port=free_port(),
        store={"url": database.url},
        flags={"url": own_redis.url},
    ) as gateway:
        await asyncio.to_thread(gateway.set_flags, "credit", production="v2")
        ids: list[str] = []
        own_postgres.pause()
        await asyncio.to_thread(own_redis.kill)
        for expected in ("v2", "v1"):
            await asyncio.to_thread(gateway.kill_everything)
            if expected == "v1":
                (tmp_path / "data" / "flags.json").unlink()
            await asyncio.to_thread(gateway.start_again)
            async with Traffic(gateway.port) as traffic:
                await traffic.more(50)
            traffic.all_good()
            assert set(served(traffic)) == {expected}
            await down(gateway, "flags", "store")
            ids += traffic.ids
        own_postgres.resume()
        await asyncio.to_thread(own_redis.start)
        await asyncio.to_thread(
            eventually, lambda: gateway.get("/admin/models/credit/flags")["production"] == "v2", 30.0
        )
        await asyncio.to_thread(refilled, own_redis, 1)
        accounts = await accounted(gateway, database, ids)
        assert accounts["stored"] == len(ids)
