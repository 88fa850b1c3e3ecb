"""Flags carried between hosts by Redis: a hash holds the newest of each model, publishing hints, polling makes sure.

The store holds the truth. So a wiped Redis is filled again from what this process knows, a garbage value is refused and overwritten, and
an older revision never replaces a newer one, whoever is late.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import msgspec
import structlog
from redis.asyncio.client import PubSub

from app.adapters.redis_client import DEADLINE_S, PREFIX, connect, translated
from app.domain.flags import Flags
from app.errors import UnavailableError

log = structlog.get_logger(__name__)

POLL_S = 1.0
MAX_VALUE = 64 * 1024
HASH = f"{PREFIX}:flags"
CHANNEL = f"{PREFIX}:flags-changed"
# Set and publish only what is newer than what is there; anything unreadable counts as older.
_PUT = """
local held = redis.call('HGET', KEYS[1], ARGV[1])
if held then
  local ok, value = pcall(cjson.decode, held)
  if ok and type(value) == 'table' and type(value.revision) == 'number' and value.model == ARGV[1]
     and value.revision >= tonumber(ARGV[2]) then
    return 0
  end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
redis.call('PUBLISH', ARGV[4], ARGV[3])
return 1
"""
# Flags that the store never held give way to those that it holds, whatever their revision says.
_CORRECT = """
local held = redis.call('HGET', KEYS[1], ARGV[1])
local ok, value = pcall(cjson.decode, held or '')
if ok and type(value) == 'table' and value.revision == tonumber(ARGV[2]) then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
end
return 1
"""


class RedisDistribution:
    """`known` gives the flags this process holds, to fill a wiped Redis from. `refused` counts values that were no flags."""

    def __init__(self, url: str, known: Callable[[], Iterable[Flags]]) -> None:
        self._client = connect(url)
        self._known = known
        self._closed = asyncio.Event()
        self.refused = 0

    async def publish(self, flags: Flags) -> None:
        """`UnavailableError` when Redis cannot take it: polling will carry it later."""
        with translated():
            answer: Any = self._client.eval(
                _PUT, 1, HASH, flags.model, str(flags.revision), msgspec.json.encode(flags).decode(), CHANNEL
            )
            await answer

    async def correct(self, wrong: Flags, right: Flags) -> None:
        """Put `right` in the place of `wrong`, if it is still there. `UnavailableError` when Redis is away."""
        with translated():
            answer: Any = self._client.eval(
                _CORRECT, 1, HASH, wrong.model, str(wrong.revision), msgspec.json.encode(right).decode()
            )
            await answer

    async def changes(self) -> AsyncIterator[Flags]:
        """Flags as they are published, and every poll all of them; ends with `close`. `UnavailableError` when Redis is away."""
        channel = self._client.pubsub(ignore_subscribe_messages=True)
        try:
            with translated():
                await channel.subscribe(CHANNEL)
            loop = asyncio.get_running_loop()
            due = loop.time()
            while not self._closed.is_set():
                if loop.time() >= due:
                    due = loop.time() + POLL_S
                    for flags in await self._poll():
                        yield flags
                hint = await self._hint(channel, max(0.001, due - loop.time()))
                if hint is not None:
                    yield hint
        except UnavailableError:
            if not self._closed.is_set():  # else its connections were closed under it
                raise
        finally:
            with contextlib.suppress(UnavailableError), translated():
                await channel.aclose()  # type: ignore[no-untyped-call]

    async def _hint(self, channel: PubSub, within_s: float) -> Flags | None:
        with translated():
            async with asyncio.timeout(within_s + DEADLINE_S):
                message = await channel.get_message(timeout=within_s)
        return (
            self._read(message["data"]) if message is not None and message.get("type") == "message" else None
        )

    async def _poll(self) -> list[Flags]:
        with translated():
            answer: Any = self._client.hgetall(HASH)
            held = await answer
        found = {}
        for name, value in held.items():
            flags = self._read(value)
            if flags is None:
                continue
            if flags.model.encode() == name:
                found[flags.model] = flags
            else:
                self._refuse(value)
        for mine in self._known():
            theirs = found.get(mine.model)
            if theirs is None or theirs.revision < mine.revision:
                await self.publish(mine)
        return list(found.values())

    def _read(self, value: object) -> Flags | None:
        """The flags in a value, None (counted) for anything else."""
        if isinstance(value, bytes) and len(value) <= MAX_VALUE:
            with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                return msgspec.json.decode(value, type=Flags)
        self._refuse(value)
        return None

    def _refuse(self, value: object) -> None:
        self.refused += 1
        log.warning(
            "Redis holds something that is no flags, or not the model's; it is refused",
            size=len(value) if isinstance(value, bytes) else 0,
        )

    async def ping(self) -> None:
        with translated():
            answer: Any = self._client.ping()
            await answer

    async def close(self) -> None:
        self._closed.set()
        with contextlib.suppress(UnavailableError), translated():
            await self._client.aclose()
