"""Flags, versions, rollouts, health and audit over HTTP; every error is a problem."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from app.api.schemas import HealthView
from app.domain.model import Retraining, Version
from tests.control_parts import START, Control, control, model, prediction, store_rows

FLAGS = "/admin/models/credit/flags"
VERSIONS = "/admin/models/credit/versions"
ROLLOUTS = "/admin/models/credit/rollouts"


async def test_flags_are_read_and_changed_with_etag_and_if_match(tmp_path: Path) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        read = await client.get(FLAGS)
        assert (read.headers["etag"], read.json()["revision"], read.json()["durable"]) == ('"0"', 0, True)
        patch = {"candidate": "v2", "canary_percent": 5, "canary_enabled": True, "reason": "try"}
        changed = await client.patch(FLAGS, json=patch, headers={"If-Match": '"0"'})
        assert (changed.status_code, changed.headers["etag"], changed.json()["canary_percent"]) == (
            200,
            '"1"',
            5.0,
        )
        late = await client.patch(FLAGS, json={"canary_percent": 10}, headers={"If-Match": '"0"'})
        assert (late.status_code, late.json()["code"], late.json()["current"]) == (412, "stale_revision", 1)
        assert (
            await client.patch(FLAGS, json={"canary_percent": 10}, headers={"If-Match": "*"})
        ).status_code == 200
        assert (await client.patch(FLAGS, json={"candidate": None})).json()["candidate"] is None
        assert (await client.patch(FLAGS, json={}, headers={"If-Match": "what?"})).status_code == 422


async def test_no_credential_of_a_url_is_shown_to_whoever_may_read(tmp_path: Path) -> None:
    """A chat's webhook has its credential in the path, others in the query."""
    hook = "https://user:hunter2@hooks.example.org:8443/services/hunter2?token=hunter2#hunter2"
    versions = (Version("v1", ("http://user:hunter2@10.0.0.1:9001/base",)),)
    hooked = model(versions=versions, retraining=Retraining(webhook=hook))
    async with control(tmp_path, hooked) as parts, parts.client() as client:
        for path in ("/admin/models", "/admin/models/credit"):
            reply = await client.get(path)
            assert "hunter2" not in reply.text
            assert '"webhook":"https://hooks.example.org:8443"' in reply.text
            assert '"urls":["http://10.0.0.1:9001/base"]' in reply.text


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"candidate": "v9", "canary_percent": 7}', "v9"),
        (b'{"canary_percent": 101}', "canary_percent"),
        (
            b'{"canary_percent": 50, "canary_enabled": true}',
            "canary_percent: there is no candidate; name one",
        ),
        (b'{"canary_percent": -1}', "canary_percent"),
        (b'{"canary_percent": "5"}', "canary_percent"),
        (b'{"canary_percent": NaN}', "JSON"),
        (b'{"canary_percent": 1e999}', "JSON"),
        (b'{"canary_percent": 1, "canary_percent": 2}', "twice"),
        (b'{"canary_enabled": 1}', "canary_enabled"),
        (b'{"production": null}', "production"),
        (b'{"revision": 5}', "revision"),
        (b'{"rollout_id": "x"}', "rollout_id"),
        (b'{"disabled_versions": ["v1"]}', "v1"),
        (b'{"shadow_versions": "v2"}', "shadow_versions"),
        (b'{"shadow_versions": ["v2", 3]}', "shadow_versions"),
        (b'{"reason": "a\\u0000b"}', "reason"),
        (b"[]", "dictionary"),
        (b"{", "JSON"),
        (b"[" * 100_000, "nested"),
        (b'{"canary_percent": %s}' % (b"9" * 5000), "JSON"),
        (b"\xef\xbb\xbf{}", "JSON"),
        (b'{"production": "\xff"}', "UTF-8"),
    ],
    ids=lambda value: value[:40].decode("latin-1") if isinstance(value, bytes) else None,
)
async def test_what_cannot_be_set_is_refused_with_the_reason(tmp_path: Path, body: bytes, said: str) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        reply = await client.patch(FLAGS, content=body, headers={"Content-Type": "application/json"})
        assert reply.status_code == 422
        problem = reply.json()
        assert reply.headers["content-type"] == "application/problem+json"
        assert set(problem) >= {"type", "title", "status", "code", "detail"}
        assert said in problem["detail"]
        assert parts.flags.current("credit").revision == 0


async def test_a_body_without_json_or_too_large_is_refused(tmp_path: Path) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        assert (
            await client.patch(FLAGS, content=b"{}", headers={"Content-Type": "text/plain"})
        ).status_code == 422
        large = b'{"reason": "' + b"x" * 2_000_000 + b'"}'
        assert (
            await client.patch(FLAGS, content=large, headers={"Content-Type": "application/json"})
        ).status_code == 413


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/admin/models/nobody", 404, "not_found"),
        ("GET", "/admin/models/nobody/flags", 404, "not_found"),
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/admin/models/%00", 404, "not_found"),
        ("POST", "/admin/models", 405, "method_not_allowed"),
        ("GET", "/admin/audit?limit=0", 422, "invalid"),
        ("GET", "/admin/audit?limit=x", 422, "invalid"),
        ("GET", "/admin/audit?model=nobody", 404, "not_found"),
        ("GET", "/admin/models/credit/performance?since=yesterday", 422, "invalid"),
        ("GET", "/admin/models/credit/performance?version=v9", 404, "not_found"),
        ("GET", "/admin/models/credit/shadow", 422, "invalid"),
        ("GET", "/admin/models/credit/baseline", 404, "not_found"),
        ("GET", "/admin/models/credit/review?strategy=best", 422, "invalid"),
        ("GET", "/admin/models/credit/training-set?format=xlsx", 422, "invalid"),
        ("GET", "/admin/models/credit/training-set?half_life_days=0", 422, "invalid"),
        ("GET", "/admin/models/credit/training-set?half_life_days=nan", 422, "invalid"),
        ("POST", "/admin/models/credit/rollouts/x/explode", 422, "invalid"),
        ("POST", "/admin/models/credit/rollouts/x/pause", 404, "not_found"),
    ],
)
async def test_every_error_is_a_problem(
    tmp_path: Path, method: str, path: str, status: int, code: str
) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        reply = await client.request(method, path)
        assert (reply.status_code, reply.json()["code"]) == (status, code), reply.text
        assert reply.headers["content-type"] == "application/problem+json"
        if status == 405:
            assert reply.headers["allow"] == "GET"


async def test_a_wrong_method_is_told_all_the_right_ones(tmp_path: Path) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        allowed = {}
        for path in ("flags", "rollouts", "versions/v1", "baseline"):
            reply = await client.request("OPTIONS", f"/admin/models/credit/{path}")
            assert reply.status_code == 405
            allowed[path] = reply.headers["allow"]
        assert allowed == {
            "flags": "GET, PATCH",
            "rollouts": "GET, POST",
            "versions/v1": "DELETE, PUT",
            "baseline": "GET, POST",
        }


async def test_an_unexpected_error_is_a_problem_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        monkeypatch.setattr(parts.registry, "models", lambda: 1 / 0)
        reply = await client.get("/admin/models")
        assert (reply.status_code, reply.json()["code"]) == (500, "internal")
        assert "division" not in reply.text


async def test_the_store_down_is_said_with_503_and_a_kill_still_works(tmp_path: Path) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        await client.patch(FLAGS, json={"candidate": "v2", "canary_percent": 5, "canary_enabled": True})
        parts.store.down = True
        down = await client.get("/admin/audit")
        assert (down.status_code, down.json()["code"], down.headers["retry-after"]) == (
            503,
            "unavailable",
            "1",
        )
        killed = await client.patch(FLAGS, json={"canary_enabled": False})
        assert (killed.status_code, killed.json()["durable"]) == (200, False)
        assert (await client.get("/admin/models")).status_code == 200


async def test_models_show_configuration_versions_flags_rollout_and_health(tmp_path: Path) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        [shown] = (await client.get("/admin/models")).json()["models"]
        assert shown["name"] == "credit"
        assert shown["configuration"]["task"] == "binary"
        assert [(one["name"], one["defined_in"]) for one in shown["versions"]] == [
            ("v1", "file"),
            ("v2", "file"),
            ("v3", "file"),
        ]
        assert shown["flags"]["production"] == "v1"
        assert (shown["rollout"], shown["health"]) == (None, [])
        assert (await client.get("/admin/models/credit")).json() == shown


async def test_passwords_in_upstream_urls_are_not_shown(tmp_path: Path) -> None:
    secret = model(versions=(Version("v1", ("http://user:hunter2@127.0.0.1:9001",)),))
    async with control(tmp_path, secret) as parts, parts.client() as client:
        assert "hunter2" not in (await client.get("/admin/models")).text


async def test_a_version_is_registered_changed_and_retired(tmp_path: Path) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        body = {
            "url": ["http://10.0.0.1:9000", "http://10.0.0.2:9000"],
            "metadata": {"f1": "0.91"},
            "reason": "new",
        }
        made = await client.put(f"{VERSIONS}/v4", json=body)
        assert (made.status_code, made.json()["defined_in"], made.json()["metadata"]) == (
            201,
            "api",
            {"f1": "0.91"},
        )
        assert (await client.put(f"{VERSIONS}/v4", json=body)).status_code == 200
        assert (await client.put(f"{VERSIONS}/v4", json={"url": "http://10.0.0.3"})).status_code == 200
        await client.patch(FLAGS, json={"candidate": "v4"})
        for reply in (await client.put(f"{VERSIONS}/v4", json=body), await client.delete(f"{VERSIONS}/v4")):
            assert (reply.status_code, reply.json()["code"]) == (409, "conflict")
            assert "candidate" in reply.json()["detail"]
        await client.patch(FLAGS, json={"candidate": None})
        assert (await client.delete(f"{VERSIONS}/v4", params={"reason": "old"})).status_code == 204
        assert (await client.delete(f"{VERSIONS}/v4")).status_code == 404
        assert (await client.delete(f"{VERSIONS}/v1")).status_code == 409
        actions = [
            entry["action"]
            for entry in (await client.get("/admin/audit", params={"model": "credit"})).json()["entries"]
        ]
        assert actions == ["version.retire", "flags.set", "flags.set", "version.register", "version.register"]


METADATA = "169.254.169.254"  # of AWS, Azure and Google; below in the spellings that resolvers and IPv6 know
REFUSED_HOSTS = (
    METADATA, "[fe80::1]", f"[::ffff:{METADATA}]", "[64:ff9b::a9fe:a9fe]", "[2002:a9fe:a9fe::]", "2852039166", "0xa9fea9fe",
    "169.254.43518", "a9fe.1.0xa9fe", "[fd00:ec2::254]", "100.100.100.200", "0.0.0.0", "[::]", "224.0.0.1", "255.255.255.255",
    "user:pw@10.0.0.1", "10.0.0.1:0", "10.0.0.1:99999", "10.0.0.1/?x=1", "10.0.0.1/#x", "10.0.0.1/\r\nX: y", "ex ample", "-a",
    "", "a" * 3000,
)  # fmt: skip
REFUSED_URLS = (
    "file:///etc/passwd",
    "gopher://10.0.0.1/",
    "ftp://10.0.0.1/",
    "//10.0.0.1",
    "10.0.0.1:9000",
    "",
)


@pytest.mark.parametrize(
    "url", [*(f"http://{host}/" for host in REFUSED_HOSTS), *REFUSED_URLS], ids=lambda url: repr(url)[:40]
)
async def test_an_address_that_no_model_server_has_is_not_registered(tmp_path: Path, url: str) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        reply = await client.put(f"{VERSIONS}/v4", json={"url": url})
        assert reply.status_code == 422, reply.text
        assert "url" in reply.json()["detail"]


@pytest.mark.parametrize("name", ["a b", "a/b", "é", "x" * 65, "a\nb", "%00"])
async def test_a_version_name_that_cannot_be_a_label_is_refused(tmp_path: Path, name: str) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        reply = await client.put(f"{VERSIONS}/{quote(name, safe='')}", json={"url": "http://10.0.0.1"})
        assert reply.status_code in (404, 422)
        assert len(parts.registry.model("credit").versions) == 3


async def rollout(parts: Control, client: Any, **body: Any) -> Any:
    await parts.controller.look()
    return await client.post(
        ROLLOUTS, json={"candidate": "v2", "stages": [5, 100], "dwell_s": 0, "min_requests": 10, **body}
    )


async def test_a_rollout_is_started_watched_and_acted_on(tmp_path: Path) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        started = await rollout(parts, client, reason="go")
        assert started.status_code == 201
        path = started.headers["location"]
        assert (await rollout(parts, client)).status_code == 409
        paused = await client.post(f"{path}/pause", json={"reason": "lunch"})
        assert (paused.status_code, paused.json()["state"]) == (200, "paused")
        assert (await client.post(f"{path}/pause")).status_code == 409
        assert (await client.post(f"{path}/resume")).json()["state"] == "canary"
        shown = (await client.get(path)).json()
        assert shown["verdict"]["health"] == "no_data"
        assert {"log_e", "threshold"} <= set(shown["evidence"])
        assert [event["kind"] for event in shown["events"]] == ["advance", "pause", "resume"]
        assert shown["events"][1]["reason"] == "lunch"
        assert (await client.get("/admin/models/credit")).json()["rollout"]["id"] == shown["id"]
        ended = await client.post(f"{path}/rollback", json={"reason": "enough"})
        assert ended.json()["state"] == "rolled_back"
        assert [one["id"] for one in (await client.get(ROLLOUTS)).json()["rollouts"]] == [shown["id"]]
        assert (await client.get("/admin/models/credit")).json()["rollout"] is None


@pytest.mark.parametrize(
    "body",
    [
        {"candidate": "v9"},
        {"candidate": "v1"},
        {"stages": []},
        {"stages": [5, 5]},
        {"stages": [0]},
        {"stages": [101]},
        {"dwell_s": -1},
        {"min_requests": 1.5},
        {"unknown": 1},
        {"candidate": None},
    ],
)
async def test_a_rollout_that_cannot_be_is_refused(tmp_path: Path, body: dict[str, Any]) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        assert (await rollout(parts, client, **body)).status_code == 422
        assert parts.controller.open_rollout("credit") is None


async def test_health_shows_each_version_with_guard_and_verdict(tmp_path: Path) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        identity = (await rollout(parts, client)).json()["id"]
        parts.count(identity, canary=50, bad=10, production=200)
        shown = (await client.get("/admin/models/credit/health")).json()
        by_version = {one["version"]: one for one in shown["versions"]}
        assert (by_version["v2"]["requests"], by_version["v2"]["error_rate"]) == (50, 0.2)
        assert by_version["v2"]["guard_tripped"] is True
        assert by_version["v1"]["guard_tripped"] is False
        assert by_version["v1"]["latency_ms"]["p50"] == pytest.approx(10.0 * 1.1**12, rel=0.11)
        assert shown["verdict"]["rollout"] == identity
        assert by_version["v2"]["guard"]["tripped"] is True
        assert by_version["v2"]["guard"]["reason"] == by_version["v2"]["guard_reason"] != ""
        assert by_version["v2"]["verdict"] == shown["verdict"]
        assert set(shown["verdict"]) == {"rollout", "health", "reason"}
        assert by_version["v1"]["verdict"] is None  # nobody judges production
        HealthView.model_validate(shown)
        parts.clock.turn(120.0)
        assert (await client.get("/admin/models/credit/health")).json()["versions"] == []


async def test_the_audit_is_newest_first_by_model_and_bounded(tmp_path: Path) -> None:
    async with control(tmp_path, model(), model("churn")) as parts, parts.client() as client:
        for percent in (1, 2, 3):
            await client.patch(FLAGS, json={"candidate": "v2", "canary_percent": percent})
        await client.patch("/admin/models/churn/flags", json={"candidate": "v3"})
        entries = (await client.get("/admin/audit", params={"model": "credit", "limit": 2})).json()["entries"]
        assert [one["after"]["canary_percent"] for one in entries] == [3.0, 2.0]
        assert (entries[0]["actor"], entries[0]["origin"]) == ("ops", "local")
        assert len((await client.get("/admin/audit")).json()["entries"]) == 4


async def test_accounting_is_passed_on(tmp_path: Path) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        assert set((await client.get("/admin/accounting")).json()) == {
            "received",
            "stored",
            "pending",
            "dropped",
            "quarantined",
        }


async def test_openapi_describes_every_route_with_its_errors_and_its_scope(tmp_path: Path) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        schema = (await client.get("/openapi.json")).json()
        assert schema["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
        for path, operations in schema["paths"].items():
            for method, operation in operations.items():
                assert operation["description"], (method, path)
                if operation.get("x-required-scope") is not None:
                    assert {"401", "403", "429"} <= set(operation["responses"]), (method, path)
                    assert "application/problem+json" in operation["responses"]["401"]["content"]
        assert "application/x-ndjson" in schema["paths"]["/feedback"]["post"]["requestBody"]["content"]


async def test_a_prediction_of_a_batch_is_found_by_its_row(tmp_path: Path) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        row = prediction(START, 9)
        batch = [prediction(START, 9, prediction_id=f"{row.prediction_id}:{number}") for number in (0, 1)]
        await store_rows(parts.store, batch)
        assert (await client.get(f"/predictions/{row.prediction_id}")).json()["prediction_id"].endswith(":0")
        assert (
            (await client.get(f"/predictions/{row.prediction_id}:1")).json()["prediction_id"].endswith(":1")
        )
