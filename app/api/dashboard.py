"""The dashboard's static files: `/` and `/ui/…`. Open to all, because they hold nothing but code; every
figure is asked for with the token of whoever signs in.

Only files that were there when the first was asked for are ever answered: a path is looked up, never opened.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header, Response

from app.api.routes import GatewayRoute, open_to_all
from app.errors import NotFoundError

router = APIRouter(route_class=GatewayRoute, tags=["dashboard"], include_in_schema=False)

DIRECTORY = Path(__file__).resolve().parent.parent / "ui"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Nothing inline, nothing from elsewhere, in nobody's frame.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    media_type: str
    etag: str


@cache
def _files() -> dict[str, _File]:
    """By path below the directory, with forward slashes."""
    found = {}
    for path in DIRECTORY.rglob("*"):
        if path.suffix in _TYPES:
            content = path.read_bytes()
            name = path.relative_to(DIRECTORY).as_posix()
            found[name] = _File(content, _TYPES[path.suffix], f'"{sha256(content).hexdigest()[:32]}"')
    return found


def _answer(name: str, if_none_match: str | None) -> Response:
    file = _files().get(name)
    if file is None:
        raise NotFoundError("the dashboard has no such file")
    headers = {**_HEADERS, "ETag": file.etag}
    if if_none_match == file.etag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)


@router.get("/", **open_to_all())
async def index(if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """The page; it asks for a token."""
    return _answer("index.html", if_none_match)


@router.get("/ui/{name:path}", **open_to_all(404))
async def file(name: str, if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """A script, a style sheet or the icon."""
    return _answer(name, if_none_match)
