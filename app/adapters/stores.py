"""The store that a URL names, ready to use."""

from __future__ import annotations

from app.adapters import schema
from app.adapters.sql_engine import StorePolicy
from app.adapters.sqlite import SqliteStore
from app.errors import ConfigurationError


async def open_store(url: str) -> SqliteStore:
    """SQLite makes its own tables. `ConfigurationError` for another scheme."""
    if not url.startswith("sqlite:///"):
        raise ConfigurationError([f"store.url: {url.partition(':')[0]} is not supported; use sqlite:///FILE"])
    store = SqliteStore(StorePolicy(url))
    async with store.write() as connection:
        await connection.run_sync(schema.metadata.create_all)
    return store
