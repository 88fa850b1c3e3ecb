"""The dashboard's static files. They hold no data: the page asks the admin API with a token that its
reader types in.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse

import app
from app.api.routes import GatewayRoute, open_to_all
from app.errors import NotFoundError

router = APIRouter(route_class=GatewayRoute, tags=["dashboard"])

_FILES = Path(app.__file__).parent / "ui"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Nothing but our own files is loaded or spoken to, and no other page may frame it.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@router.get("/", include_in_schema=False, **open_to_all())
async def page() -> Response:
    """The dashboard."""
    return _file("index.html")


@router.get("/ui/{path:path}", include_in_schema=False, **open_to_all(404))
async def asset(path: str) -> Response:
    """A file of the dashboard."""
    return _file(path)


def _file(name: str) -> Response:
    """One of the files below `ui`, by its exact name; nothing beside or above it."""
    found = _known().get(name)
    if found is None:
        raise NotFoundError("there is no such file")
    return FileResponse(found, media_type=_TYPES[found.suffix], headers=_HEADERS)


def _known() -> dict[str, Path]:
    return {
        str(path.relative_to(_FILES)): path
        for path in _FILES.rglob("*")
        if path.suffix in _TYPES and path.is_file()
    }
