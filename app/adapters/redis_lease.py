"""At most one controller: a key that its holder renews and that lapses by itself. Changes of flags are compare-and-set in the store all
the same, so a holder that was paused past its lease can be late but not wrong.
"""

from __future__ import annotations

import contextlib
import secrets
from typing import Any

from app.adapters.redis_client import PREFIX, connect, translated
from app.errors import UnavailableError

TTL_S = 6.0  # a dead holder is succeeded within this and one look
KEY = f"{PREFIX}:lease"
_TAKE = """
local holder = redis.call('GET', KEYS[1])
if holder == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return 1
end
if not holder then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  return 1
end
return 0
"""
_GIVE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class RedisLease:
    """Asked once a second by its would-be holder."""

    def __init__(self, url: str, name: str = "controller", ttl_s: float = TTL_S) -> None:
        self._client = connect(url)
        self._key = f"{KEY}:{name}"
        self._ttl_ms = str(int(ttl_s * 1000))
        self._token = secrets.token_hex(16)

    async def acquire(self) -> bool:
        """Take or renew; True while held. `UnavailableError` when Redis is away: then nobody may be sure to hold it."""
        with translated():
            answer: Any = self._client.eval(_TAKE, 1, self._key, self._token, self._ttl_ms)
            return bool(await answer)

    async def release(self) -> None:
        """Let another take it at once."""
        with translated():
            answer: Any = self._client.eval(_GIVE, 1, self._key, self._token)
            await answer
        with contextlib.suppress(UnavailableError), translated():
            await self._client.aclose()
