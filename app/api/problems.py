"""Every error answer of the API: RFC 9457 problems, made in one table. Never shows a traceback or a value
the caller did not send.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import compile_path

from app.api.auth import ForbiddenError, TooManyFailuresError, UnauthenticatedError
from app.errors import (
    ConflictError,
    GatewayError,
    InvalidError,
    JournalFullError,
    NotFoundError,
    RefusedRowError,
    StaleRevisionError,
    UnavailableError,
)

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
_RETRY_AFTER = {"Retry-After": "1"}

# The first entry that the error is an instance of holds.
TABLE: tuple[tuple[type[GatewayError], int, str], ...] = (
    (UnauthenticatedError, 401, "unauthenticated"),
    (ForbiddenError, 403, "forbidden"),
    (TooManyFailuresError, 429, "too_many_failures"),
    (NotFoundError, 404, "not_found"),
    (InvalidError, 422, "invalid"),
    (RefusedRowError, 422, "refused_by_store"),
    (StaleRevisionError, 412, "stale_revision"),
    (ConflictError, 409, "conflict"),
    (JournalFullError, 503, "journal_full"),
    (UnavailableError, 503, "unavailable"),
)
CODES = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    413: "payload_too_large",
    415: "unsupported_media_type",
    422: "invalid",
}


# What to do about each code, for the reference. `detail` of an answer is more exact.
REMEDIES: Mapping[str, str] = {
    "unauthenticated": "Send `Authorization: Bearer TOKEN`. The first token lies in `DATA_DIR/admin-token`.",
    "forbidden": "Use a token with the scope that `detail` names (`model-gateway token new --scope …`).",
    "too_many_failures": "Wait for `Retry-After` seconds, then send a valid token.",
    "not_found": "Check the names: `GET /admin/models` lists models and versions, `docs/api.md` the paths.",
    "invalid": "Correct the value that `detail` names; `errors`, where given, has one entry a value.",
    "refused_by_store": "Correct the rows: the store cannot hold them, such as text with U+0000.",
    "stale_revision": "Read the flags again, look whether the change still makes sense, and send it with the new `ETag`.",
    "conflict": "Look at the current state that `detail` names, such as the rollout that is open, and settle it first.",
    "journal_full": "Send the same again after `Retry-After`; what `accepted` counts is safe. Operators: free disk space.",
    "unavailable": "Send the same again after `Retry-After`. Operators: `/readyz` names what is away.",
    "bad_request": "Correct the body or the parameters: they cannot be read.",
    "method_not_allowed": "Use one of the methods that `Allow` names.",
    "payload_too_large": "Send less at once, such as several smaller batches.",
    "unsupported_media_type": "Send the `Content-Type` that `detail` names, without `Content-Encoding`.",
    "client_left": "Nobody reads this one: the client ended its request early.",
    "internal": "A mistake of the gateway: send its log with a report. Nothing that was accepted is lost.",
    "error": "See `detail`.",
}


def problem(
    status: int, code: str, detail: str, *, headers: Mapping[str, str] | None = None, **members: Any
) -> Response:
    """An answer with `type`, `title`, `status`, `detail`, our stable `code`, and further members."""
    body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
        **members,
    }
    return Response(msgspec.json.encode(body), status, headers, MEDIA_TYPE)


async def _gateway_error(request: Request, error: Exception) -> Response:
    for kind, status, code in TABLE:
        if isinstance(error, kind):
            return problem(status, code, str(error), headers=_headers(error, status), **_members(error))
    return await _unexpected(request, error)


def _headers(error: Exception, status: int) -> Mapping[str, str]:
    if isinstance(error, TooManyFailuresError):
        return {"Retry-After": str(error.retry_after_s)}
    if status == 401:
        return {"WWW-Authenticate": 'Bearer realm="model-gateway"'}
    if status == 403:
        return {"WWW-Authenticate": 'Bearer realm="model-gateway", error="insufficient_scope"'}
    return _RETRY_AFTER if status == 503 else {}


def _members(error: Exception) -> dict[str, Any]:
    return (
        {"expected": error.expected, "current": error.current}
        if isinstance(error, StaleRevisionError)
        else {}
    )


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = _allowed(request) or error.headers if error.status_code == 405 else error.headers
    return problem(
        error.status_code, CODES.get(error.status_code, "error"), str(error.detail), headers=headers
    )


def _allowed(request: Request) -> Mapping[str, str]:
    """All methods of this path (RFC 9110 section 10.2.1); the router by itself names only those of the first route."""
    methods = {
        method.upper()
        for path, operations in request.app.openapi()["paths"].items()
        if compile_path(path)[0].match(request.url.path)
        for method in operations
    }
    return {"Allow": ", ".join(sorted(methods))} if methods else {}


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = [
        {"at": ".".join(map(str, one["loc"]))[:200], "reason": str(one["msg"])[:500]}
        for one in error.errors()[:100]
    ]
    detail = "; ".join(f"{one['at']}: {one['reason']}" for one in errors[:5])
    return problem(422, "invalid", detail, errors=errors)


async def _client_left(request: Request, error: Exception) -> Response:
    """Nobody reads this answer; it keeps a client that hangs up out of the log of mistakes."""
    return problem(400, "client_left", "the request ended before its body did")


async def _unexpected(request: Request, error: Exception) -> Response:
    log.error("a request failed unexpectedly", path=request.url.path, exc_info=error)
    return problem(500, "internal", "the gateway made a mistake; its log has the details")


def install(app: FastAPI) -> None:
    """Make every error answer of this application a problem."""
    app.add_exception_handler(GatewayError, _gateway_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(ClientDisconnect, _client_left)
    app.add_exception_handler(Exception, _unexpected)


_SCHEMA = {
    "type": "object",
    "required": ["type", "title", "status", "code", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string", "description": "stable, for programs"},
        "detail": {"type": "string", "description": "what is wrong and what to do"},
    },
}
_MEANINGS = {
    400: "The request cannot be read.",
    401: "No valid token.",
    403: "The token lacks the scope.",
    404: "No such thing.",
    409: "Contradicts the current state.",
    412: "Another change was faster.",
    413: "The body is too large.",
    415: "Not a body of this kind.",
    422: "A value cannot be accepted.",
    429: "Too many failed attempts from this address.",
    503: "A dependency cannot be reached, or the journal is full.",
}


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that can answer with these errors."""
    return {
        status: {"description": _MEANINGS[status], "content": {MEDIA_TYPE: {"schema": _SCHEMA}}}
        for status in sorted(statuses)
    }
