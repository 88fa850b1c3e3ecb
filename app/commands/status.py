"""status: the gateway at a glance."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import typer

from app.commands import output
from app.commands.gateway import (
    DATA_DIR,
    Answer,
    AsJson,
    DataDir,
    Gateway,
    RefusedError,
    TokenText,
    UnreachableError,
    Url,
    listed,
    model_path,
)

# A glance is answered at once or not at all: a part that hangs must not hide what the others say.
PATIENCE_S = 3.0
UNANSWERED = "no answer in time"
STATES = ("ready", "degraded", "starting", "draining")


def status(
    url: Url = None, token: TokenText = None, data_dir: DataDir = DATA_DIR, as_json: AsJson = False
) -> None:
    """Models, flags and health. 0 when the gateway takes traffic, else 1."""
    missing: dict[str, str] = {}
    with Gateway.at(url, token, data_dir, PATIENCE_S) as gateway:
        code, ready = gateway.look("/readyz")
        if ready.get("status") not in STATES:
            raise RefusedError(
                code, f"{gateway.url}/readyz answers {code} and no state; is this a model gateway?", ready
            )
        models = listed(_if_there(partial(gateway.get, "/admin/models"), "models", missing), "models")
        names = [str(model.get("name")) for model in models]
        health = {
            name: _if_there(partial(gateway.get, model_path(name, "health")), "health", missing)
            for name in names
        }
        accounting = _if_there(partial(gateway.get, "/admin/accounting"), "accounting", missing)
    if as_json:
        parts = {"models": models, "health": health, "accounting": accounting, "missing": missing}
        output.emit({"ready": code == 200, "readyz": ready, **parts})
    else:
        _show_gateway(code, ready, accounting)
        _show_models(models)
        _show_health(health)
        for name, reason in missing.items():
            output.say(f"{name}: {reason}")
    raise typer.Exit(0 if code == 200 else 1)


def _if_there(ask: Callable[[], Answer], name: str, missing: dict[str, str]) -> Answer:
    """What a part of the gateway says; while that part is down the others still have something to say.

    Once no answer came at all no other part is asked: they are behind the same process.
    """
    if UNANSWERED in missing.values():
        missing.setdefault(name, UNANSWERED)
        return {}
    try:
        return ask()
    except UnreachableError:
        missing[name] = UNANSWERED
    except RefusedError as error:
        if error.status < 500:
            raise
        missing[name] = str(error)
    return {}


def _show_gateway(code: int, ready: Answer, accounting: Answer) -> None:
    word = "takes traffic" if code == 200 else f"takes no traffic, {output.cell(ready.get('status'))}"
    if ready.get("degraded"):
        word += f", degraded: {output.cell(ready['degraded'])}"
    output.show_fields({"gateway": word, **accounting})


def _show_models(models: list[Answer]) -> None:
    rows = []
    for model in models:
        flags = model.get("flags") or {}
        rows.append(
            (
                model.get("name"),
                flags.get("revision"),
                flags.get("production"),
                flags.get("candidate"),
                f"{output.cell(flags.get('canary_percent'))} %" if flags.get("canary_enabled") else None,
                flags.get("shadow_versions") if flags.get("shadow_enabled") else None,
                flags.get("disabled_versions"),
            )
        )
    if rows:
        columns = ("model", "revision", "production", "candidate", "canary", "shadows", "disabled")
        output.show_table(columns, rows)


def _show_health(health: dict[str, Answer]) -> None:
    rows = []
    for name, answer in health.items():
        for version in listed(answer, "versions"):
            latency: dict[str, Any] = version.get("latency_ms") or {}
            rows.append(
                (
                    name,
                    version.get("version"),
                    version.get("role"),
                    version.get("requests"),
                    version.get("error_rate"),
                    latency.get("p50"),
                    latency.get("p99"),
                    version.get("guard_reason"),
                )
            )
    if rows:
        columns = ("last minute", "version", "role", "requests", "error rate", "p50 ms", "p99 ms", "guard")
        output.show_table(columns, rows)
    for name, answer in health.items():
        verdict = answer.get("verdict")
        if isinstance(verdict, dict):
            output.show_fields({f"{name}: verdict": f"{verdict.get('health')}: {verdict.get('reason')}"})
