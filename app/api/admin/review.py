"""The review queue: what is worth a label, leased to the caller; and the labels given."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from app.api.routes import Caller, GatewayRoute, Json, needs
from app.api.schemas import LabelBody
from app.api.services import Parts
from app.errors import InvalidError

router = APIRouter(route_class=GatewayRoute, prefix="/admin/models/{model}/review", tags=["review"])


@router.get("", **needs("operate", 404, 422, 503))
async def queue(
    model: str,
    caller: Caller,
    parts: Parts,
    strategy: Annotated[
        str,
        Query(
            max_length=100, description="one or more of uncertainty, margin, novelty, disagreement, random"
        ),
    ] = "uncertainty",
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
) -> Response:
    """Ranked items with the probability with which each was picked; leased, so that no two reviewers get
    the same.
    """
    strategies = list(dict.fromkeys(name.strip() for name in strategy.split(",") if name.strip()))
    if not strategies:
        raise InvalidError("strategy: name at least one")
    return Json(await parts.monitor.review.draw(model, strategies, limit, caller.name))


@router.post("/{prediction_id}", **needs("operate", 404, 409, 422, 503))
async def label(model: str, prediction_id: str, body: LabelBody, caller: Caller, parts: Parts) -> Response:
    """Give a label: it becomes an outcome with source `review`."""
    return Json(await parts.monitor.review.label(model, prediction_id, body.label, caller.name))
