"""Brings a database to the schema of this version, or back. The history stands in migrations/: beside the package in the source tree,
within it where it was installed from a wheel.

Blocking: for the command line, or a thread. Two at once wait for each other.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from app.adapters.postgres_url import driver_url
from app.errors import UnavailableError

if (
    TYPE_CHECKING
):  # Alembic is loaded when there is something to migrate: most starts of a gateway find its file up to date.
    from alembic.config import Config

NEWEST = "0003"  # the revision that migrations/ leads to
_Work = Callable[["Config"], None]
_PACKAGE = Path(__file__).resolve().parents[1]
_HISTORY = next(
    path for path in (_PACKAGE / "migrations", _PACKAGE.parent / "migrations") if (path / "env.py").exists()
)
_LOCK = 0x6D67_6D69_6772  # "mgmigr"


def upgrade(url: str, revision: str = "head") -> None:
    """Apply what is missing. `UnavailableError` when the database cannot be reached or used."""
    from alembic import command

    _run(url, lambda config: command.upgrade(config, revision))


def downgrade(url: str, revision: str) -> None:
    """Take back everything after `revision` (`base`: everything)."""
    from alembic import command

    _run(url, lambda config: command.downgrade(config, revision))


def revisions(url: str) -> tuple[str | None, str | None]:
    """The revision of the database and that of this version of the gateway."""
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    found: list[str | None] = []

    def note(config: Config) -> None:
        found.append(MigrationContext.configure(config.attributes["connection"]).get_current_revision())

    _run(url, note)
    return found[0], ScriptDirectory(str(_HISTORY)).get_current_head()


def is_current(path: Path) -> bool:
    """Whether an SQLite file has the tables of this version already."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            return database.execute("SELECT version_num FROM alembic_version").fetchall() == [(NEWEST,)]
    except (
        sqlite3.Error
    ):  # no file yet, no such table, or in the middle of somebody's migration: the long way finds out
        return False


def _run(url: str, work: _Work) -> None:
    try:
        if sa.make_url(url).get_backend_name() == "sqlite":
            _on_sqlite(url, work)
        else:
            asyncio.run(_on_postgres(url, work))
    except sa.exc.DBAPIError as error:
        raise UnavailableError(f"the database cannot be used: {error.orig}") from error


def _on_sqlite(url: str, work: _Work) -> None:
    path = sa.make_url(url).database
    if path and path != ":memory:":
        with suppress(OSError):  # what is wrong with the place, SQLite will say
            Path(path).touch(
                mode=0o600
            )  # it holds what the journal does; its other files get the mode of this one
    engine = sa.create_engine(url, poolclass=NullPool, connect_args={"isolation_level": None, "timeout": 30})
    with engine.connect() as connection:
        connection.exec_driver_sql(
            "BEGIN IMMEDIATE"
        )  # the driver would begin too late, and leave table changes out
        work(_config(connection))
        connection.commit()


async def _on_postgres(url: str, work: _Work) -> None:
    parsed, arguments = driver_url(url)
    engine = create_async_engine(parsed, poolclass=NullPool, connect_args={"timeout": 10, **arguments})

    def on_connection(connection: sa.Connection) -> None:
        connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
        work(_config(connection))

    try:
        async with engine.begin() as connection:
            await connection.run_sync(on_connection)
    except (OSError, TimeoutError) as error:
        raise UnavailableError(f"the database cannot be reached: {error}") from error


def _config(connection: sa.Connection) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_HISTORY).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
