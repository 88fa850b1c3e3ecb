"""The servers that tests ask for: one of each for a test process, and private ones for tests that stop, pause or kill them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from app.adapters import migrations
from tests.servers import PostgresServer, RedisServer, running

# As in the gateway. The library's own choice paints each traceback, which takes seconds.
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(),
    ]
)
_TEMPLATE = "migrated"
# Tests that wait more than they compute, longest first: begun early, they do not keep one process busy when all others have ended.
_WAITING = ("scenarios/test_demo", "scenarios/", "faults/", "security/", "commands/", "api/test_served")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The order in which modules are handed to the processes of a run."""
    root = Path(__file__).parent

    def rank(item: pytest.Item) -> int:
        place = item.path.relative_to(root).as_posix()
        return next((at for at, start in enumerate(_WAITING) if place.startswith(start)), len(_WAITING))

    items.sort(key=rank)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """Shared by the tests of this process: leave it running."""
    with running(PostgresServer()) as server:
        server.run(f"CREATE DATABASE {_TEMPLATE}")
        migrations.upgrade(server.url(_TEMPLATE))
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """A database of the test's own, with all tables."""
    return postgres_server.new_database(_TEMPLATE)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """Shared by the tests of this process: leave it running."""
    with running(RedisServer()) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """An empty Redis; whatever earlier tests left there is gone."""
    redis_server.empty()
    return redis_server.url


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """For a test that stops, pauses or kills it."""
    with running(PostgresServer()) as server:
        yield server


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """For a test that stops, pauses or kills it."""
    with running(RedisServer()) as server:
        yield server
