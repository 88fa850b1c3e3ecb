"""Erasure by routing key through a whole gateway: plain or hashed, what was known of one user is gone, and the other's is not."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from tests.client import load, post
from tests.misbehaving import MisbehavingUpstream
from tests.ports import free_port
from tests.system import running_gateway

USER, OTHER = "erika.mustermann@example.org", "other-user"


def model(name: str, upstream: MisbehavingUpstream, **more: Any) -> dict[str, Any]:
    return {
        "match": {"path_prefix": f"/{name}"},
        "extract": {"features": "$.features", "prediction": "$.prediction"},
        "routing_key": {"header": "X-User-Id"},
        "production": "v1",
        "versions": {"v1": {"url": upstream.url}, "v2": {"url": upstream.url}},
        **more,
    }


async def test_what_is_kept_of_a_routing_key_is_erased_whether_it_is_stored_plain_or_hashed(
    tmp_path: Path, upstream: MisbehavingUpstream
) -> None:
    models = {
        "plain": model("plain", upstream),
        "hashed": model("hashed", upstream, privacy={"hash": ["X-User-Id"]}),
    }
    with running_gateway(tmp_path, models, port=free_port()) as gateway:
        for name in models:  # only a routed request has a key
            gateway.set_flags(name, candidate="v2", canary_percent=50, canary_enabled=True)
        body = b'{"features": {"income": 41.5}, "prediction": 1}'
        requests = [post(f"/{name}/x", body, X_User_Id=user) for name in models for user in (USER, OTHER)]
        answers = await load(gateway.port, requests, connections=1)
        mine, others, mine_hashed, others_hashed = [answer.headers["x-prediction-id"] for answer in answers]
        await asyncio.to_thread(gateway.settled)

        def features(prediction_id: str) -> object:
            return gateway.get(f"/predictions/{prediction_id}")["features"]

        assert features(mine) == {"income": 41.5}
        assert gateway.get(f"/predictions/{mine}")["routing_key"] == USER
        assert gateway.get(f"/predictions/{mine_hashed}")["routing_key"] not in (USER, None)
        for name in models:
            reply = gateway.admin(
                "POST", f"/admin/models/{name}/erasures", {"routing_key": USER, "reason": "asked for"}
            )
            assert (reply.status_code, reply.json()) == (200, {"erased": 1, "pending": 0})
        for gone in (mine, mine_hashed):
            assert features(gone) is None
            assert gateway.get(f"/predictions/{gone}")["routing_key"] is None
        for kept in (others, others_hashed):
            assert features(kept) == {"income": 41.5}
        audit = gateway.get("/admin/audit?limit=100")["entries"]
        entries = [entry for entry in audit if entry["action"] == "privacy.erase"]
        assert sorted((e["model"], e["actor"], e["origin"], e["reason"]) for e in entries) == [
            (name, "admin-token", "127.0.0.1", "asked for") for name in ("hashed", "plain")
        ]
        assert USER not in str(audit)
        again = gateway.admin("POST", "/admin/models/plain/erasures", {"routing_key": USER})
        assert again.json()["erased"] == 0
        assert gateway.admin("POST", "/admin/models/none/erasures", {"routing_key": USER}).status_code == 404
        assert gateway.admin("POST", "/admin/models/plain/erasures", {}).status_code == 422
    log = (tmp_path / "gateway.log").read_text()
    assert USER not in log
