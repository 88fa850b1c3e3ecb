"""`/admin/events`: what changed, as server-sent events. Notices only: whoever hears one reads the resource itself.

A stream must never hold up the stop of the gateway, nor outlive the token that it was opened with.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Message, Send

from app.api.admin.models import health_view
from app.api.routes import GatewayRoute, needs
from app.api.services import Parts, Services
from app.control.changes import Changes, Listener
from app.errors import GatewayError

router = APIRouter(route_class=GatewayRoute, prefix="/admin", tags=["events"])

MEDIA_TYPE = "text/event-stream"


@router.get("/events", response_class=StreamingResponse, **needs("read", 422, 503, answers=(MEDIA_TYPE,)))
async def events(
    request: Request,
    parts: Parts,
    last_event_id: Annotated[
        str | None,
        Header(max_length=64, description="the id of the last event read: those after it come first"),
    ] = None,
) -> Response:
    """Server-sent events that say what changed; read the resource itself for how it is now.

    `start` {resumed} comes first: false means that events may have been missed, so everything is to be read anew.
    `flag` {model, revision, durable}: flags changed. `rollout` {model, rollout, state, stage_index, percent, health,
    log_e}: the open rollout began, moved, was judged anew or has ended (rollout null); at most once a second.
    `health` {model, versions: [{version, role, guard_tripped}]}: the guard's word on a version changed. `gateway`
    {degraded}: dependencies that do not answer. A comment line every 15 s keeps the connection open. A client that does
    not read is dropped; beyond 64 clients the answer is 503. Polling works without any of this.
    """
    listener = parts.changes.listen(last_event_id)

    async def lines() -> AsyncIterator[bytes]:
        changes = parts.changes
        yield b"retry: 2000\n" + _event(
            changes.name_of(listener.number), "start", {"resumed": listener.resumed}
        )
        while not listener.ended:
            change = await listener.next(changes.heartbeat_s)
            if change is not None:
                yield _event(changes.name_of(change.number), change.kind, change.data)
            elif not listener.ended:
                if not _still_allowed(request, parts):
                    return
                yield b":\n\n"

    return _Events(parts.changes, listener, lines())


def _event(identifier: str, kind: str, data: Mapping[str, Any]) -> bytes:
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (
        identifier.encode(),
        kind.encode(),
        msgspec.json.encode(data),
    )


def _still_allowed(request: Request, parts: Services) -> bool:
    try:
        parts.auth.identify(request, "read")
    except GatewayError:
        return False
    return True


class _Events(StreamingResponse):
    """Ends when the client leaves, or takes nothing for too long."""

    def __init__(self, changes: Changes, listener: Listener, lines: AsyncIterator[bytes]) -> None:
        super().__init__(
            lines, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}, media_type=MEDIA_TYPE
        )
        self._changes = changes
        self._listener = listener

    async def stream_response(self, send: Send) -> None:
        async def within(message: Message) -> None:
            async with asyncio.timeout(self._changes.give_up_s):
                await send(message)

        try:
            await super().stream_response(within)
        except TimeoutError:
            self._changes.drop(self._listener, "slow")
        finally:
            self._changes.leave(self._listener)


def facts(services: Services, degraded: list[str]) -> dict[tuple[str, str], dict[str, Any]]:
    """What is so at this moment, from memory: by kind and model."""
    found: dict[tuple[str, str], dict[str, Any]] = {("gateway", ""): {"degraded": sorted(degraded)}}
    for model in services.registry.models():
        name = model.name
        flags = services.flags.current(name)
        found["flag", name] = {
            "model": name,
            "revision": flags.revision,
            "durable": services.flags.durable(name),
        }
        found["rollout", name] = {"model": name, **_rollout(services, name)}
        versions = [
            {"version": one["version"], "role": one["role"], "guard_tripped": one["guard_tripped"]}
            for one in health_view(model, services, None)
        ]
        found["health", name] = {"model": name, "versions": versions}
    return found


def _rollout(services: Services, model: str) -> dict[str, Any]:
    row = services.controller.open_rollout(model)
    if row is None:
        return {"rollout": None}
    return {
        "rollout": row["id"],
        "state": row["state"],
        "stage_index": row["stage_index"],
        "percent": row["percent"],
        "health": row["verdict"]["health"],
        "log_e": round(row["evidence"]["log_e"], 2),
    }
