"""What the monitor knows of a model: performance, shadow comparison, drift, retraining, and the training
set. Reads, but for one decision.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Annotated, Literal

import structlog
from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import StreamingResponse
from starlette.types import Send

from app.api.routes import Caller, GatewayRoute, Json, needs
from app.api.schemas import Instant
from app.api.services import Parts
from app.control.audits import log_change
from app.control.ports import AuditEntry
from app.control.training_set import FORMATS, TrainingQuery, export, manifest
from app.errors import GatewayError

log = structlog.get_logger(__name__)

router = APIRouter(route_class=GatewayRoute, prefix="/admin/models/{model}", tags=["reports"])

Version = Annotated[str | None, Query(max_length=64)]
Limit = Annotated[int, Query(ge=1, le=1000)]


@router.get("/performance", **needs("read", 404, 422, 503))
async def performance(
    model: str,
    parts: Parts,
    version: Version = None,
    since: Instant | None = None,
    until: Instant | None = None,
    by: Annotated[
        str | None, Query(max_length=200, description="a feature whose values are told apart")
    ] = None,
) -> Response:
    """Metrics with 95 % intervals over mature labels by version, or why they are withheld; coverage;
    provisional figures apart.
    """
    return Json(await parts.monitor.performance.report(model, version, since, until, by))


@router.get("/shadow", **needs("read", 404, 422, 503))
async def shadow(
    model: str,
    version: Annotated[str, Query(max_length=64)],
    parts: Parts,
    since: Instant | None = None,
) -> Response:
    """What the version would have answered beside production: agreement, differences, worst cases,
    latency, labelled comparison.
    """
    return Json(await parts.monitor.shadow.report(model, version, since))


@router.get("/drift", **needs("read", 404, 503))
async def drift(model: str, parts: Parts, version: Version = None) -> Response:
    """Each feature and the prediction against the baseline: test, statistic, threshold, n, verdict."""
    return Json(await parts.monitor.drift.report(model, version))


@router.get("/retraining", **needs("read", 404, 422, 503))
async def decisions(model: str, parts: Parts, limit: Limit = 20) -> Response:
    """The decisions so far with their inputs, the newest first."""
    return Json({"decisions": await parts.monitor.retraining.decisions(model, limit)})


@router.post("/retraining", **needs("operate", 404, 503))
async def decide(model: str, caller: Caller, parts: Parts) -> Response:
    """Decide now; stored with its inputs, and audited as `retraining.evaluate`. `told` says whether it went to
    the webhook: see `retraining.cooldown_s`.
    """
    decision = await parts.monitor.retraining.evaluate(model)
    after = {name: decision[name] for name in ("should_retrain", "urgency")}
    entry = AuditEntry(
        parts.clock.now(),
        caller.name,
        caller.origin,
        "retraining.evaluate",
        model,
        decision["reason"],
        None,
        after,
    )
    await parts.store.append_audit(entry)
    log_change(entry, **after)
    return Json(decision)


def _query(
    model: str,
    parts: Parts,
    half_life_days: float = 47.0,
    flat_days: float = 7.0,
    since: Instant | None = None,
    until: Instant | None = None,
    version: Version = None,
    as_of: Annotated[
        Instant | None,
        Query(description="ages count from here, and labels received later do not count; now when not given"),
    ] = None,
) -> TrainingQuery:
    known = parts.registry.model(model)
    return TrainingQuery(known, version, since, until, half_life_days, flat_days, as_of=as_of)


Asked = Annotated[TrainingQuery, Depends(_query)]


@router.get("/training-set", **needs("read", 404, 422, 503, answers=FORMATS.values()))
async def training_set(
    parts: Parts, query: Asked, format: Literal["csv", "ndjson", "parquet"] = "ndjson"
) -> Response:
    """Labelled rows, oldest first, each with `sample_weight` = recency × inverse propensity (of being picked
    for review; with `version`, also of that version being asked). A broken-off answer is no whole file.
    `X-As-Of` is the time it was made as of: given as `as_of`, it gives the same bytes again, whatever
    labels have come since.
    """
    now = parts.clock.now()
    as_of = query.as_of or now
    pieces = export(replace(query, format=format, as_of=as_of), parts.store, now)
    first = await anext(pieces)  # an error before the first row is an answer, not a broken file
    name = f"{query.model.name}-training-set.{format}"
    headers = {
        "Content-Disposition": f'attachment; filename="{name}"',
        "X-As-Of": as_of.isoformat(),
    }
    return _File(_all(first, pieces), headers=headers, media_type=FORMATS[format])


@router.get("/training-set/manifest", **needs("read", 404, 422, 503))
async def training_set_manifest(parts: Parts, query: Asked) -> Response:
    """What an export holds: query, rows by version, weights, SHA-256 of its NDJSON. Its `as_of`, given to
    an export, gives these rows, whatever labels have come since.
    """
    return Json(await manifest(query, parts.store, parts.clock.now()))


class _File(StreamingResponse):
    """Breaks off, without the end that would make it a whole file, when the store fails on the way."""

    async def stream_response(self, send: Send) -> None:
        try:
            await super().stream_response(send)
        except GatewayError as error:
            log.warning("an export broke off", reason=str(error))


async def _all(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first:
        yield first
    async for piece in rest:
        yield piece
