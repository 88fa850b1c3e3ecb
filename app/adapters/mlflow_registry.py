"""MLflow's model registry over its REST interface: aliases read and moved. One attempt within a deadline, no redirects.

Source: MLflow REST API 2.0, "Get Model Version by Alias", "Set Registered Model Alias", "Delete Registered Model Alias". An
alias that is not set is answered 400 INVALID_PARAMETER_VALUE or 404 RESOURCE_DOES_NOT_EXIST, by release and backend.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx2
import msgspec

from app.domain.registered import RegisteredVersion
from app.errors import UnavailableError

CHAMPION, CHALLENGER = "champion", "challenger"
_ALIAS = "/api/2.0/mlflow/registered-models/alias"
_URL_TAG = "gateway.url"
_UNKNOWN = frozenset(("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"))


class MlflowRegistry:
    """A tracking server's registry."""

    def __init__(self, uri: str, token: str | None, timeout_s: float) -> None:
        self._url = uri.rstrip("/") + _ALIAS
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._client = httpx2.AsyncClient(
            timeout=timeout_s, follow_redirects=False, trust_env=False, headers=headers
        )

    async def challenger(self, name: str) -> RegisteredVersion | None:
        """The version that has the alias `challenger`; None when there is none. `UnavailableError` without an answer."""
        return await self._aliased(name, CHALLENGER)

    async def _aliased(self, name: str, alias: str) -> RegisteredVersion | None:
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

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        """Carry out an event of the outbox: `champion` moves to the version, which is no challenger any more. May be repeated.

        The status that settles it; `UnavailableError` without an answer.
        """
        data = msgspec.json.decode(body)["data"]
        name, number = data["name"], data["number"]
        reply = await self._call("POST", json={"name": name, "alias": CHAMPION, "version": number})
        if reply.status_code != 200:
            return reply.status_code
        challenger = await self._aliased(name, CHALLENGER)
        if challenger is not None and challenger.number == number:
            reply = await self._call("DELETE", json={"name": name, "alias": CHALLENGER})
        return reply.status_code

    async def _call(self, method: str, **more: Any) -> httpx2.Response:
        try:
            return await self._client.request(method, self._url, **more)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise UnavailableError(f"MLflow: {type(error).__name__}: {error}") from error

    async def close(self) -> None:
        await self._client.aclose()


def _document(reply: httpx2.Response) -> dict[str, Any]:
    try:
        document = msgspec.json.decode(reply.content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    return document if isinstance(document, dict) else {}
