"""Which store a URL names."""

from __future__ import annotations

from app.adapters.sql_engine import StorePolicy
from app.adapters.sql_store import SqlStore
from app.errors import ConfigurationError


async def open_store(url: str) -> SqlStore:
    """The store, not connected yet: it may be away while the gateway starts. `ConfigurationError` for another kind of URL."""
    kind = url.partition(":")[0]
    # A process has one store: the other one's driver is not loaded.
    if kind == "sqlite":
        from app.adapters.sqlite import SqliteStore

        return SqliteStore(StorePolicy(url))
    if kind in ("postgresql", "postgres"):
        from app.adapters.postgres import PostgresStore

        return PostgresStore(StorePolicy(url))
    raise ConfigurationError([f"store.url: {kind!r} is no store; use sqlite:///FILE or postgresql://HOST/DB"])
