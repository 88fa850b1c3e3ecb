"""Rows as the recorder makes them, for tests of the store. Ids and times agree, as those of a worker do."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from app.control.extraction import document
from app.control.ports import (
    AuditEntry,
    Batch,
    OutcomeRow,
    Position,
    PredictionRow,
    QuarantineRow,
    Scalar,
    ShadowRow,
)
from app.domain.outcome import outcome_id
from app.domain.prediction import uuid7

T0 = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_serial = itertools.count(1)


def prediction_id(at: datetime) -> str:
    """A new id of that time."""
    tail = (next(_serial) << 6).to_bytes(10, "big")
    return str(uuid7((at - _EPOCH) // timedelta(milliseconds=1), tail))


def prediction(at: datetime = T0, **fields: Any) -> PredictionRow:
    values: dict[str, Any] = {
        "prediction_id": prediction_id(at),
        "model": "credit",
        "model_version": "v1",
        "role": "production",
        "timestamp": at,
        "features": {"age": 41, "income": 1200.5, "city": "Köln", "vector": [1, 2.5, None], "vip": True},
        "prediction": 0.73,
        "confidence": 0.9,
        "latency_ms": 12.5,
        "status": 200,
        "request_id": None,
        "routing_key": "user-1",
        "bucket": 17,
        "canary_percent": 5.0,
        "flags_revision": 3,
        "rollout_id": None,
        "forced": False,
        "propensity": 0.95,
        "reason": "bucket 17 >= 5",
        "ended": "complete",
        "error": None,
        "facts": {"tokens": 7},
        **fields,
    }
    if isinstance(values["features"], dict):
        values["features"] = document(values["features"])
    return PredictionRow(**values)


def shadow_of(row: PredictionRow, **fields: Any) -> ShadowRow:
    values: dict[str, Any] = {
        "prediction_id": row.prediction_id,
        "model": row.model,
        "model_version": "v2",
        "role": "shadow",
        "timestamp": row.timestamp,
        "prediction": 0.75,
        "confidence": 0.8,
        "latency_ms": 20.0,
        "status": 200,
        "difference": 0.02,
        "agreement": True,
        "error": None,
        **fields,
    }
    return ShadowRow(**values)


def outcome_of(
    target: PredictionRow | str | None,
    truth: Scalar,
    observed: datetime = T0 + timedelta(days=1),
    *,
    model: str | None = None,
    request_id: str | None = None,
    received: datetime | None = None,
    source: str = "test",
) -> OutcomeRow:
    name = target.prediction_id if isinstance(target, PredictionRow) else target
    observed_ns = (observed - _EPOCH) // timedelta(microseconds=1) * 1000
    return OutcomeRow(
        outcome_id(name or "", model or "", request_id or "", truth, observed_ns, source),
        name,
        model,
        request_id,
        truth,
        observed,
        received or datetime.now(UTC),
        source,
        "labeller",
    )


def batch(
    predictions: Sequence[PredictionRow] = (),
    shadows: Sequence[ShadowRow] = (),
    outcomes: Sequence[OutcomeRow] = (),
    quarantine: Sequence[QuarantineRow] = (),
    positions: Sequence[Position] = (),
) -> Batch:
    return Batch(predictions, shadows, outcomes, quarantine, positions)


def audit(action: str = "test", model: str | None = "credit", **fields: Any) -> AuditEntry:
    values: dict[str, Any] = {
        "at": T0,
        "actor": "ops",
        "origin": "127.0.0.1",
        "action": action,
        "model": model,
        "reason": "because",
        **fields,
    }
    return AuditEntry(**values)
