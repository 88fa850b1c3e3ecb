"""Models at a glance. Only reads."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from fastapi import APIRouter, Response

from app.api.admin.flags import flags_view
from app.api.routes import GatewayRoute, Json, needs
from app.api.schemas import HealthView
from app.api.services import Parts, Services
from app.control.health import VersionHealth
from app.control.ports import Row
from app.domain import registered
from app.domain.model import Guard, Model, Version

router = APIRouter(route_class=GatewayRoute, prefix="/admin/models", tags=["models"])


def without_credentials(url: str) -> str:
    """The URL less its user and password, should the file have put some there."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def scheme_and_host(url: str) -> str:
    """Of a URL whose path may be the credential, as a chat's webhook has it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def version_view(version: Version, *, from_file: bool, registered_as: str | None = None) -> dict[str, Any]:
    """`registry_uri` is what a model registry calls the version, when it is known there."""
    number = registered.number_of(version)
    return {
        **asdict(version),
        "urls": [without_credentials(url) for url in version.urls],
        "metadata": dict(version.metadata),
        "defined_in": "file" if from_file else "api",
        "registry_uri": registered.uri(registered_as, number) if registered_as and number else None,
    }


def model_view(model: Model, services: Services) -> dict[str, Any]:
    versions = [
        version_view(
            v,
            from_file=services.registry.from_file(model.name, v.name),
            registered_as=model.registry.name,
        )
        for v in model.versions
    ]
    settings = {name: value for name, value in asdict(model).items() if name not in ("name", "versions")}
    if model.retraining.webhook:
        settings["retraining"]["webhook"] = scheme_and_host(model.retraining.webhook)
    rollout = services.controller.open_rollout(model.name)
    return {
        "name": model.name,
        "configuration": settings,
        "versions": versions,
        "flags": flags_view(services.flags.current(model.name), services),
        "rollout": rollout,
        "health": health_view(model, services, rollout),
    }


def health_view(model: Model, services: Services, rollout: Row | None) -> list[dict[str, Any]]:
    """Each version that was asked anything in the last minute, with what the window rule says of these
    figures, and what the open rollout says of its candidate.
    """
    verdict = _verdict(rollout)
    return [
        {
            **asdict(one),
            **_guard(model.guard, one),
            "verdict": verdict if rollout and one.version == rollout["candidate"] else None,
        }
        for one in services.controller.health.view(model.name, int(services.clock.now().timestamp()))
    ]


def _verdict(rollout: Row | None) -> dict[str, Any] | None:
    return {"rollout": rollout["id"], **rollout["verdict"]} if rollout else None


def _guard(guard: Guard, health: VersionHealth) -> dict[str, Any]:
    """The window rule over the last minute: null while it says nothing."""
    tripped, reason = _tripped(guard, health)
    return {
        "guard": {"tripped": tripped, "reason": reason},
        "guard_tripped": tripped,
        "guard_reason": reason,
    }


def _tripped(guard: Guard, health: VersionHealth) -> tuple[bool | None, str]:
    if health.requests < guard.min_requests:
        return None, f"{health.requests} requests; {guard.min_requests} are needed"
    p99 = health.latency_ms["p99"]
    if health.error_rate is not None and health.error_rate > guard.error_rate:
        return True, f"error rate {health.error_rate:.1%} exceeds {guard.error_rate:.1%}"
    if p99 is not None and p99 > guard.latency_p99_ms:
        return True, f"p99 {p99:.0f} ms exceeds {guard.latency_p99_ms:.0f} ms"
    return False, "within bounds"


@router.get("", **needs("read"))
async def models(parts: Parts) -> Response:
    """All models: configuration, versions, flags."""
    return Json({"models": [model_view(model, parts) for model in parts.registry.models()]})


@router.get("/{model}", **needs("read", 404))
async def model(model: str, parts: Parts) -> Response:
    """One model: configuration, versions, flags."""
    return Json(model_view(parts.registry.model(model), parts))


@router.get("/{model}/health", response_model=HealthView, **needs("read", 404))
async def health(model: str, parts: Parts) -> Response:
    """Each version: requests, error rate, latency quantiles of the last minute, guard, and the open
    rollout's verdict on its candidate (null for a version that no rollout judges); that verdict once more
    for the model.
    """
    known = parts.registry.model(model)
    rollout = parts.controller.open_rollout(model)
    versions = health_view(known, parts, rollout)
    return Json({"model": model, "versions": versions, "verdict": _verdict(rollout)})
