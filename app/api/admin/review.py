"""The review queue: what is worth a label, leased to the caller; and the labels given."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response

from app.api import strict_json
from app.api.routes import Caller, GatewayRoute, Json, bounded_body, needs
from app.api.schemas import LabelBody
from app.api.services import Parts
from app.control import label_studio
from app.errors import InvalidError

router = APIRouter(route_class=GatewayRoute, prefix="/admin/models/{model}/review", tags=["review"])

MAX_EXPORT = 16 * 1024 * 1024
_EXPORT: dict[str, Any] = {
    "application/json": {
        "schema": {
            "type": "array",
            "items": {"type": "object"},
            "description": "tasks as Label Studio exports them: data.prediction_id, annotations",
        }
    }
}


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
    format: Annotated[
        Literal["json", "label-studio"], Query(description="label-studio: a list of tasks to import there")
    ] = "json",
) -> Response:
    """Ranked items with the probability with which each was picked; leased, so that no two reviewers get
    the same. `notes` say by strategy what could not be ranked, and what novelty was measured against.
    """
    strategies = list(dict.fromkeys(name.strip() for name in strategy.split(",") if name.strip()))
    if not strategies:
        raise InvalidError("strategy: name at least one")
    drawn = await parts.monitor.review.draw(model, strategies, limit, caller.name)
    return Json(drawn if format == "json" else label_studio.tasks(model, drawn["items"]))


@router.post("", **needs("operate", 404, 413, 422, 503, body=_EXPORT))
async def labels(model: str, request: Request, caller: Caller, parts: Parts) -> Response:
    """Take in a Label Studio export (format JSON): each label becomes an outcome with source `review`. Says what was wrong
    with the others.
    """
    export = strict_json.parse(await bounded_body(request, MAX_EXPORT))
    return Json(await parts.monitor.review.take_in(model, export, caller.name))


@router.post("/{prediction_id}", **needs("operate", 404, 409, 422, 503))
async def label(model: str, prediction_id: str, body: LabelBody, caller: Caller, parts: Parts) -> Response:
    """Give a label: it becomes an outcome with source `review`."""
    return Json(await parts.monitor.review.label(model, prediction_id, body.label, caller.name))
