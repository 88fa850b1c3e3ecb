"""Outcomes as a warehouse sends them: NDJSON over one connection to a whole gateway on PostgreSQL, until the last one is joined."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx2

from benchmarks.recorder.material import MODEL
from tests.ports import free_port
from tests.system import PLAIN, running_gateway
from tests.worker import eventually

A_POST = 20_000  # outcomes
_PATIENCE_S = 600.0


@dataclass(frozen=True, slots=True)
class Fed:
    """Per second, from the first post to the last answer, and to the last outcome in the store."""

    outcomes: int
    posted_per_s: float
    joined_per_s: float


def _bodies(ids: Sequence[str]) -> Iterator[bytes]:
    for start in range(0, len(ids), A_POST):
        lines = [
            json.dumps({"prediction_id": one, "ground_truth": number % 2})
            for number, one in enumerate(ids[start : start + A_POST])
        ]
        yield "\n".join(lines).encode()


def feed(url: str, ids: Sequence[str]) -> Fed:
    """Post an outcome for each of these stored predictions."""
    posts = list(_bodies(ids))
    models = {
        MODEL.name: {
            "task": MODEL.task,
            "match": {"path_prefix": "/credit"},
            "production": "v1",
            "versions": {"v1": {"url": "http://127.0.0.1:1"}},
        }
    }
    with (
        tempfile.TemporaryDirectory(prefix="gateway-benchmark-") as directory,
        running_gateway(Path(directory), models, port=free_port(), store={"url": url}) as gateway,
        httpx2.Client(trust_env=False, timeout=120.0, verify=PLAIN) as client,
    ):
        headers = {"Authorization": f"Bearer {gateway.token}", "Content-Type": "application/x-ndjson"}
        before = gateway.accounting()["stored"]
        begun = time.perf_counter()
        for body in posts:
            answer = client.post(f"{gateway.url}/feedback", content=body, headers=headers)
            if answer.status_code != 202 or answer.json()["rejected"]:
                raise SystemExit(f"an outcome was refused: {answer.status_code} {answer.text[:500]}")
        posted = time.perf_counter() - begun
        eventually(
            lambda: gateway.accounting()["stored"] - before >= len(ids),
            _PATIENCE_S,
            "the last outcome in the store",
        )
        joined = time.perf_counter() - begun
    return Fed(len(ids), len(ids) / posted, len(ids) / joined)
