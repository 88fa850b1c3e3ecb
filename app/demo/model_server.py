"""A scikit-learn model behind HTTP, in a process of its own: what a team would run behind the gateway.

`POST /predict {"features": {name: number}}` answers `{"prediction", "confidence", "scores"}`; a JSON list of
such objects is answered by a list. `GET /health` says which version is loaded. `POST /_fault {"error_rate",
"delay_ms", "hang"}` degrades the model at run time, which is how the demo breaks a release; a real model
server must never offer it.

Requests that arrive within one turn of the event loop are scored in one call of the estimator, because
scikit-learn spends far more on a call than on a row.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import random
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import joblib  # type: ignore[import-untyped]
import numpy as np
import sklearn
import uvicorn

Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]


class Classifier(Protocol):
    """The part of a scikit-learn classifier that is used; `classes_` are the labels in the order of the
    scores.
    """

    classes_: np.ndarray

    def predict_proba(self, rows: np.ndarray) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True, slots=True)
class ModelFile:
    """What a model file holds: the fitted estimator and the names of its input columns, in order."""

    version: str
    features: tuple[str, ...]
    estimator: Classifier

    def save(self, path: Path) -> None:
        joblib.dump({"version": self.version, "features": self.features, "estimator": self.estimator}, path)

    @classmethod
    def load(cls, path: Path) -> ModelFile:
        """Reads a file written by `save`. joblib runs code on loading: never load a file from a stranger."""
        return cls(**joblib.load(path))


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """How the server misbehaves: share of requests answered 500, milliseconds added, or no answer at all."""

    error_rate: float = 0.0
    delay_ms: float = 0.0
    hang: bool = False


class BadInput(ValueError):
    """The request cannot be scored; the message says why."""


class Batcher:
    """Collects rows of one turn of the event loop and scores them together."""

    def __init__(self, estimator: Classifier) -> None:
        self._estimator = estimator
        self._waiting: list[tuple[list[float], asyncio.Future[np.ndarray]]] = []

    def score(self, row: list[float]) -> asyncio.Future[np.ndarray]:
        """A future of the row's class probabilities."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._flush)
        future: asyncio.Future[np.ndarray] = loop.create_future()
        self._waiting.append((row, future))
        return future

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        scores = self._estimator.predict_proba(np.array([row for row, _ in waiting]))
        for (_, future), row_scores in zip(waiting, scores, strict=True):
            if not future.done():
                future.set_result(row_scores)


class ModelServer:
    """The ASGI application around one loaded model."""

    def __init__(self, model: ModelFile, fault: Fault, seed: int = 0) -> None:
        self._model = model
        self._labels = [label.item() for label in model.estimator.classes_]
        self._batcher = Batcher(model.estimator)
        self._fault = fault
        self._chance = random.Random(seed)

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        body = await _read_body(receive)
        try:
            status, answer = await self._route(scope["method"], scope["path"], body)
        except BadInput as error:
            status, answer = 422, {"error": str(error)}
        content = json.dumps(answer).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    async def _route(self, method: str, path: str, body: bytes) -> tuple[int, object]:
        match method, path:
            case "POST", "/predict":
                return await self._predict(body)
            case "GET", "/health":
                return 200, {"version": self._model.version, "features": self._model.features}
            case "POST", "/_fault":
                self._fault = _read_fault(body)
                return 200, dataclasses.asdict(self._fault)
            case _:
                return 404, {"error": f"no {method} {path} here; try POST /predict"}

    async def _predict(self, body: bytes) -> tuple[int, object]:
        fault = self._fault
        if fault.hang:
            await asyncio.Event().wait()
        if fault.delay_ms:
            await asyncio.sleep(fault.delay_ms / 1000)
        if fault.error_rate and self._chance.random() < fault.error_rate:
            return 500, {"error": f"model {self._model.version} failed"}
        request = _read_json(body)
        if isinstance(request, list):
            return 200, list(await asyncio.gather(*map(self._score, request)))
        return 200, await self._score(request)

    async def _score(self, request: object) -> dict[str, object]:
        scores = await self._batcher.score(self._row(request))
        best = int(scores.argmax())
        return {
            "prediction": self._labels[best],
            "confidence": float(scores[best]),
            "scores": [float(score) for score in scores],
        }

    def _row(self, request: object) -> list[float]:
        features = request.get("features") if isinstance(request, dict) else None
        if not isinstance(features, dict):
            raise BadInput('the body must be {"features": {name: number, ...}}')
        try:
            row = [float(features[name]) for name in self._model.features]
        except KeyError as missing:
            raise BadInput(f"feature {missing} is missing") from None
        except (TypeError, ValueError, OverflowError):
            raise BadInput("every feature must be a number") from None
        if not np.isfinite(row).all():
            raise BadInput("every feature must be a finite number")
        return row


def _read_json(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise BadInput("the body is not JSON") from None


def _read_fault(body: bytes) -> Fault:
    try:
        return Fault(**json.loads(body))
    except (TypeError, ValueError):
        raise BadInput('the body must be {"error_rate": 0..1, "delay_ms": number, "hang": bool}') from None


async def _read_body(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def main() -> None:
    """Serves one model file until interrupted."""
    parser = argparse.ArgumentParser(description="Serve a scikit-learn model over HTTP.")
    parser.add_argument("--model", type=Path, required=True, help="a file written by ModelFile.save")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--fail-rate", type=float, default=0.0, help="share of requests answered 500")
    parser.add_argument("--delay-ms", type=float, default=0.0, help="added to each answer")
    arguments = parser.parse_args()
    sklearn.set_config(assume_finite=True, skip_parameter_validation=True)
    model = ModelFile.load(arguments.model)
    fault = Fault(error_rate=arguments.fail_rate, delay_ms=arguments.delay_ms)
    uvicorn.run(
        ModelServer(model, fault),
        host=arguments.host,
        port=arguments.port,
        lifespan="off",
        access_log=False,
        log_level="warning",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=1,
    )


if __name__ == "__main__":
    main()
