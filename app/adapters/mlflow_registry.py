"""MLflow's model registry over its REST interface: aliases read and moved. One attempt within a deadline, no redirects.

Source: MLflow REST API 2.0, "Get Model Version by Alias", "Set Registered Model Alias", "Delete Registered Model Alias". An
alias that is not set is answered 400 INVALID_PARAMETER_VALUE or 404 RESOURCE_DOES_NOT_EXIST, by release and backend.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import msgspec

from app.domain.registered import RegisteredVersion
from app.errors import NotFoundError, UnavailableError

_ALIAS = "/api/2.0/mlflow/registered-models/alias"
_URL_TAG = "gateway.url"
_UNKNOWN = frozenset(("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"))


class MlflowRegistry:
    """A tracking server's registry."""

    def __init__(self, uri: str, token: str | None, timeout_s: float) -> None:
        self._url = uri.rstrip("/") + _ALIAS
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._timeout_s = timeout_s
        self._client = httpx2.AsyncClient(
            timeout=timeout_s, follow_redirects=False, trust_env=False, headers=headers
        )

    async def aliased(self, name: str, alias: str) -> RegisteredVersion | None:
        """The version that has the alias; None when there is none. `UnavailableError` without an answer."""
        reply = await self._call("GET", params={"name": name, "alias": alias})
        document = _document(reply)
        if reply.status_code in (400, 404) and document.get("error_code") in _UNKNOWN:
            return None
        if reply.status_code != 200:
            raise UnavailableError(f"MLflow answered {reply.status_code}")
        version = document.get("model_version")
        if not isinstance(version, dict) or not str(version.get("version", "")).isdigit():
            raise UnavailableError("MLflow's answer holds no version")
        tags = {
            str(tag.get("key")): str(tag.get("value"))
            for tag in version.get("tags") or []
            if isinstance(tag, dict)
        }
        return RegisteredVersion(
            str(version["version"]), str(version.get("source", ""))[:1000], tags.get(_URL_TAG)
        )

    async def point(self, name: str, alias: str, number: str) -> None:
        """Give the alias to a version, whoever has it. `NotFoundError` when MLflow has no such model or version."""
        reply = await self._call("POST", json={"name": name, "alias": alias, "version": number})
        if reply.status_code in (400, 404) and _document(reply).get("error_code") in _UNKNOWN:
            raise NotFoundError(f"MLflow has no version {number} of {name!r}")
        if reply.status_code != 200:
            raise UnavailableError(f"MLflow answered {reply.status_code}")

    async def remove(self, name: str, alias: str) -> None:
        """Take the alias from whoever has it."""
        reply = await self._call("DELETE", json={"name": name, "alias": alias})
        if reply.status_code != 200 and _document(reply).get("error_code") not in _UNKNOWN:
            raise UnavailableError(f"MLflow answered {reply.status_code}")

    async def _call(self, method: str, **more: Any) -> httpx2.Response:
        try:
            async with asyncio.timeout(self._timeout_s):  # httpx's own limits each wait, not their sum
                return await self._client.request(method, self._url, **more)
        except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError) as error:
            raise UnavailableError(f"MLflow: {type(error).__name__}: {error}") from error

    async def close(self) -> None:
        await self._client.aclose()


def _document(reply: httpx2.Response) -> dict[str, Any]:
    try:
        document = msgspec.json.decode(reply.content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    return document if isinstance(document, dict) else {}
