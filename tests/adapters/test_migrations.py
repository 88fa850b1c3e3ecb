"""The history leads exactly to the declared tables, there and back, on both databases."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy.ext.asyncio import create_async_engine

from app.adapters import migrations
from app.adapters.postgres_url import driver_url
from app.adapters.schema import metadata
from app.errors import UnavailableError
from tests.ports import free_port
from tests.servers import PostgresServer

_POSTGRES_SHAPE = """
SELECT c.relname, c.relkind::text, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
       coalesce(co.collname, ''), coalesce(pg_get_expr(d.adbin, d.adrelid), ''), coalesce(pg_get_partkeydef(c.oid), '')
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
LEFT JOIN pg_collation co ON co.oid = a.attcollation
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND c.relname <> 'alembic_version'
ORDER BY 1, 3
"""
_POSTGRES_RULES = """
SELECT 'index', indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version'
UNION ALL
SELECT 'constraint', conname, pg_get_constraintdef(oid) FROM pg_constraint
WHERE connamespace = 'public'::regnamespace AND conrelid <> 'alembic_version'::regclass ORDER BY 1, 2
"""


def on_sqlite(path: Path, work: Callable[[sa.Connection], Any]) -> Any:
    engine = sa.create_engine(f"sqlite:///{path}", poolclass=sa.pool.NullPool)
    with engine.begin() as connection:
        return work(connection)


def on_postgres(url: str, work: Callable[[sa.Connection], Any]) -> Any:
    async def run() -> Any:
        engine = create_async_engine(driver_url(url)[0], poolclass=sa.pool.NullPool)
        async with engine.begin() as connection:
            return await connection.run_sync(work)

    return asyncio.run(run())


def differences(connection: sa.Connection) -> list[Any]:
    return list(
        compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata)
    )


def sqlite_shape(path: Path) -> dict[str, Any]:
    """What SQLite itself makes of the tables: names, affinities, keys, index conditions."""
    with closing(sqlite3.connect(path)) as database:
        names = [
            row[0]
            for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
            if row[0] != "alembic_version"
        ]
        columns = {
            name: sorted(row[1:] for row in database.execute(f"PRAGMA table_info({name})")) for name in names
        }
        indexes = database.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
        )
        foreign = {name: list(database.execute(f"PRAGMA foreign_key_list({name})")) for name in names}
        return {"columns": columns, "indexes": sorted(indexes), "foreign": foreign}


def test_the_replayed_history_is_the_declared_schema_on_sqlite(tmp_path: Path) -> None:
    replayed, declared = tmp_path / "replayed.db", tmp_path / "declared.db"
    migrations.upgrade(f"sqlite:///{replayed}")
    on_sqlite(declared, metadata.create_all)
    assert sqlite_shape(replayed) == sqlite_shape(declared)


def test_the_replayed_history_is_the_declared_schema_on_postgresql(postgres_server: PostgresServer) -> None:
    shapes = []
    for prepare in (migrations.upgrade, lambda url: on_postgres(url, metadata.create_all)):
        url = postgres_server.new_database()
        prepare(url)
        name = url.rpartition("/")[2]
        if prepare is not migrations.upgrade:
            postgres_server.run("CREATE TABLE alembic_version ()", name)
        else:
            assert on_postgres(url, differences) == []
        shapes.append(
            (postgres_server.run(_POSTGRES_SHAPE, name), postgres_server.run(_POSTGRES_RULES, name))
        )
    assert shapes[0][0] == shapes[1][0]
    assert shapes[0][1] == shapes[1][1]
    assert len(shapes[0][0]) > 100


@pytest.fixture(params=["sqlite", "postgres"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server.new_database()


def test_the_history_can_be_taken_back_and_replayed(empty_url: str) -> None:
    assert migrations.revisions(empty_url)[0] is None
    migrations.upgrade(empty_url)
    current, newest = migrations.revisions(empty_url)
    assert current == newest == migrations.NEWEST
    migrations.downgrade(empty_url, "base")
    work = sa.inspect

    def left(connection: sa.Connection) -> list[str]:
        return work(connection).get_table_names()

    database = sa.make_url(empty_url).database
    found = (
        on_sqlite(Path(database or ""), left)
        if empty_url.startswith("sqlite")
        else on_postgres(empty_url, left)
    )
    assert found == ["alembic_version"]
    migrations.upgrade(empty_url)
    migrations.upgrade(empty_url)
    assert migrations.revisions(empty_url) == (newest, newest)


def test_a_file_is_current_when_it_has_the_newest_tables_and_only_then(tmp_path: Path) -> None:
    file = tmp_path / "a file #.db"
    url = f"sqlite:///{file}"
    assert not migrations.is_current(file)
    assert not file.exists()
    file.touch()
    assert not migrations.is_current(file)
    migrations.upgrade(url)
    assert migrations.is_current(file)
    with closing(sqlite3.connect(file)) as database:
        database.execute("UPDATE alembic_version SET version_num = 'older'")
        database.commit()
    assert not migrations.is_current(file)


def test_a_file_that_a_migration_makes_is_for_this_user_only(tmp_path: Path) -> None:
    """Whatever the caller's mask lets through: `model-gateway migrate` runs in a shell."""
    before = os.umask(0o022)
    try:
        migrations.upgrade(f"sqlite:///{tmp_path}/gateway.db")
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in tmp_path.iterdir()] == [0o600]


def test_several_that_migrate_at_once_wait_for_each_other(empty_url: str) -> None:
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(migrations.upgrade, [empty_url] * 4))
    current, newest = migrations.revisions(empty_url)
    assert current == newest


def test_a_failed_migration_leaves_nothing_half_done(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from alembic.script import ScriptDirectory

    real = ScriptDirectory.run_env

    def broken(self: ScriptDirectory) -> None:
        real(self)
        raise OSError("the power went")

    monkeypatch.setattr(ScriptDirectory, "run_env", broken)
    with pytest.raises((OSError, UnavailableError)):
        migrations.upgrade(empty_url)
    monkeypatch.undo()
    assert migrations.revisions(empty_url)[0] is None
    migrations.upgrade(empty_url)


def test_a_database_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(UnavailableError):
        migrations.upgrade(f"postgresql://gateway@127.0.0.1:{free_port()}/none")
