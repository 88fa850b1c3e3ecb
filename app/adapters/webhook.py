"""Posts to webhooks. One attempt within a deadline, no redirects, nothing read of the answer but its
status.
"""

from __future__ import annotations

from collections.abc import Mapping

import httpx2

from app.errors import UnavailableError

DEADLINE_S = 5.0


class Webhook:
    def __init__(self) -> None:
        self._client = httpx2.AsyncClient(timeout=DEADLINE_S, follow_redirects=False, trust_env=False)

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        """The answer's status; `UnavailableError` when there was none in time."""
        try:
            async with self._client.stream("POST", url, content=body, headers=dict(headers)) as reply:
                return reply.status_code
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise UnavailableError(f"{type(error).__name__}: {error}") from error

    async def close(self) -> None:
        await self._client.aclose()
