"""The OpenFeature SDK with its OFREP provider: it sees what the router does, for ten thousand keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.domain.routing import canary_share
from tests.client import load, post
from tests.interop.processes import said_by
from tests.interop.rows import predictions
from tests.misbehaving import MisbehavingUpstream
from tests.ports import free_port
from tests.system import running_gateway

pytestmark = pytest.mark.interop

KEYS = 10_000
PERCENT = 37.0


async def test_ten_thousand_keys_get_the_routers_version_and_bucket(tmp_path: Path) -> None:
    with MisbehavingUpstream() as upstream:
        models = {
            "credit": {
                "match": {"path_prefix": "/models/credit"},
                "routing_key": {"header": "X-User-Id"},
                "production": "v1",
                "versions": {name: {"url": f"{upstream.url}/{name}"} for name in ("v1", "v2")},
                "canary": {"control": {"sample": 0.0}},
            }
        }
        with running_gateway(tmp_path, models, port=free_port()) as gateway:
            gateway.set_flags("credit", candidate="v2", canary_percent=PERCENT, canary_enabled=True)
            said = said_by("openfeature_client.py", gateway.url, gateway.token, "credit", KEYS, timeout_s=600)
            requests = [post("/models/credit/ok", X_User_Id=f"user-{number}") for number in range(KEYS)]
            answers = await load(gateway.port, requests, connections=8)
            assert {answer.status for answer in answers} == {200}
            routed = {
                row["routing_key"]: [row["model_version"], row["bucket"], "SPLIT"]
                for row in predictions(gateway, "credit")
            }
    assert len(routed) == KEYS
    assert {f"user-{number}": found for number, found in enumerate(said["found"])} == routed
    canary = sum(version == "v2" for version, _, _ in said["found"]) / KEYS
    share = canary_share(PERCENT)
    assert abs(canary - share) < 5 * (share * (1 - share) / KEYS) ** 0.5  # five standard errors
    assert (said["percent"], said["shadow"]) == (PERCENT, False)
    assert said["missing"] == ["none", "TARGETING_KEY_MISSING"]
    assert said["unknown"] == ["none", "FLAG_NOT_FOUND"]
