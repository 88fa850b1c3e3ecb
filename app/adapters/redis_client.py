"""How this project speaks to Redis: short deadlines, no hidden retries, its errors as ours. The library's defaults stall for a minute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from app.errors import UnavailableError

DEADLINE_S = 0.5
PREFIX = "model-gateway"


def connect(url: str) -> Redis:
    """A client for `redis://` or `rediss://`; connects when it is first used."""
    return Redis.from_url(
        url,
        socket_timeout=DEADLINE_S,
        socket_connect_timeout=DEADLINE_S,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
        max_connections=8,
    )


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
