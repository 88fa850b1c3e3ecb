"""Redis with Sentinel, really: a master, a replica, three sentinels. The master is killed while two gateways share flags through it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.faults.traffic import Database, Traffic, credit
from tests.misbehaving import MisbehavingUpstream
from tests.ports import free_port
from tests.servers import PostgresServer, RedisServer, running
from tests.system import RunningGateway, running_gateway
from tests.worker import eventually

pytestmark = pytest.mark.interop


class Replica(RedisServer):
    def __init__(self, master: RedisServer) -> None:
        super().__init__()
        self._master = master

    def _command(self) -> list[str]:
        return [*super()._command(), "--replicaof", f"127.0.0.1 {self._master.port}"]


class SentinelServer(RedisServer):
    """Watches a master, which it calls `gateway-flags`; two of three must agree that it is gone."""

    def __init__(self, master: RedisServer) -> None:
        super().__init__()
        self._master = master

    def _command(self) -> list[str]:
        file = self.directory / "sentinel.conf"
        if not file.exists():
            file.write_text(
                f"port {self.port}\nbind 127.0.0.1\n"
                f"sentinel monitor gateway-flags 127.0.0.1 {self._master.port} 2\n"
                "sentinel down-after-milliseconds gateway-flags 1000\n"
                "sentinel failover-timeout gateway-flags 4000\n"
            )
        return [str(self._program), str(file), "--sentinel"]


@contextlib.contextmanager
def watched() -> Iterator[tuple[RedisServer, str]]:
    """The master, and the URL by which its sentinels are asked."""
    with contextlib.ExitStack() as stack:
        master = stack.enter_context(running(RedisServer()))
        replica = stack.enter_context(running(Replica(master)))
        sentinels = [stack.enter_context(running(SentinelServer(master))) for _ in range(3)]

        def ready() -> bool:
            with redis.Redis(port=sentinels[0].port, socket_timeout=2.0) as client:
                (state,) = client.sentinel_masters().values()
                return bool(state["num-slaves"] == 1 and state["num-other-sentinels"] == 2)

        eventually(
            lambda: replica.client().info("replication")["master_link_status"] == "up", 30.0, "a replica"
        )
        eventually(ready, 30.0, "sentinels that know each other")
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in sentinels)
        yield master, f"redis+sentinel://{hosts}/gateway-flags/0"


def percent(gateway: RunningGateway) -> float:
    return float(gateway.get("/admin/models/credit/flags")["canary_percent"])


async def test_flags_travel_again_after_sentinel_made_another_master_and_clients_notice_nothing(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    database = await Database.made(postgres_server)
    with (
        MisbehavingUpstream(default="ok") as v1,
        MisbehavingUpstream(default="ok") as v2,
        watched() as (master, url),
        contextlib.ExitStack() as stack,
    ):
        gateways = []
        for name in "ab":
            (tmp_path / name).mkdir()
            gateways.append(
                stack.enter_context(
                    running_gateway(
                        tmp_path / name,
                        credit(v1, v2),
                        port=free_port(),
                        store={"url": database.url},
                        flags={"url": url},
                    )
                )
            )
        first, second = gateways
        shares = itertools.count(10)

        async def travels(within_s: float) -> None:
            share = next(shares)
            await asyncio.to_thread(
                first.set_flags, "credit", candidate="v2", canary_enabled=True, canary_percent=share
            )
            await asyncio.to_thread(eventually, lambda: percent(second) == share, within_s, "the flags there")

        def redis_is_up(gateway: RunningGateway) -> bool:
            return "flags" not in gateway.admin("GET", "/readyz").json().get("degraded", [])

        async with Traffic(second.port) as traffic:
            await travels(20.0)
            master.kill()
            await traffic.more(50)
            for gateway in gateways:
                await asyncio.to_thread(eventually, lambda: redis_is_up(gateway), 60.0, "a new master")  # noqa: B023
            await travels(20.0)
        traffic.all_good()
