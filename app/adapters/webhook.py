"""Posts to webhooks. One attempt within a deadline, no redirects, nothing read of the answer but its
status.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from app.errors import UnavailableError

if TYPE_CHECKING:
    from httpx2 import AsyncClient

DEADLINE_S = 5.0


class Webhook:
    """The client is made for the first post: most gateways have no webhook, and it reads all of the system's authorities."""

    def __init__(self) -> None:
        self._client: AsyncClient | None = None

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        """The answer's status; `UnavailableError` when there was none in time."""
        import httpx2

        if self._client is None:
            self._client = httpx2.AsyncClient(timeout=DEADLINE_S, follow_redirects=False, trust_env=False)
        try:
            async with self._client.stream("POST", url, content=body, headers=dict(headers)) as reply:
                return reply.status_code
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise UnavailableError(f"{type(error).__name__}: {error}") from error

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
