"""The proxy that the source text leads to: FastAPI and httpx around its classes, made async, nothing more.

CanaryRouter hashes the user, ShadowDeployment asks both models in turn and compares, HealthMonitor
watches a window, FeedbackStore commits one SQLite row a request. This is the yardstick from below; it
must stay as simple as the text.

    python benchmarks/peers/naive.py PORT DATABASE PRODUCTION_URL CANARY_URL SHADOW_URL CANARY_PERCENT
"""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
import sys
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx
import uvicorn
from fastapi import FastAPI, Header
from pydantic import BaseModel

logger = logging.getLogger(__name__)


class Prediction(BaseModel):
    prediction: float
    confidence: float = 0.0


class PredictionRequest(BaseModel):
    features: dict[str, float]


class Model:
    """A model server behind a URL."""

    def __init__(self, client: httpx.AsyncClient, url: str, version: str) -> None:
        self.client = client
        self.url = url
        self.version = version

    async def predict(self, features: dict[str, float]) -> Prediction:
        answer = await self.client.post(self.url, json={"features": features})
        answer.raise_for_status()
        return Prediction(**answer.json())


class CanaryRouter:
    """The same user always meets the same model: sha256 of the key, modulo 100, below the percentage."""

    def __init__(self, production: Model, canary: Model, canary_percentage: float) -> None:
        self.production = production
        self.canary = canary
        self.canary_percentage = canary_percentage
        self.canary_count = 0
        self.production_count = 0

    async def route(self, request_id: str, features: dict[str, float]) -> tuple[Prediction, str]:
        if int(hashlib.sha256(request_id.encode()).hexdigest(), 16) % 100 < self.canary_percentage:
            self.canary_count += 1
            return await self.canary.predict(features), self.canary.version
        self.production_count += 1
        return await self.production.predict(features), self.production.version

    def rollback(self) -> None:
        self.canary_percentage = 0.0


class HealthMonitor:
    """Error rate and p99 over the last hundred requests."""

    def __init__(
        self, error_rate: float = 0.05, latency_p99_ms: float = 500.0, window: int = 100, least: int = 20
    ) -> None:
        self.error_rate = error_rate
        self.latency_p99_ms = latency_p99_ms
        self.least = least
        self.errors: deque[bool] = deque(maxlen=window)
        self.latencies: deque[float] = deque(maxlen=window)

    def record(self, is_error: bool, latency_ms: float) -> None:
        self.errors.append(is_error)
        self.latencies.append(latency_ms)

    def should_rollback(self) -> tuple[bool, str]:
        if len(self.errors) < self.least:
            return False, "Insufficient data for evaluation."
        rate = sum(self.errors) / len(self.errors)
        if rate > self.error_rate:
            return True, f"Error rate {rate:.1%} exceeds threshold {self.error_rate:.1%}."
        ordered = sorted(self.latencies)
        p99 = ordered[min(int(len(ordered) * 0.99), len(ordered) - 1)]
        if p99 > self.latency_p99_ms:
            return True, f"P99 latency {p99:.0f}ms exceeds threshold {self.latency_p99_ms:.0f}ms."
        return False, "All health metrics within bounds."


@dataclass
class ShadowResult:
    production_prediction: float
    shadow_prediction: float
    production_latency_ms: float
    shadow_latency_ms: float
    agreement: bool


class ShadowDeployment:
    """Asks the answering model, then the shadow; a shadow's exception is logged and forgotten."""

    def __init__(self, shadow: Model, agreement_threshold: float = 0.05) -> None:
        self.shadow = shadow
        self.agreement_threshold = agreement_threshold
        self.results: deque[ShadowResult] = deque(
            maxlen=100_000
        )  # the text's list has no end; a benchmark's memory has

    async def predict(
        self, features: dict[str, float], primary: Callable[[], Awaitable[tuple[Prediction, str]]]
    ) -> tuple[Prediction, str]:
        start = time.perf_counter()
        answer, version = await primary()
        latency = (time.perf_counter() - start) * 1000
        try:
            start = time.perf_counter()
            shadow = await self.shadow.predict(features)
            shadow_latency = (time.perf_counter() - start) * 1000
        except Exception:
            logger.exception("Shadow model failed, production unaffected")
            return answer, version
        agreement = abs(answer.prediction - shadow.prediction) < self.agreement_threshold
        self.results.append(
            ShadowResult(answer.prediction, shadow.prediction, latency, shadow_latency, agreement)
        )
        return answer, version


class FeedbackStore:
    """One SQLite row a prediction, committed at once."""

    def __init__(self, path: str) -> None:
        self.conn = sqlite3.connect(path)
        self.conn.execute(
            "CREATE TABLE IF NOT EXISTS predictions (prediction_id TEXT PRIMARY KEY, "
            "model_version TEXT NOT NULL, timestamp TEXT NOT NULL, features TEXT NOT NULL, "
            "prediction REAL NOT NULL, confidence REAL NOT NULL, ground_truth REAL, "
            "ground_truth_timestamp TEXT, latency_ms REAL DEFAULT 0.0)"
        )
        self.conn.commit()

    def log_prediction(
        self, version: str, features: dict[str, float], answer: Prediction, latency_ms: float
    ) -> str:
        prediction_id = str(uuid.uuid4())
        self.conn.execute(
            "INSERT INTO predictions (prediction_id, model_version, timestamp, features, prediction, "
            "confidence, latency_ms) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                prediction_id,
                version,
                datetime.now(UTC).isoformat(),
                json.dumps(features),
                answer.prediction,
                answer.confidence,
                latency_ms,
            ),
        )
        self.conn.commit()
        return prediction_id


async def serve_with_rollback(
    router: CanaryRouter, monitor: HealthMonitor, request_id: str, features: dict[str, float]
) -> tuple[Prediction, str]:
    """Route, record the outcome, and take the canary out when the window says so."""
    start = time.perf_counter()
    try:
        answer = await router.route(request_id, features)
    except Exception:
        monitor.record(True, (time.perf_counter() - start) * 1000)
        logger.exception("Prediction failed for request %s", request_id)
        raise
    monitor.record(False, (time.perf_counter() - start) * 1000)
    failed, reason = monitor.should_rollback()
    if failed:
        logger.warning("AUTOMATIC ROLLBACK triggered: %s", reason)
        router.rollback()
    return answer


def build(database: str, production: str, canary: str, shadow: str, canary_percent: float) -> FastAPI:
    """The application with its models, router, monitor and store."""
    client = httpx.AsyncClient(timeout=30)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with client:
            yield

    app = FastAPI(lifespan=lifespan)
    router = CanaryRouter(Model(client, production, "v1"), Model(client, canary, "v2"), canary_percent)
    # Latency is not judged: at saturation the window would trip on queueing and take the canary out.
    monitor = HealthMonitor(latency_p99_ms=float("inf"))
    shadowed = ShadowDeployment(Model(client, shadow, "v3"))
    store = FeedbackStore(database)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/models/credit/predict")
    async def predict(body: PredictionRequest, x_user_id: str = Header()) -> dict[str, float | str]:
        start = time.perf_counter()
        answer, version = await shadowed.predict(
            body.features, lambda: serve_with_rollback(router, monitor, x_user_id, body.features)
        )
        latency_ms = (time.perf_counter() - start) * 1000
        prediction_id = store.log_prediction(version, body.features, answer, latency_ms)
        return {"prediction": answer.prediction, "prediction_id": prediction_id, "model_version": version}

    return app


if __name__ == "__main__":
    port, database, production, canary, shadow, percent = sys.argv[1:]
    uvicorn.run(
        build(database, production, canary, shadow, float(percent)),
        port=int(port),
        log_level="warning",
        access_log=False,
    )
