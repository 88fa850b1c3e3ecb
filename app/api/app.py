"""The FastAPI application of the control process. It is served on a Unix socket only; workers forward what
is no model's to it.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

import app as package
from app.api import dashboard, feedback, metrics, ofrep, problems
from app.api.admin import (
    audit,
    baselines,
    erasures,
    events,
    flags,
    models,
    reports,
    review,
    rollouts,
    versions,
)
from app.api.services import Services

_ROUTERS = (
    metrics.router,
    feedback.router,
    models.router,
    flags.router,
    versions.router,
    rollouts.router,
    reports.router,
    review.router,
    baselines.router,
    audit.router,
    events.router,
    erasures.router,
    ofrep.router,
    dashboard.router,
)


class _Application(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """OpenAPI 3.1 with our token scheme."""
        if self.openapi_schema is None:
            schema = get_openapi(title=self.title, version=self.version, routes=self.routes)
            schema.setdefault("components", {})["securitySchemes"] = {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "a token that has the scope named in x-required-scope",
                }
            }
            for operations in schema["paths"].values():
                for operation in operations.values():  # FastAPI's own shape of 422 is never sent
                    if "422" in operation["responses"]:
                        operation["responses"]["422"] = problems.documented(422)[422]
            for name in ("HTTPValidationError", "ValidationError"):
                schema["components"].get("schemas", {}).pop(name, None)
            self.openapi_schema = schema
        return self.openapi_schema


def _routed() -> _Application:
    application = _Application(
        title="model-gateway",
        version=getattr(package, "__version__", "0.1.0"),
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
    )
    problems.install(application)
    for router in _ROUTERS:
        application.include_router(router)
    return application


def create_app(services: Services) -> FastAPI:
    """The application over these parts. It starts and stops none of them."""
    application = _routed()
    application.state.services = services
    return application


def describe() -> dict[str, Any]:
    """The OpenAPI document, without anything running: for the documentation."""
    return _routed().openapi()
