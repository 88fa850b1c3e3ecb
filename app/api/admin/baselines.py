"""The reference data for drift and the training-time metrics: uploaded, or taken from stored predictions."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request, Response
from pydantic import ValidationError

from app.api import strict_json, uploads
from app.api.auth import Identity
from app.api.routes import Caller, GatewayRoute, Json, bounded_body, needs
from app.api.schemas import BaselineBody, Instant, Reason
from app.api.services import Parts, Services
from app.control.audits import log_change
from app.control.drift import PREDICTION
from app.control.ports import AuditEntry, Row
from app.errors import InvalidError, NotFoundError

router = APIRouter(route_class=GatewayRoute, prefix="/admin/models/{model}/baseline", tags=["baseline"])

MAX_UPLOAD = 64 * 1024 * 1024
_BODY: dict[str, Any] = {
    "application/json": {"schema": BaselineBody.model_json_schema()},
    **{kind: {"schema": {"type": "string", "format": "binary"}} for kind in uploads.KINDS},
}


@router.get("", **needs("read", 404, 503))
async def get_baseline(model: str, parts: Parts) -> Response:
    """Where it came from, its metrics, and each feature in short."""
    return Json(await parts.monitor.drift.baseline(model))


@router.post("", status_code=201, **needs("operate", 404, 413, 415, 422, 503, body=_BODY))
async def post_baseline(
    model: str,
    request: Request,
    caller: Caller,
    parts: Parts,
    metrics: Annotated[
        str, Query(max_length=4000, description="for uploads: JSON object of metric: value")
    ] = "{}",
    trained_at: Instant | None = None,
    reason: Reason = "",
) -> Response:
    """Rows as JSON, NDJSON, CSV or Parquet (features as columns, or under `features`; `prediction` beside
    them), or JSON that names a version whose newest stored rows are to be taken. `metrics`, `trained_at`
    and `reason` stand in the query with uploads, in the body with JSON. Audited as `baseline.set`.
    """
    parts.registry.model(model)
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    data = await bounded_body(request, MAX_UPLOAD)
    drift = parts.monitor.drift
    before = await _known(model, parts)
    if kind in uploads.KINDS:
        rows = await asyncio.to_thread(uploads.rows, kind, data)
        view = await drift.put_baseline(
            model, _split(rows), f"upload ({kind})", _metrics(metrics), trained_at
        )
        await _audited(model, caller, parts, reason, before, view)
        return Json(view, 201)
    if kind != "application/json":
        raise HTTPException(415, f"send application/json or one of {', '.join(uploads.KINDS)}")
    try:
        body = BaselineBody.model_validate(strict_json.parse(data))
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidError(f"{'.'.join(map(str, first['loc']))[:200]}: {first['msg']}") from None
    if body.rows is not None:
        view = await drift.put_baseline(model, _split(body.rows), "upload", body.metrics, body.trained_at)
    else:
        view = await drift.baseline_from_window(
            model, body.version, body.since, body.metrics, body.trained_at
        )
    await _audited(model, caller, parts, body.reason or reason, before, view)
    return Json(view, 201)


async def _known(model: str, parts: Services) -> Row | None:
    try:
        return await parts.monitor.drift.baseline(model)
    except NotFoundError:
        return None


async def _audited(
    model: str, caller: Identity, parts: Services, reason: str, before: Row | None, after: Row
) -> None:
    entry = AuditEntry(
        parts.clock.now(),
        caller.name,
        caller.origin,
        "baseline.set",
        model,
        reason,
        _in_short(before) if before else None,
        _in_short(after),
    )
    await parts.store.append_audit(entry)
    log_change(entry, source=after["source"], rows=after["rows"])


def _in_short(view: Row) -> Row:
    """Which reference it was; the values of its features are no business of the audit log."""
    times = {name: view[name].isoformat() if view[name] else None for name in ("at", "trained_at")}
    facts = {name: view[name] for name in ("source", "rows", "metrics")}
    return {**facts, **times, "features": len(view["features"])}


def _metrics(text: str) -> dict[str, float]:
    value = strict_json.parse(text.encode())
    if not isinstance(value, dict) or not all(type(number) in (int, float) for number in value.values()):
        raise InvalidError("metrics: a JSON object of metric: number")
    return value


# Columns of our own training-set export that are no features.
_NO_FEATURES = frozenset(
    {"prediction_id", "model_version", "timestamp", "confidence", "ground_truth", "ground_truth_timestamp", "propensity",
     "review_propensity", "latency_ms", "age_days", "sample_weight", "more_features"}
)  # fmt: skip


def _split(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Features by name, the prediction under its own name. Our own exports are read as well as plain
    tables.
    """
    exported = any("sample_weight" in row for row in rows[:1])
    return [_features(row, exported) for row in rows]


def _features(row: dict[str, Any], exported: bool) -> dict[str, Any]:
    nested = row.get("features")
    if isinstance(nested, dict):
        features = dict(nested)
    else:
        skipped = _NO_FEATURES if exported else frozenset()
        features = {
            name.removeprefix("feature."): _cell(value)
            for name, value in row.items()
            if name not in skipped and name != "prediction"
        }
    if row.get("prediction") is not None:
        features[PREDICTION] = row["prediction"]
    return features


def _cell(value: Any) -> Any:
    """Times and other types of a table as text."""
    return value.isoformat() if isinstance(value, datetime) else value
