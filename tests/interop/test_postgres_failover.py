"""PostgreSQL with a synchronous standby, really: the primary is killed, the standby takes its address, no answered request is missing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.faults.traffic import Database, Traffic, accounted, credit
from tests.misbehaving import MisbehavingUpstream
from tests.ports import free_port
from tests.servers import PostgresServer, running
from tests.system import running_gateway
from tests.worker import eventually

pytestmark = pytest.mark.interop


class Standby(PostgresServer):
    """A copy of the primary that follows it."""

    def __init__(self, primary: PostgresServer) -> None:
        super().__init__()
        self._make("rm", "-rf", "data")
        source = ["-h", "127.0.0.1", "-p", str(primary.port), "-U", "gateway"]
        self._make(
            self._programs / "pg_basebackup", *source, "-D", "data", "-R", "-X", "stream", "-c", "fast"
        )

    def takes_the_place_of(self, primary: PostgresServer) -> None:
        self.run("SELECT pg_promote()")
        self.run("ALTER SYSTEM RESET synchronous_standby_names")
        self.stop()
        self.port = primary.port
        self.start()


async def test_a_standby_takes_over_without_a_client_noticing_or_a_record_missing(tmp_path: Path) -> None:
    with (
        MisbehavingUpstream(default="ok") as v1,
        running(PostgresServer()) as primary,
        running(Standby(primary)) as standby,
    ):
        primary.run("ALTER SYSTEM SET synchronous_standby_names = '*'")
        primary.run("SELECT pg_reload_conf()")
        await asyncio.to_thread(
            eventually,
            lambda: primary.run("SELECT sync_state FROM pg_stat_replication") == [("sync",)],
            30.0,
            "a synchronous standby",
        )
        database = await Database.made(primary)
        store = {"url": database.url}
        with running_gateway(tmp_path, credit(v1), port=free_port(), store=store) as gateway:
            async with Traffic(gateway.port, clients=2) as traffic:
                await traffic.more(200)
                read = "SELECT count(*) > 0 FROM predictions"
                await asyncio.to_thread(
                    eventually,
                    lambda: standby.run(read, database.name) == [(True,)],
                    30.0,
                    "rows to be read on the standby",
                )
                await asyncio.to_thread(primary.kill)
                await traffic.more(100)
                await asyncio.to_thread(standby.takes_the_place_of, primary)
                await traffic.more(100)
            traffic.all_good()
            await accounted(gateway, Database(standby, database.name), traffic.ids)
