"""Rollouts: started, watched, and acted on. The controller does the rest by itself."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from app.api.routes import Caller, GatewayRoute, Json, needs
from app.api.schemas import Because, RolloutStart
from app.api.services import Parts
from app.control.controller import By
from app.domain.rollout import Action

router = APIRouter(route_class=GatewayRoute, prefix="/admin/models/{model}/rollouts", tags=["rollouts"])


@router.get("", **needs("read", 404, 503))
async def history(model: str, parts: Parts, limit: Annotated[int, Query(ge=1, le=200)] = 20) -> Response:
    """The model's rollouts, the newest first."""
    return Json({"rollouts": await parts.controller.rollouts(model, limit)})


@router.post("", status_code=201, **needs("operate", 404, 409, 422, 503))
async def start(model: str, body: RolloutStart, caller: Caller, parts: Parts) -> Response:
    """Start one; 409 while another is open, or a canary is set by flags."""
    rollout = await parts.controller.begin(
        model,
        body.candidate,
        stages=body.stages,
        dwell_s=body.dwell_s,
        min_requests=body.min_requests,
        shadow_dwell_s=body.shadow_dwell_s,
        shadow_min_requests=body.shadow_min_requests,
        min_labels=body.min_labels,
        by=By(caller.name, caller.origin, "operator"),
        reason=body.reason,
    )
    return Json(rollout, 201, headers={"Location": f"/admin/models/{model}/rollouts/{rollout['id']}"})


@router.get("/{rollout_id}", **needs("read", 404, 503))
async def rollout(model: str, rollout_id: str, parts: Parts) -> Response:
    """State, stage, verdict and evidence of this moment, and every event with its reason and figures."""
    return Json(await parts.controller.rollout(model, rollout_id))


@router.post("/{rollout_id}/{action}", **needs("operate", 404, 409, 422, 503))
async def act(
    model: str, rollout_id: str, action: Action, caller: Caller, parts: Parts, body: Because | None = None
) -> Response:
    """Pause, resume, advance, promote or roll back; 409 when its state does not allow that."""
    by = By(caller.name, caller.origin, "operator")
    reason = (body.reason if body else "") or f"{action} by {caller.name}"
    return Json(await parts.controller.act_on(model, rollout_id, action, by=by, reason=reason))
