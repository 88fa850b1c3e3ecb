"""replay: a recorded decision is decided again from its recorded inputs."""

from __future__ import annotations

from typing import Any

import pytest

from app.commands.replay import decide_again
from app.domain.routing import assign
from tests.commands.conftest import Run
from tests.scripted_api import ScriptedApi

ID = "0193a1b2-0000-7000-8000-000000000001"


def recorded(**changes: Any) -> dict[str, Any]:
    """A record as the gateway makes it: by the same function that assigned the request."""
    key = changes.get("routing_key", "user-7")
    made = assign(
        production="v1",
        candidate="v2",
        canary_percent=50.0,
        canary_enabled=True,
        disabled_versions=(),
        key=key or ID,
        salt="s",
    )
    record = {
        "prediction_id": ID,
        "model": "credit",
        "model_version": made.version,
        "role": made.role,
        "bucket": made.bucket,
        "reason": made.reason,
        "canary_percent": 50.0,
        "flags_revision": 3,
        "rollout_id": None,
        "routing_key": key,
        "forced": False,
    }
    return {**record, **changes}


@pytest.mark.parametrize("key", ["user-7", "user-8", "user-9", "Zoë", None])
def test_a_decision_comes_out_as_recorded(key: str | None) -> None:
    result = decide_again(recorded(routing_key=key), "s")
    assert result.reproduced is True
    assert result.bucket == result.recorded_bucket


def test_another_key_or_role_is_found_out() -> None:
    assert decide_again(recorded(), "another salt").reproduced is False
    other = {"canary": "production", "production": "canary"}[recorded()["role"]]
    result = decide_again(recorded(role=other), "s")
    assert result.reproduced is False
    assert "recorded was" in result.why


def test_of_an_erased_record_nothing_can_be_said() -> None:
    result = decide_again(recorded(reason="erased", bucket=None, routing_key=None), None)
    assert result.reproduced is None
    assert "erased" in result.why


def test_a_fallback_was_assigned_as_a_canary() -> None:
    record = recorded(bucket=10, role="fallback")
    assert decide_again(record, None).why.startswith("bucket 10 at 50 % is canary, as recorded")


def test_without_a_bucket_only_production_can_have_answered() -> None:
    without = {"bucket": -1, "reason": "no candidate"}
    assert decide_again(recorded(**without, role="production"), None).reproduced is True
    assert decide_again(recorded(**{**without, "bucket": None}, role="production"), None).reproduced is True
    assert decide_again(recorded(**without, role="canary"), None).reproduced is False


def test_a_forced_request_was_decided_by_its_caller() -> None:
    assert decide_again(recorded(forced=True, bucket=-1, role="canary"), None).reproduced is True


@pytest.mark.parametrize(
    "where",
    [
        {"GET /admin/models/credit/flags": {"revision": 3, "salt": "s"}},
        {
            "GET /admin/models/credit/flags": {"revision": 9, "salt": "x"},
            "GET /admin/audit": {
                "entries": [{"after": {"revision": 4, "salt": "x"}}, {"after": {"revision": 3, "salt": "s"}}]
            },
        },
        {"GET /admin/models/credit/rollouts/r1": {"id": "r1", "salt": "s"}},
    ],
    ids=["current flags", "audit log", "rollout"],
)
def test_the_salt_is_found_where_it_is_kept(run: Run, api: ScriptedApi, where: dict[str, Any]) -> None:
    rollout = "r1" if any("rollouts" in path for path in where) else None
    api.on(f"GET /predictions/{ID}", recorded(rollout_id=rollout))
    for path, answer in where.items():
        api.on(path, answer)
    ran = run("replay", ID, "--json")
    assert ran.status == 0, ran
    assert ran.json["reproduced"] is True
    assert ran.json["salt"] == "s"


def test_a_salt_that_is_no_longer_known_is_said(run: Run, api: ScriptedApi) -> None:
    api.on(f"GET /predictions/{ID}", recorded())
    api.on("GET /admin/models/credit/flags", {"revision": 9, "salt": "x"})
    api.on("GET /admin/audit", {"entries": []})
    ran = run("replay", ID)
    assert ran.status == 1
    assert "its salt is no longer known" in ran.out


def test_an_unknown_prediction_is_1(run: Run) -> None:
    assert run("replay", ID).status == 1
