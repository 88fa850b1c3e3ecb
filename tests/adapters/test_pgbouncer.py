"""The whole store suite's essentials through pgbouncer in transaction mode, where no state may outlive a transaction."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from msgspec.structs import replace

from app.adapters.stores import open_store
from app.control.ports import Position
from tests import bring_servers
from tests.servers import PostgresServer, Server, running
from tests.store_rows import audit, batch, outcome_of, prediction, shadow_of

pytestmark = pytest.mark.interop


class PgBouncer(Server):
    """Two server connections for everybody: transactions of different clients take turns on each."""

    def __init__(self, behind: PostgresServer) -> None:
        super().__init__("pgbouncer")
        self._program = str(bring_servers.pgbouncer() / "pgbouncer")
        self._behind = behind
        if os.geteuid() == 0:
            self.run_as("postgres")

    def _command(self) -> list[str]:
        (self.directory / "pgbouncer.ini").write_text(
            f"[databases]\n* = host=127.0.0.1 port={self._behind.port} user=gateway\n[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\nauth_type = any\n"
            "pool_mode = transaction\ndefault_pool_size = 2\n"
        )
        return [self._program, "pgbouncer.ini"]

    def url(self, database: str) -> str:
        return f"postgresql://gateway@127.0.0.1:{self.port}/{database}?pgbouncer=true"

    def answers(self) -> bool:
        async def ask() -> None:
            connection = await asyncpg.connect(
                self.url("postgres").partition("?")[0], timeout=2, statement_cache_size=0
            )
            await connection.close()

        try:
            asyncio.run(ask())
        except (OSError, asyncpg.PostgresError, TimeoutError):
            return False
        return True


@pytest.fixture
def pooled_url(postgres_server: PostgresServer, postgres_url: str) -> Iterator[str]:
    with running(PgBouncer(postgres_server)) as bouncer:
        yield bouncer.url(postgres_url.rpartition("/")[2])


async def test_the_store_works_through_a_transaction_pool(pooled_url: str) -> None:
    store, other = await open_store(pooled_url), await open_store(pooled_url)
    now = datetime.now(UTC)
    rows = [prediction(now - n * timedelta(minutes=1), request_id=f"r{n}") for n in range(500)]
    try:
        for start in range(0, 500, 50):
            some = rows[start : start + 50]
            position = Position("w0-1-2", 0, start + 50, start + 50, start + 50, 0, 0)
            await asyncio.gather(
                store.load(
                    batch(
                        some,
                        [shadow_of(row) for row in some],
                        [outcome_of(row, 1.0) for row in some],
                        (),
                        [position],
                    )
                ),
                other.load(
                    batch([replace(row, model_version="late") for row in some])
                ),  # the same rows from elsewhere
                *(store.recent("credit", None, None, 20) for _ in range(4)),
                *(other.coverage("credit", None, now) for _ in range(4)),
            )
        assert {len(await store.labelled("credit", None, None, None, 1000))} == {500}
        assert sum(row["predictions"] for row in await other.coverage("credit", None, None)) == 500
        await store.append_audit(audit())
        assert len(await other.audit(None, 5)) == 1
        await store.maintain(now, {"credit": 30})
        chunks = [chunk async for chunk in other.training_rows("credit", None, None, None)]
        assert sum(map(len, chunks)) == 500
    finally:
        await store.close()
        await other.close()
