"""From a PostgreSQL URL to an engine: time limits, TLS as libpq writes it, and what pgbouncer asks for.

Understood in the query: `sslmode` (as in libpq) and `pgbouncer=true` for a pool in transaction mode.
"""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.adapters.rows import json_bytes, json_value
from app.adapters.sql_engine import StorePolicy


def driver_url(url: str) -> tuple[sa.URL, dict[str, Any]]:
    """The URL as SQLAlchemy and asyncpg want it, and arguments for `asyncpg.connect`."""
    parsed = sa.make_url(url).set(drivername="postgresql+asyncpg")
    arguments: dict[str, Any] = {}
    query = dict(parsed.query)
    if sslmode := query.pop("sslmode", None):
        arguments["ssl"] = sslmode
    pooled = query.pop("pgbouncer", "false") == "true"
    if pooled:
        # A prepared statement lives in one server connection; the next transaction may be on another.
        arguments["statement_cache_size"] = 0
        arguments["prepared_statement_cache_size"] = 0
        arguments["prepared_statement_name_func"] = lambda: f"gateway_{uuid4().hex}"
    return parsed.set(query=query), arguments


def engine_of(policy: StorePolicy) -> AsyncEngine:
    """An engine that connects when it is first used."""
    url, arguments = driver_url(policy.url)
    arguments["timeout"] = policy.connect_timeout_s
    arguments["command_timeout"] = policy.deadline_s
    if "statement_cache_size" not in arguments:  # pgbouncer refuses settings that it does not know
        arguments["server_settings"] = {
            "application_name": "model-gateway",
            "statement_timeout": f"{int(policy.statement_timeout_s * 1000)}",
            "jit": "off",  # compiling a query over many partitions takes longer than running it
        }
    return create_async_engine(
        url,
        pool_size=policy.connections,
        max_overflow=0,
        pool_timeout=policy.deadline_s,
        pool_recycle=1800,
        json_serializer=lambda value: json_bytes(value).decode(),
        json_deserializer=json_value,
        hide_parameters=True,  # else features and keys would stand in exceptions, and these in the log
        connect_args=arguments,
    )
