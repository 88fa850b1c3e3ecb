"""How a route of the API is declared: with the scope it needs, its errors, and strict JSON. Enforced and
documented from the same words.

The token is checked before a byte of the body is read.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Annotated, Any

import msgspec
from fastapi import Depends, HTTPException, Request, Response
from fastapi.routing import APIRoute

from app.api import strict_json
from app.api.auth import Identity, Scope
from app.api.problems import documented
from app.errors import InvalidError

MAX_JSON = 1024 * 1024
_SCOPE = "x-required-scope"


class StrictRequest(Request):
    """A request whose body is bounded and whose JSON is strict."""

    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            self._body = await bounded_body(self, MAX_JSON)
        return self._body

    async def json(self) -> Any:
        try:
            return strict_json.parse(await self.body())
        except InvalidError as error:
            raise HTTPException(422, str(error)) from error


async def bounded_body(request: Request, limit: int) -> bytes:
    """The whole body; 413 as soon as it is longer than `limit` bytes."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > limit:
            raise HTTPException(413, f"the body is larger than {limit} bytes")
    return bytes(data)


class GatewayRoute(APIRoute):
    """A route that says which scope it needs, or that it is open."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        extra = self.openapi_extra or {}
        if _SCOPE not in extra:
            raise TypeError(f"{self.path}: declare the scope with needs(…) or open_to_all(…)")
        scope: str | None = extra[_SCOPE]

        async def authenticated(request: Request) -> Response:
            if scope is not None:
                request.state.identity = request.app.state.services.auth.identify(request, scope)
            return await handle(StrictRequest(request.scope, request.receive))

        return authenticated


def needs(
    scope: Scope, *statuses: int, body: dict[str, Any] | None = None, answers: Iterable[str] = ()
) -> dict[str, Any]:
    """Keyword arguments of a route that needs this scope and may answer with these errors as well.

    `body` describes (as OpenAPI `content`) a body that the route reads by itself; `answers` are the media types of its 200 when they
    are not JSON alone.
    """
    extra: dict[str, Any] = {_SCOPE: scope, "security": [{"bearer": []}]}
    if body is not None:
        extra["requestBody"] = {"required": True, "content": body}
    return {
        "openapi_extra": extra,
        "responses": {**documented(400, 401, 403, 429, *statuses), **_good(answers)},
    }


def open_to_all(*statuses: int, answers: Iterable[str] = ()) -> dict[str, Any]:
    """Keyword arguments of a route that needs no token."""
    return {
        "openapi_extra": {_SCOPE: None, "security": []},
        "responses": {**documented(400, *statuses), **_good(answers)},
    }


def _good(answers: Iterable[str]) -> dict[int | str, dict[str, Any]]:
    content = {media_type: {"schema": {"type": "string"}} for media_type in answers}
    return {200: {"description": "Successful Response", "content": content}} if content else {}


def _identity(request: Request) -> Identity:
    identity: Identity = request.state.identity
    return identity


Caller = Annotated[Identity, Depends(_identity)]


class Json(Response):
    """JSON of values, rows and times; NaN and infinity, which JSON lacks, become null."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return msgspec.json.encode(content)
