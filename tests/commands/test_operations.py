"""status, flags, rollout, review, export: what is asked of the gateway, and what is shown of its answer."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from tests.commands.conftest import Run
from tests.scripted_api import Asked, Reply, ScriptedApi

FLAGS = {
    "model": "credit",
    "revision": 4,
    "production": "v1",
    "candidate": "v2",
    "canary_percent": 5.0,
    "canary_enabled": True,
    "shadow_enabled": False,
    "shadow_versions": ["v3"],
    "disabled_versions": [],
}
ROLLOUT = {
    "id": "r1",
    "candidate": "v2",
    "production": "v1",
    "state": "canary",
    "stages": [5.0, 100.0],
    "stage_index": 0,
    "percent": 5.0,
    "verdict": {"health": "healthy", "reason": "no evidence against it"},
    "requests_in_stage": 120,
    "min_requests": 500,
    "elapsed_s": 12.3,
    "dwell_s": 3600.0,
    "ended_at": None,
    "evidence": {"log_e": 1.25, "threshold": 9.21},
    "events": [{"at": "2026-11-23T00:00:00Z", "kind": "advance", "reason": "enough requests"}],
}


# ---- status


def gateway_with(api: ScriptedApi, ready: int = 200, degraded: list[str] | None = None) -> None:
    state = "draining" if ready != 200 else "degraded" if degraded else "ready"
    api.on("GET /readyz", Reply({"status": state, "degraded": degraded or []}, ready))
    api.on("GET /admin/models", {"models": [{"name": "credit", "flags": FLAGS}]})
    api.on(
        "GET /admin/models/credit/health",
        {
            "versions": [
                {
                    "version": "v2",
                    "requests": 1200,
                    "error_rate": 0.0125,
                    "latency_ms": {"p50": 3.4, "p99": 9},
                }
            ]
        },
    )
    api.on(
        "GET /admin/accounting", {"received": 10, "stored": 9, "pending": 1, "dropped": {}, "quarantined": 0}
    )


def test_status_shows_models_health_and_accounts(run: Run, api: ScriptedApi) -> None:
    gateway_with(api, degraded=["redis"])
    ran = run("status")
    assert ran.status == 0
    for shown in (
        "takes traffic, degraded: redis",
        "credit",
        "v1",
        "v2",
        "5 %",
        "1200",
        "0.0125",
        "received",
    ):
        assert shown in ran.out


def test_status_is_1_when_the_gateway_takes_no_traffic(run: Run, api: ScriptedApi) -> None:
    gateway_with(api, ready=503)
    assert run("status").status == 1
    answer = run("status", "--json")
    assert answer.status == 1
    assert answer.json["ready"] is False
    assert answer.json["accounting"]["received"] == 10


def test_status_says_what_it_can_while_a_part_is_down(run: Run, api: ScriptedApi) -> None:
    gateway_with(api, degraded=["store"])
    api.on("GET /admin/accounting", Reply({"detail": "the store does not answer"}, 503))
    ran = run("status")
    assert ran.status == 0
    assert "credit" in ran.out
    assert "accounting: the store does not answer" in ran.err
    assert run("status", "--json").json["missing"] == {"accounting": "the store does not answer"}


def test_status_says_what_was_dropped_and_why(run: Run, api: ScriptedApi) -> None:
    gateway_with(api)
    accounts = {"received": 10, "stored": 6, "pending": 1, "dropped": {"full": 3}, "quarantined": 0}
    api.on("GET /admin/accounting", accounts)
    lines = dict(line.split(maxsplit=1) for line in run("status").out.splitlines()[:6])
    assert lines["dropped"] == "full 3"
    assert lines["gateway"] == "takes traffic"


def test_a_control_process_that_hangs_does_not_hide_what_readyz_says(
    run: Run, api: ScriptedApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker answers /readyz; everything else is behind the process that hangs, and is not asked one after the other."""
    monkeypatch.setattr("app.commands.status.PATIENCE_S", 0.3)
    over = threading.Event()

    def hang(asked: Asked) -> Reply:
        over.wait(30)
        return Reply({})

    gateway_with(api, degraded=["control"])
    api.on("GET /admin/models", hang)
    ran = run("status")
    over.set()
    assert ran.status == 0
    assert "takes traffic, degraded: control" in ran.out
    assert "models: no answer" in ran.err
    assert "accounting: no answer" in ran.err
    assert [asked.path for asked in api.asked] == ["/readyz", "/admin/models"]


@pytest.mark.parametrize(
    "reply", [Reply({"detail": "Not Found"}, 404), Reply({"status": "UP"}), Reply(b"<html>Welcome</html>")]
)
def test_status_of_another_server_asks_whether_it_is_a_gateway(
    run: Run, api: ScriptedApi, reply: Reply
) -> None:
    api.on("GET /readyz", reply)
    ran = run("status")
    assert ran.status == 1
    assert f"{api.url}/readyz" in ran.err
    assert "is this a model gateway?" in ran.err


# ---- flags


def test_flags_get_shows_every_flag(run: Run, api: ScriptedApi) -> None:
    api.on("GET /admin/models/credit/flags", FLAGS)
    assert run("flags", "get", "credit", "--json").json == FLAGS
    lines = dict(line.split(maxsplit=1) for line in run("flags", "get", "credit").out.splitlines())
    assert lines["canary_percent"] == "5"
    assert lines["canary_enabled"] == "yes"
    assert lines["disabled_versions"] == "-"


def test_flags_set_sends_each_value_with_its_type(run: Run, api: ScriptedApi) -> None:
    api.on("PATCH /admin/models/credit/flags", FLAGS)
    changes = [
        "canary_percent=2.5%",
        "canary_enabled=yes",
        "shadow_enabled=off",
        "shadow_versions=v2, v3",
        "disabled_versions=[]",
        "candidate=null",
        "production=1",
    ]
    ran = run("flags", "set", "credit", *changes, "--reason", "because")
    assert ran.status == 0
    assert api.asked[0].json == {
        "canary_percent": 2.5,
        "canary_enabled": True,
        "shadow_enabled": False,
        "shadow_versions": ["v2", "v3"],
        "disabled_versions": [],
        "candidate": None,
        "production": "1",
        "reason": "because",
    }
    assert "if-match" not in api.asked[0].headers


def test_flags_set_can_insist_on_a_revision(run: Run, api: ScriptedApi) -> None:
    api.on(
        "PATCH /admin/models/credit/flags", Reply({"detail": "revision 3 is not the current one (4)"}, 412)
    )
    ran = run("flags", "set", "credit", "canary_percent=1", "--if-revision", "3")
    assert ran.status == 1
    assert api.asked[0].headers["if-match"] == '"3"'
    assert "revision 3 is not the current one" in ran.err


def test_a_models_name_is_escaped_in_the_path(run: Run, api: ScriptedApi) -> None:
    run("flags", "get", "../a b/c?d")
    assert api.asked[0].path == "/admin/models/..%2Fa%20b%2Fc%3Fd/flags"


# ---- rollout


def test_rollout_start_sends_only_what_was_given(run: Run, api: ScriptedApi) -> None:
    api.on("POST /admin/models/credit/rollouts", Reply(ROLLOUT, 201))
    assert run("rollout", "start", "credit", "v2").status == 0
    assert (
        run("rollout", "start", "credit", "--candidate", "v2", "--stages", "5,50%", "--dwell-s", "1.5").status
        == 0
    )
    assert [asked.json for asked in api.asked] == [
        {"candidate": "v2"},
        {"candidate": "v2", "stages": [5.0, 50.0], "dwell_s": 1.5},
    ]


@pytest.mark.parametrize("action", ["pause", "resume", "advance", "promote", "rollback"])
def test_an_action_goes_to_the_open_rollout_with_its_reason(run: Run, api: ScriptedApi, action: str) -> None:
    ended = {**ROLLOUT, "id": "r0", "ended_at": "2026-11-22T00:00:00Z"}
    api.on("GET /admin/models/credit/rollouts", {"rollouts": [ROLLOUT, ended]})
    api.on(f"POST /admin/models/credit/rollouts/r1/{action}", ROLLOUT)
    api.on(f"POST /admin/models/credit/rollouts/r7/{action}", ROLLOUT)
    assert run("rollout", action, "credit", "--reason", "why not").status == 0
    assert api.asked[-1].json == {"reason": "why not"}
    assert run("rollout", action, "credit", "--id", "r7", "--json").json == ROLLOUT


def test_an_action_without_an_open_rollout_says_so(run: Run, api: ScriptedApi) -> None:
    api.on(
        "GET /admin/models/credit/rollouts", {"rollouts": [{**ROLLOUT, "ended_at": "2026-11-22T00:00:00Z"}]}
    )
    ran = run("rollout", "pause", "credit")
    assert ran.status == 1
    assert "no rollout of credit is open" in ran.err


@pytest.mark.parametrize(("state", "status"), [("promoted", 0), ("rolled_back", 1)])
def test_watch_follows_to_the_end_and_answers_with_it(
    run: Run, api: ScriptedApi, state: str, status: int
) -> None:
    last = {**ROLLOUT, "state": state, "reason": "so it ended"}
    api.on("GET /admin/models/credit/rollouts", {"rollouts": [ROLLOUT]})
    api.on("GET /admin/models/credit/rollouts/r1", ROLLOUT, ROLLOUT, last)
    ran = run("rollout", "watch", "credit", "--every-s", "0.1")
    assert ran.status == status
    for shown in ("v2 against v1", state, "so it ended", "enough requests", "log e 1.25 of 9.21"):
        assert shown in ran.out
    api.on("GET /admin/models/credit/rollouts/r1", ROLLOUT, ROLLOUT, last)
    as_json = run("rollout", "watch", "credit", "--every-s", "0.1", "--json")
    assert as_json.status == status
    assert [json.loads(line)["state"] for line in as_json.out.splitlines()] == ["canary", state]


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["shown", "json"])
def test_a_control_process_that_restarts_does_not_end_the_watch(
    run: Run, api: ScriptedApi, form: list[str]
) -> None:
    away = Reply({"detail": "the control process restarts", "code": "control_unavailable"}, 503)
    api.on("GET /admin/models/credit/rollouts", {"rollouts": [ROLLOUT]})
    api.on(
        "GET /admin/models/credit/rollouts/r1", away, ROLLOUT, away, away, {**ROLLOUT, "state": "promoted"}
    )
    ran = run("rollout", "watch", "credit", "--every-s", "0.1", *form)
    assert ran.status == 0
    assert "promoted" in ran.out
    assert ran.err.count("the control process restarts; trying again for up to 60 s") == 2


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["shown", "json"])
def test_a_gateway_that_stays_away_ends_the_watch_with_a_word(
    run: Run, api: ScriptedApi, form: list[str]
) -> None:
    api.on("GET /admin/models/credit/rollouts/r1", ROLLOUT, Reply({"detail": "away"}, 503))
    ran = run("rollout", "watch", "credit", "--id", "r1", "--every-s", "0.1", "--patience-s", "0.2", *form)
    assert ran.status == 1
    assert "away (the rollout goes on, unwatched)" in ran.err


# ---- review


def test_review_lists_and_labels(run: Run, api: ScriptedApi) -> None:
    item = {
        "prediction_id": "p1",
        "model_version": "v1",
        "strategy": "margin",
        "score": 0.5,
        "features": {"a": 1},
    }
    notes = {"margin": "0 of 9 candidates are ranked"}
    api.on("GET /admin/models/credit/review", {"items": [item], "notes": notes})
    api.on("POST /admin/models/credit/review/p1", {"accepted": 1})
    ran = run("review", "credit", "--strategy", "margin", "--limit", "5")
    assert "p1" in ran.out
    assert "a 1" in ran.out
    assert ran.err == "margin: 0 of 9 candidates are ranked\n"
    assert api.asked[0].query == {"strategy": ["margin"], "limit": ["5"]}
    labels = ["p1=1", "p1=0.5", "p1=true", "p1=spam", "p1=NaN", "p1=null", 'p1="7"']
    assert run("review", "credit", *(part for label in labels for part in ("--label", label))).status == 0
    assert [asked.json["label"] for asked in api.asked[1:]] == [1, 0.5, True, "spam", "NaN", "null", "7"]


# ---- export


def test_a_training_set_arrives_whole(run: Run, api: ScriptedApi) -> None:
    rows = b'{"a": 1, "sample_weight": 1.0}\n' * 5000
    as_of = "2026-03-05T00:00:00+00:00"
    api.on("GET /admin/models/credit/training-set", Reply(rows, headers={"X-As-Of": as_of}))
    ran = run(
        "export", "training-set", "credit", "-o", "set.jsonl", "--half-life-days", "47", "--flat-days", "7"
    )
    assert ran.status == 0
    assert Path("set.jsonl").read_bytes() == rows
    assert ran.err == f"set.jsonl: {len(rows)} bytes, as of {as_of}\n"
    assert api.asked[0].query == {"format": ["ndjson"], "half_life_days": ["47.0"], "flat_days": ["7.0"]}
    assert run("export", "training-set", "credit", "-o", "x.parquet", "--json").json == {
        "file": "x.parquet",
        "format": "parquet",
        "bytes": len(rows),
        "as_of": as_of,
    }
    run("export", "training-set", "credit", "-o", "again.csv", "--as-of", as_of, "--version", "v2")
    assert api.asked[2].query == {"format": ["csv"], "as_of": [as_of], "version": ["v2"]}


def test_a_training_set_that_breaks_off_leaves_no_file(run: Run, api: ScriptedApi) -> None:
    api.on("GET /admin/models/credit/training-set", Reply(b"x" * 500_000, cut_after=100_000))
    Path("set.csv").write_text("the one before")
    ran = run("export", "training-set", "credit", "-o", "set.csv")
    assert ran.status == 1
    assert "no answer" in ran.err
    assert [path.name for path in Path().iterdir()] == ["set.csv"]
    assert Path("set.csv").read_text() == "the one before"


def test_a_refused_training_set_says_why(run: Run, api: ScriptedApi) -> None:
    api.on("GET /admin/models/credit/training-set", Reply({"detail": "there is no model 'credit'"}, 404))
    ran = run("export", "training-set", "credit", "-o", "set.csv")
    assert (ran.status, ran.err) == (1, "there is no model 'credit'\n")
    assert not Path("set.csv").exists()
