"""Records as the workers write them, for tests of the recorder."""

from __future__ import annotations

import itertools
import json
import time
from typing import Any

from app.domain.model import Match, Model, Privacy, RoutingKey, Version
from app.domain.prediction import uuid7
from app.journal.records import OutcomeRecord, PredictionRecord, ShadowRecord

_serial = itertools.count(1)


def model(name: str = "credit", **fields: Any) -> Model:
    values: dict[str, Any] = {
        "production": "v1",
        "versions": (Version("v1", ("http://127.0.0.1:1",)), Version("v2", ("http://127.0.0.1:2",))),
        "match": Match(f"/models/{name}"),
        "protocol": "json",
        "extract": (
            ("features", "$.features"),
            ("prediction", "$.prediction"),
            ("confidence", "$.confidence"),
        ),
        "task": "binary",
        "routing_key": RoutingKey("header", "x-user-id"),
        "privacy": Privacy(),
        **fields,
    }
    return Model(name, **values)


def prediction_bytes(at_ns: int | None = None) -> bytes:
    """A new id."""
    at_ns = time.time_ns() if at_ns is None else at_ns
    return uuid7(at_ns // 1_000_000, (next(_serial) << 6).to_bytes(10, "big")).bytes


def predicted(
    features: object = None,
    answer: object = None,
    *,
    request_body: bytes | None = None,
    response_body: bytes | None = None,
    **fields: Any,
) -> PredictionRecord:
    """A POST with `{"features": …}` that was answered with `{"prediction": …, "confidence": …}`."""
    if request_body is None:
        request_body = json.dumps({"features": {"age": 41} if features is None else features}).encode()
    if response_body is None:
        answer = {"prediction": 0.73, "confidence": 0.9} if answer is None else answer
        response_body = json.dumps(answer).encode()
    at_ns = fields.pop("at_ns", time.time_ns())
    values: dict[str, Any] = {
        "prediction_id": prediction_bytes(at_ns),
        "at_ns": at_ns,
        "model": "credit",
        "version": "v1",
        "role": "production",
        "status": 200,
        "latency_us": 12_500,
        "reason": "bucket 17 >= 5",
        "bucket": 17,
        "canary_percent": 5.0,
        "flags_revision": 3,
        "rollout_id": "",
        "forced": False,
        "routing_key": "user-1",
        "request_id": None,
        "method": "POST",
        "target": "/predict",
        "request_type": "application/json",
        "request_encoding": "",
        "request_size": len(request_body),
        "request_body": request_body,
        "response_type": "application/json",
        "response_encoding": "",
        "response_size": len(response_body),
        "response_body": response_body,
        "ended": "complete",
        **fields,
    }
    return PredictionRecord(**values)


def copied(record: PredictionRecord, prediction: object = 0.75, **fields: Any) -> ShadowRecord:
    """What v2 answered to the same request."""
    body = fields.pop("response_body", None)
    if body is None:
        body = json.dumps({"prediction": prediction, "confidence": 0.8}).encode()
    values: dict[str, Any] = {
        "prediction_id": record.prediction_id,
        "at_ns": record.at_ns,
        "model": record.model,
        "version": "v2",
        "role": "shadow",
        "status": 200,
        "latency_us": 20_000,
        "response_type": "application/json",
        "response_encoding": "",
        "response_size": len(body),
        "response_body": body,
        **fields,
    }
    return ShadowRecord(**values)


def observed(prediction_id: str, truth: float | str | bool = 1.0, **fields: Any) -> OutcomeRecord:
    now = time.time_ns()
    values: dict[str, Any] = {
        "received_ns": now,
        "prediction_id": prediction_id,
        "model": "",
        "request_id": "",
        "ground_truth": truth,
        "observed_ns": now,
        "source": "test",
        "actor": "ops",
        **fields,
    }
    return OutcomeRecord(**values)
