"""Who changed what: each call that changes something leaves one audit entry and one line in the log, with its origin and reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import structlog

from tests.control_parts import Control, control, model

MODEL = "/admin/models/credit"
ROWS = [{"age": float(n % 40)} for n in range(200)]
CSV = {"Content-Type": "text/csv"}

# method, path, body, its entry's action; {rollout}: one that was started before
CHANGES: list[tuple[str, str, Any, str]] = [
    ("PATCH", f"{MODEL}/flags", {"candidate": "v2", "reason": "why"}, "flags.set"),
    ("PUT", f"{MODEL}/versions/v4", {"url": "http://10.0.0.1", "reason": "why"}, "version.register"),
    ("POST", f"{MODEL}/rollouts", {"candidate": "v2", "reason": "why"}, "rollout.start"),
    ("POST", f"{MODEL}/rollouts/{{rollout}}/pause", {"reason": "why"}, "rollout.pause"),
    ("POST", f"{MODEL}/rollouts/{{rollout}}/advance", {"reason": "why"}, "rollout.advance"),
    ("POST", f"{MODEL}/rollouts/{{rollout}}/promote", {"reason": "why"}, "rollout.promote"),
    ("POST", f"{MODEL}/rollouts/{{rollout}}/rollback", {"reason": "why"}, "rollback"),
    ("POST", f"{MODEL}/baseline", {"rows": ROWS, "reason": "why"}, "baseline.set"),
    ("POST", f"{MODEL}/retraining", None, "retraining.evaluate"),
    ("POST", f"{MODEL}/erasures", {"routing_key": "erika", "reason": "why"}, "privacy.erase"),
]


async def _begun(parts: Control, client: Any) -> str:
    await parts.controller.look()
    begun = await client.post(f"{MODEL}/rollouts", json={"candidate": "v2", "stages": [5, 50, 100]})
    return str(begun.json()["id"])


@pytest.mark.parametrize(("method", "path", "body", "action"), CHANGES, ids=[one[3] for one in CHANGES])
async def test_a_change_leaves_one_audit_entry_and_one_line_in_the_log(
    tmp_path: Path, method: str, path: str, body: Any, action: str
) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        (tmp_path / "privacy-secret").write_bytes(b"secret")
        if "{rollout}" in path:
            path = path.format(rollout=await _begun(parts, client))
        else:
            await parts.controller.look()
        before = len(await parts.store.audit("credit", 100))
        with structlog.testing.capture_logs() as lines:
            reply = await client.request(method, path, json=body)
        assert reply.is_success, reply.text
        entries = await parts.store.audit("credit", 100)
        made = [one for one in entries[: len(entries) - before] if one["actor"] == "ops"]
        reason = "why" if body else reply.json()["reason"]
        assert [(one["action"], one["origin"], one["reason"]) for one in made] == [(action, "local", reason)]
        said = [line for line in lines if line["event"] == "changed" and line["actor"] == "ops"]
        assert [(one["action"], one["model"], one["origin"], one["reason"]) for one in said] == [
            (action, "credit", "local", reason)
        ]
        assert "erika" not in str(lines)
        assert "admin-secret" not in str(lines)


async def test_every_call_that_changes_something_is_in_the_table_or_is_no_change(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        paths = parts.application.openapi()["paths"]
    changing = {
        f"{method.upper()} {path}"
        for path, operations in paths.items()
        for method in operations
        if method != "get" and path.startswith("/admin")
    }
    listed = {
        f"{method} {path.replace('credit', '{model}').replace('v4', '{version}')}"
        for method, path, _, _ in CHANGES
    }
    for action in ("pause", "advance", "promote", "rollback"):
        listed = {one.replace(f"{{rollout}}/{action}", "{rollout_id}/{action}") for one in listed}
    # Retiring is tested with the versions; a label is an outcome that says who gave it.
    labels = {"POST /admin/models/{model}/review", "POST /admin/models/{model}/review/{prediction_id}"}
    assert changing == listed | labels | {"DELETE /admin/models/{model}/versions/{version}"}


async def test_a_new_baseline_is_audited_with_the_one_before_and_without_its_values(tmp_path: Path) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        first = {"rows": ROWS, "metrics": {"f1": 0.9}, "reason": "first"}
        assert (await client.post(f"{MODEL}/baseline", json=first)).status_code == 201
        table = "age\n" + "".join(f"{n % 40}\n" for n in range(300))
        query = {"reason": "second", "metrics": '{"f1": 0.8}'}
        made = await client.post(f"{MODEL}/baseline", content=table, headers=CSV, params=query)
        assert made.status_code == 201
        newest, oldest = await parts.store.audit("credit", 10)
    assert (oldest["before"], newest["reason"]) == (None, "second")
    assert newest["before"] == oldest["after"]
    after = newest["after"]
    assert (after["source"], after["rows"], after["metrics"], after["features"]) == (
        "upload (text/csv)",
        300,
        {"f1": 0.8},
        1,
    )


async def test_a_change_made_while_the_store_is_down_is_in_the_log_once(tmp_path: Path) -> None:
    async with control(tmp_path, model()) as parts, parts.client() as client:
        canary = {"candidate": "v2", "canary_percent": 5, "canary_enabled": True}
        await client.patch(f"{MODEL}/flags", json=canary)
        parts.store.down = True
        with structlog.testing.capture_logs() as lines:
            await client.patch(f"{MODEL}/flags", json={"canary_enabled": False, "reason": "it burns"})
            parts.store.down = False
            await parts.flags.reconcile()
        [line] = [one for one in lines if one["event"] == "changed"]
        assert (line["actor"], line["reason"], line["canary_enabled"], line["revision"]) == (
            "ops",
            "it burns",
            False,
            2,
        )
