"""A model's flags: read, and changed with compare-and-set over `ETag` and `If-Match`."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Header, Response

from app.api.routes import Caller, GatewayRoute, Json, needs
from app.api.schemas import FlagsPatch, FlagsView
from app.api.services import Parts, Services
from app.domain.flags import Flags
from app.errors import InvalidError

router = APIRouter(route_class=GatewayRoute, prefix="/admin/models/{model}/flags", tags=["flags"])

_TAG = re.compile(r'(?:W/)?"?(\d{1,18})"?')


def flags_view(flags: Flags, services: Services) -> dict[str, Any]:
    return {**asdict(flags), "durable": services.flags.durable(flags.model)}


def _answer(flags: Flags, services: Services) -> Response:
    return Json(flags_view(flags, services), headers={"ETag": f'"{flags.revision}"'})


def expected_revision(if_match: str | None) -> int | None:
    """The revision in an If-Match header; None when there is none, or `*`."""
    if if_match is None or if_match.strip() == "*":
        return None
    found = _TAG.fullmatch(if_match.strip())
    if found is None:
        raise InvalidError("If-Match: give the ETag of the flags as you read them")
    return int(found[1])


@router.get("", response_model=FlagsView, **needs("read", 404))
async def get_flags(model: str, parts: Parts) -> Response:
    """The flags in force; `ETag` is their revision."""
    return _answer(parts.flags.current(model), parts)


@router.patch("", response_model=FlagsView, **needs("operate", 404, 412, 422, 503))
async def patch_flags(
    model: str,
    body: FlagsPatch,
    caller: Caller,
    parts: Parts,
    if_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Change flags. With `If-Match` only if nobody was faster (412). A change towards safety works while
    the store is down.
    """
    flags = await parts.flags.change(
        model,
        body.patch(),
        expected_revision=expected_revision(if_match),
        actor=caller.name,
        origin=caller.origin,
        reason=body.reason,
    )
    return _answer(flags, parts)
