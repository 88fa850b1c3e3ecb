"""Versions registered and retired while the gateway runs. Never a way to reach what no model server has
(see `upstream_url`).
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from app.api.admin.models import version_view
from app.api.auth import Identity
from app.api.routes import Caller, GatewayRoute, Json, needs
from app.api.schemas import Reason, VersionBody
from app.api.services import Parts, Services
from app.control.ports import AuditEntry
from app.control.registry import checked_version_name
from app.domain import upstream_url
from app.domain.model import Version
from app.errors import InvalidError

router = APIRouter(route_class=GatewayRoute, prefix="/admin/models/{model}/versions", tags=["versions"])

_MAX_METADATA = 1000


def _version(name: str, body: VersionBody) -> Version:
    urls = (body.url,) if isinstance(body.url, str) else tuple(body.url)
    found = list(dict.fromkeys(fault for url in urls for fault in upstream_url.faults(url)))
    if len(set(urls)) != len(urls):
        found.append("url: the same address twice")
    for key, value in body.metadata.items():
        if not 0 < len(key) <= 100 or len(value) > _MAX_METADATA or "\0" in key + value:
            found.append("metadata: keys of 1 to 100 characters, values of at most 1,000")
            break
    if found:
        raise InvalidError("; ".join(found))
    return Version(
        checked_version_name(name),
        urls,
        body.timeout_s,
        body.connect_timeout_s,
        tuple(sorted(body.metadata.items())),
    )


def _audit(
    services: Services, caller: Identity, action: str, model: str, reason: str, **state: dict[str, Any] | None
) -> AuditEntry:
    return AuditEntry(
        services.clock.now(),
        caller.name,
        caller.origin,
        action,
        model,
        reason,
        state.get("before"),
        state.get("after"),
    )


@router.put("/{version}", **needs("operate", 404, 409, 422, 503))
async def register(model: str, version: str, body: VersionBody, caller: Caller, parts: Parts) -> Response:
    """Register a version, or change one that takes no traffic. 201 when it is new."""
    wanted = _version(version, body)
    view = version_view(wanted, from_file=False)
    audit = _audit(parts, caller, "version.register", model, body.reason, after=view)
    new = await parts.registry.register(model, wanted, lambda: parts.flags.current(model), audit)
    return Json(view, 201 if new else 200)


@router.delete("/{version}", status_code=204, **needs("operate", 404, 409, 503))
async def retire(model: str, version: str, caller: Caller, parts: Parts, reason: Reason = "") -> Response:
    """Retire a registered version; 409 while it is in use."""
    found = parts.registry.model(model).version(version)
    before = version_view(found, from_file=False) if found else None
    audit = _audit(parts, caller, "version.retire", model, reason, before=before)
    await parts.registry.retire(model, version, lambda: parts.flags.current(model), audit)
    return Response(status_code=204)
