"""status: the gateway at a glance."""

from __future__ import annotations

from typing import Any

import typer

from app.commands import output
from app.commands.gateway import DATA_DIR, AsJson, DataDir, Gateway, TokenText, Url, listed, model_path


def status(
    url: Url = None, token: TokenText = None, data_dir: DataDir = DATA_DIR, as_json: AsJson = False
) -> None:
    """Models, flags and health. 0 when the gateway takes traffic, else 1."""
    with Gateway.at(url, token, data_dir) as gateway:
        code, ready = gateway.look("/readyz")
        models = listed(gateway.get("/admin/models"), "models")
        healths = {str(model.get("name")): _health(gateway, str(model.get("name"))) for model in models}
        accounting = gateway.get("/admin/accounting")
    if as_json:
        output.emit(
            {
                "ready": code == 200,
                "readyz": ready,
                "models": models,
                "health": healths,
                "accounting": accounting,
            }
        )
    else:
        _show(code, ready, models, healths, accounting)
    raise typer.Exit(0 if code == 200 else 1)


def _health(gateway: Gateway, model: str) -> list[dict[str, Any]]:
    return listed(gateway.get(model_path(model, "health")), "versions")


def _show(
    code: int,
    ready: dict[str, Any],
    models: list[dict[str, Any]],
    healths: dict[str, list[dict[str, Any]]],
    accounting: dict[str, Any],
) -> None:
    degraded = ready.get("degraded")
    word = "takes traffic" if code == 200 else "takes no traffic"
    output.show_fields(
        {"gateway": f"{word}, degraded: {output.cell(degraded)}" if degraded else word, **accounting}
    )
    if not models:
        output.say("no models are configured")
        return
    rows = []
    for model in models:
        flags = model.get("flags") or {}
        share = f"{output.cell(flags.get('canary_percent'))} %" if flags.get("canary_enabled") else None
        rows.append(
            (
                model.get("name"),
                flags.get("revision"),
                flags.get("production"),
                flags.get("candidate"),
                share,
                flags.get("shadow_versions") if flags.get("shadow_enabled") else None,
                flags.get("disabled_versions"),
            )
        )
    output.show_table(("model", "revision", "production", "candidate", "canary", "shadows", "disabled"), rows)
    found = [
        (
            name,
            version.get("version"),
            version.get("requests"),
            version.get("error_rate"),
            _quantile(version, "p50"),
            _quantile(version, "p99"),
            version.get("guard"),
            version.get("verdict"),
        )
        for name, versions in healths.items()
        for version in versions
    ]
    if found:
        output.show_table(
            ("model", "version", "requests", "error rate", "p50 ms", "p99 ms", "guard", "verdict"), found
        )


def _quantile(version: dict[str, Any], name: str) -> object:
    latency = version.get("latency_ms") or version.get("latency") or {}
    return latency.get(name) if isinstance(latency, dict) else None
