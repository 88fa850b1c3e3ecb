"""Models at a glance. Only reads."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from fastapi import APIRouter, Response

from app.api.admin.flags import flags_view
from app.api.routes import GatewayRoute, Json, needs
from app.api.services import Parts, Services
from app.domain.model import Model, Version

router = APIRouter(route_class=GatewayRoute, prefix="/admin/models", tags=["models"])


def without_credentials(url: str) -> str:
    """The URL less its user and password, should the file have put some there."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def version_view(version: Version, *, from_file: bool) -> dict[str, Any]:
    return {
        **asdict(version),
        "urls": [without_credentials(url) for url in version.urls],
        "metadata": dict(version.metadata),
        "defined_in": "file" if from_file else "api",
    }


def model_view(model: Model, services: Services) -> dict[str, Any]:
    versions = [
        version_view(v, from_file=services.registry.from_file(model.name, v.name)) for v in model.versions
    ]
    settings = {name: value for name, value in asdict(model).items() if name not in ("name", "versions")}
    if model.retraining.webhook:
        settings["retraining"]["webhook"] = without_credentials(model.retraining.webhook)
    return {
        "name": model.name,
        "configuration": settings,
        "versions": versions,
        "flags": flags_view(services.flags.current(model.name), services),
    }


@router.get("", **needs("read"))
async def models(parts: Parts) -> Response:
    """All models: configuration, versions, flags."""
    return Json({"models": [model_view(model, parts) for model in parts.registry.models()]})


@router.get("/{model}", **needs("read", 404))
async def model(model: str, parts: Parts) -> Response:
    """One model: configuration, versions, flags."""
    return Json(model_view(parts.registry.model(model), parts))
