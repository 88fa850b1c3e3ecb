"""Erasure by routing key through a whole gateway: plain or hashed, what was known of one user is gone, and the other's is not."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.client import load, post
from tests.misbehaving import MisbehavingUpstream
from tests.ports import free_port
from tests.system import eventually, running_gateway

LABEL = "a label that nobody else has"
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


def journal(directory: Path) -> bytes:
    """All bytes of the journal's segments."""
    found = b""
    for path in (directory / "data" / "journal").rglob("*"):
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            found += path.read_bytes()
    return found


async def test_what_is_kept_of_a_routing_key_is_erased_whether_it_is_stored_plain_or_hashed(
    tmp_path: Path, upstream: MisbehavingUpstream
) -> None:
    models = {
        "plain": model("plain", upstream),
        "hashed": model("hashed", upstream, privacy={"hash": ["x-user-id"]}),
    }
    with running_gateway(tmp_path, models, port=free_port()) as gateway:
        for name in models:
            gateway.set_flags(name, shadow_versions=["v2"], shadow_enabled=True)
        body = b'{"features": {"income": 41.5}, "prediction": 1}'
        requests = [post(f"/{name}/x", body, X_User_Id=user) for name in models for user in (USER, OTHER)]
        answers = await load(gateway.port, requests, connections=1)
        mine, others, mine_hashed, others_hashed = [answer.headers["x-prediction-id"] for answer in answers]
        outcomes = [
            {"prediction_id": mine, "ground_truth": LABEL},
            {"prediction_id": mine_hashed, "ground_truth": LABEL},
            {"prediction_id": others, "ground_truth": "another label"},
        ]
        assert gateway.admin("POST", "/feedback", {"outcomes": outcomes}).json()["accepted"] == 3
        await asyncio.to_thread(gateway.settled, received=4 + 4 + 3)

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
            record = gateway.get(f"/predictions/{gone}")
            named = (
                "features",
                "prediction",
                "confidence",
                "ground_truth",
                "routing_key",
                "request_id",
                "bucket",
            )
            assert [record[name] for name in named] == [None] * len(named)
            assert record["outcomes"] == []
            assert [shadow["prediction"] for shadow in record["shadow"]] == [None]
        assert gateway.get(f"/predictions/{others}")["ground_truth"] == "another label"
        for kept in (others, others_hashed):
            assert features(kept) == {"income": 41.5}
        audit = gateway.get("/admin/audit?limit=100")["entries"]
        entries = [entry for entry in audit if entry["action"] == "privacy.erase"]
        assert sorted((e["model"], e["actor"], e["origin"], e["reason"]) for e in entries) == [
            (name, "admin-token", "127.0.0.1", "asked for") for name in ("hashed", "plain")
        ]
        assert USER not in str(audit)
        assert USER.encode() in journal(tmp_path)  # stored, but its file is not full yet
        gateway.process.send_signal(signal.SIGHUP)
        await asyncio.to_thread(
            eventually, lambda: USER.encode() not in journal(tmp_path), 30.0, "a journal without the key"
        )
        again = gateway.admin("POST", "/admin/models/plain/erasures", {"routing_key": USER})
        assert again.json()["erased"] == 0
        assert gateway.admin("POST", "/admin/models/none/erasures", {"routing_key": USER}).status_code == 404
        assert gateway.admin("POST", "/admin/models/plain/erasures", {}).status_code == 422
    log = (tmp_path / "gateway.log").read_text()
    assert USER not in log
    assert LABEL not in log


async def test_a_key_beyond_ascii_is_found_as_its_header_field_was_kept(
    tmp_path: Path, upstream: MisbehavingUpstream
) -> None:
    models = {
        "plain": model("plain", upstream),
        "hashed": model("hashed", upstream, privacy={"hash": ["X-User-Id"]}),
        "query": model("query", upstream, routing_key={"query": "user"}),
    }
    key = "Jürgen Müller"
    with running_gateway(tmp_path, models, port=free_port()) as gateway:
        field = key.encode().decode("latin-1")  # what a client sends that writes its fields in UTF-8
        requests = [post(f"/{name}/x?user={quote(key)}", b"{}", X_User_Id=field) for name in models]
        for answer in await load(gateway.port, requests, connections=1):
            assert answer.status == 200
        await asyncio.to_thread(gateway.settled)
        for name in models:
            reply = gateway.admin("POST", f"/admin/models/{name}/erasures", {"routing_key": key})
            assert reply.json() == {"erased": 1, "pending": 0}, name
