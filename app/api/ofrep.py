"""OFREP 0.3: any OpenFeature client asks here which version a key gets. Reads flags only; never changes or remembers anything.

Source: OpenFeature Remote Evaluation Protocol, service/openapi.yaml. Errors of an evaluation have its shape
(`key`, `errorCode`, `errorDetails`); those of access and size are problems like everywhere else.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from fastapi import APIRouter, Request, Response

from app.api import strict_json
from app.api.routes import MAX_JSON, GatewayRoute, Json, bounded_body, needs
from app.api.services import Parts, Services
from app.domain import evaluation
from app.domain.evaluation import Evaluation, KeyMissingError
from app.errors import InvalidError

router = APIRouter(route_class=GatewayRoute, prefix="/ofrep/v1/evaluate/flags", tags=["ofrep"])

_CONTEXT = {
    "application/json": {
        "schema": {
            "type": "object",
            "required": ["context"],
            "properties": {
                "context": {"type": "object", "properties": {"targetingKey": {"type": "string"}}},
            },
        }
    }
}

_FAILURE = {
    "type": "object",
    "required": ["errorCode", "errorDetails"],
    "properties": {
        "key": {"type": "string"},
        "errorCode": {
            "enum": ["PARSE_ERROR", "INVALID_CONTEXT", "TARGETING_KEY_MISSING", "FLAG_NOT_FOUND"],
        },
        "errorDetails": {"type": "string"},
    },
}
_SUCCESS = {
    "type": "object",
    "required": ["key", "value", "reason", "variant", "metadata"],
    "properties": {
        "key": {"type": "string"},
        "value": {"type": ["string", "number", "boolean"]},
        "reason": {"enum": ["STATIC", "SPLIT", "DISABLED"]},
        "variant": {"type": "string"},
        "metadata": {"type": "object"},
    },
}
_BULK = {
    "type": "object",
    "properties": {"flags": {"type": "array", "items": {"anyOf": [_SUCCESS, _FAILURE]}}},
}


def _answers(success: dict[str, Any], *failures: int) -> dict[str, Any]:
    """Keyword arguments of a route: its scope, and answers in OFREP's own shapes."""
    declared = needs("read", 413, body=_CONTEXT)
    described = {
        200: ("The evaluation.", success),
        **{status: (_FAILED[status], _FAILURE) for status in failures},
    }
    for status, (description, schema) in described.items():
        problem = declared["responses"].get(status, {}).get("content", {})  # a worker's own refusal
        declared["responses"][status] = {
            "description": description,
            "content": {**problem, "application/json": {"schema": schema}},
        }
    return declared


_FAILED = {400: "The context cannot be used.", 404: "No such flag."}


class _ContextError(Exception):
    """The request's context cannot be used; `code` is OFREP's."""

    def __init__(self, code: str, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details


async def _targeting_key(request: Request) -> str | None:
    """The key of the evaluation context, None when it has none."""
    body = await bounded_body(request, MAX_JSON)
    try:
        document = strict_json.parse(body)
    except InvalidError as error:
        raise _ContextError("PARSE_ERROR", str(error)) from None
    context = document.get("context") if isinstance(document, dict) else None
    if not isinstance(context, dict):
        raise _ContextError("INVALID_CONTEXT", 'send an object with "context", an object')
    key = context.get("targetingKey")
    if key is not None and not isinstance(key, str):
        raise _ContextError("INVALID_CONTEXT", "targetingKey is no string")
    return key or None


def _failure(key: str | None, code: str, details: str) -> dict[str, Any]:
    named = {} if key is None else {"key": key}
    return {**named, "errorCode": code, "errorDetails": details}


def _success(found: Evaluation) -> dict[str, Any]:
    return {
        "key": found.key,
        "value": found.value,
        "reason": found.reason,
        "variant": found.variant,
        "metadata": dict(found.metadata),
    }


def _evaluated(parts: Services, key: str, targeting_key: str | None) -> tuple[int, dict[str, Any]]:
    """Status and body of one flag."""
    name = evaluation.split_name(key)
    model = parts.registry.get(name[0]) if name is not None else None
    if name is None or model is None:
        return 404, _failure(
            key, "FLAG_NOT_FOUND", "flags are MODEL.version, MODEL.canary_percent, MODEL.shadow"
        )
    try:
        found = evaluation.evaluate(model, parts.flags.current(model.name), name[1], targeting_key)
    except KeyMissingError:
        return 400, _failure(
            key, "TARGETING_KEY_MISSING", "a canary is on: the version depends on targetingKey"
        )
    return 200, _success(found)


@router.post("/{key:path}", **_answers(_SUCCESS, 400, 404))
async def evaluate_flag(key: str, request: Request, parts: Parts) -> Response:
    """Evaluate one flag: `MODEL.version` (the router's own decision for `targetingKey`), `MODEL.canary_percent`, `MODEL.shadow`."""
    try:
        status, body = _evaluated(parts, key, await _targeting_key(request))
    except _ContextError as error:
        return Json(_failure(key, error.code, error.details), 400)
    return Json(body, status)


_ALL = _answers(_BULK, 400)
_ALL["responses"][304] = {"description": "Nothing has changed."}


@router.post("", **_ALL)
async def evaluate_flags(request: Request, parts: Parts) -> Response:
    """Evaluate all flags of all models for a context. `ETag` names the result: with `If-None-Match` 304 while it is the same."""
    try:
        targeting_key = await _targeting_key(request)
    except _ContextError as error:
        return Json(_failure(None, error.code, error.details), 400)
    flags = [
        _evaluated(parts, key, targeting_key)[1]
        for model in parts.registry.models()
        for key in evaluation.names(model.name)
    ]
    reply = Json({"flags": flags}, headers={"Cache-Control": "no-cache"})
    tag = f'"{sha256(bytes(reply.body)).hexdigest()[:32]}"'
    reply.headers["ETag"] = tag
    if tag in _tags(request.headers.get("if-none-match", "")):
        return Response(status_code=304, headers={"ETag": tag, "Cache-Control": "no-cache"})
    return reply


def _tags(header: str) -> set[str]:
    """The entity tags of an If-None-Match field, compared weakly (RFC 9110 section 13.1.2). `*` matches nothing here: an
    evaluation is no stored thing.
    """
    return {tag.strip().removeprefix("W/") for tag in header.split(",")}
