"""How this project speaks to Redis: short deadlines, no hidden retries, its errors as ours. The library's defaults stall for a minute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from app.domain.sentinel_url import is_sentinel_url, parse_sentinel_url
from app.errors import UnavailableError

DEADLINE_S = 0.5
PREFIX = "model-gateway"


def connect(url: str) -> Redis:
    """A client for `redis://`, `rediss://` or, asking sentinels where the master is, `redis+sentinel://`; connects when first used."""
    options: dict[str, Any] = {
        "socket_timeout": DEADLINE_S,
        "socket_connect_timeout": DEADLINE_S,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
    }
    if is_sentinel_url(url):
        return _through_sentinels(url, options)
    return Redis.from_url(url, max_connections=8, **options)


def _through_sentinels(url: str, options: dict[str, Any]) -> Redis:
    """Each new connection asks anew: after a failover the next one leads to the new master, and a demoted one is left."""
    wanted = parse_sentinel_url(url)
    secured: dict[str, Any] = {"ssl": True} if wanted.tls else {}
    asked = Sentinel(list(wanted.sentinels), sentinel_kwargs={**options, **secured})  # type: ignore[no-untyped-call]
    client: Redis = asked.master_for(
        wanted.master,
        db=wanted.database,
        username=wanted.username,
        password=wanted.password,
        max_connections=8,
        **options,
        **secured,
    )
    return client


@contextmanager
def translated() -> Iterator[None]:
    """`UnavailableError` for whatever keeps Redis from answering in time, or from taking what we write."""
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise UnavailableError(f"Redis does not answer: {type(error).__name__}") from error


async def ping(client: Redis) -> None:
    """`UnavailableError` when it does not answer."""
    with translated():
        answer: Any = client.ping()
        await answer
