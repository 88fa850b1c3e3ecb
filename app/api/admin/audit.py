"""Who changed what, and whether every record is accounted for."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from app.api.routes import GatewayRoute, Json, needs
from app.api.schemas import AccountingView
from app.api.services import Parts

router = APIRouter(route_class=GatewayRoute, prefix="/admin", tags=["audit"])


@router.get("/audit", **needs("read", 404, 422, 503))
async def audit(
    parts: Parts, model: str | None = None, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> Response:
    """The newest entries first: at, actor, origin, action, model, reason, before, after."""
    if model is not None:
        parts.registry.model(model)
    return Json({"entries": await parts.store.audit(model, limit)})


@router.get("/accounting", response_model=AccountingView, **needs("read", 503))
async def accounting(parts: Parts) -> Response:
    """received = stored + pending + dropped, of this host's journal."""
    return Json(await parts.accounting())
