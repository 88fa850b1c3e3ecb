"""The demo's operator: the gateway's own admin API and metrics, read and acted upon over HTTP like any user
would.

Every figure that the story tells comes through here, so this must never compute one by itself.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import yaml
from prometheus_client.parser import text_string_to_metric_families

from app.demo.model_server import Fault
from app.demo.traffic import Target

MODEL = "biopsy"
Answer = dict[str, Any]


def write_configuration(
    directory: Path, port: int, upstreams: dict[str, str], dwell_s: float, horizon_s: float, baseline: float
) -> Path:
    """A configuration like any user's, with the waiting times of a real deployment shortened to seconds."""
    production, *_ = upstreams
    settings = {
        "server": {"host": "127.0.0.1", "port": port},
        "data_dir": str(directory),
        "store": {"url": f"sqlite:///{directory / 'gateway.db'}"},
        "models": {
            MODEL: {
                "match": {"path_prefix": f"/models/{MODEL}", "strip": True},
                "protocol": "json",
                "extract": {
                    "features": "$.features",
                    "prediction": "$.prediction",
                    "confidence": "$.confidence",
                },
                "task": "binary",
                "routing_key": {"header": "X-User-Id"},
                "production": production,
                "versions": {name: {"url": url, "timeout_s": 2.0} for name, url in upstreams.items()},
                "canary": {
                    "stages": [5, 10, 25, 50, 100],
                    "dwell_s": dwell_s,
                    "min_requests": 20,
                    "watch_s": dwell_s,
                },
                "labels": {"horizon_s": horizon_s, "min_coverage": 0.8},
                "retraining": {"metric": "accuracy", "baseline": round(baseline, 4)},
            }
        },
    }
    path = directory / "gateway.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


def nothing_degraded(readiness: httpx2.Response) -> bool:
    """Whether an answer of /readyz says that all parts are up: traffic is taken before that."""
    return not readiness.json().get("degraded")


class Refused(Exception):
    """The gateway, or a model server, refused a call; the message says which and why."""


class Gateway:
    """One model's admin calls. Raises `Refused`, and httpx2.TransportError when there is nobody to answer."""

    def __init__(self, url: str, token: str, upstreams: dict[str, str]) -> None:
        self.url = url
        self._upstreams = upstreams
        self.target = Target(f"{url}/models/{MODEL}/predict", f"{url}/feedback", token)
        self._client = httpx2.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=15.0,
            trust_env=False,
        )

    async def __aenter__(self) -> Gateway:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def set_shadow(self, versions: list[str], reason: str) -> Answer:
        return await self._send("PATCH", "/flags", {"shadow_versions": versions, "reason": reason})

    async def register(self, version: str, url: str, metadata: dict[str, str]) -> Answer:
        return await self._send("PUT", f"/versions/{quote(version)}", {"url": url, "metadata": metadata})

    async def start_rollout(self, candidate: str) -> Answer | None:
        """The new rollout; None while the one before is still watched."""
        before = (await self._get("/rollouts", limit="1"))["rollouts"]
        if before and before[0]["open"]:
            return None
        return await self._send("POST", "/rollouts", {"candidate": candidate, "reason": "demo"})

    async def rollout(self, identifier: str) -> Answer:
        return await self._get(f"/rollouts/{identifier}")

    async def shadow(self, version: str) -> Answer:
        return await self._get("/shadow", version=version)

    async def performance(self) -> Answer:
        return await self._get("/performance")

    async def set_baseline(self, version: str, accuracy: float) -> Answer:
        """Makes what the version has seen so far the reference for drift."""
        return await self._send("POST", "/baseline", {"version": version, "metrics": {"accuracy": accuracy}})

    async def drift(self) -> Answer:
        return await self._get("/drift")

    async def decide_retraining(self) -> Answer:
        return await self._send("POST", "/retraining", {})

    async def accounting(self) -> Answer:
        return self._json(await self._client.get("/admin/accounting"))

    async def training_set(self, flat_days: float, half_life_days: float) -> str:
        """NDJSON rows with `sample_weight`."""
        reply = await self._client.get(
            f"/admin/models/{MODEL}/training-set",
            params={"format": "ndjson", "flat_days": str(flat_days), "half_life_days": str(half_life_days)},
        )
        _check(reply)
        return reply.text

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry these labels, from /metrics."""
        reply = await self._client.get("/metrics")
        _check(reply)
        return sum(
            sample.value
            for family in text_string_to_metric_families(reply.text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    async def break_version(self, version: str, fault: Fault) -> None:
        """Tells a version's own server to misbehave: nobody asks the gateway to look the other way."""
        # Another client: a model server has no business with the operator's token.
        async with httpx2.AsyncClient(trust_env=False) as client:
            reply = await client.post(f"{self._upstreams[version]}/_fault", json=dataclasses.asdict(fault))
            _check(reply)

    async def _get(self, path: str, **parameters: str) -> Answer:
        return self._json(await self._client.get(f"/admin/models/{MODEL}{path}", params=parameters))

    async def _send(self, method: str, path: str, body: Answer) -> Answer:
        return self._json(await self._client.request(method, f"/admin/models/{MODEL}{path}", json=body))

    @staticmethod
    def _json(reply: httpx2.Response) -> Answer:
        _check(reply)
        answer: Answer = reply.json()
        return answer


def _check(reply: httpx2.Response) -> None:
    if reply.is_error:
        request = reply.request
        raise Refused(f"{request.method} {request.url.path} answered {reply.status_code}: {reply.text[:500]}")
