"""token new: makes a bearer token on this host. It is printed once and kept nowhere; a gateway's file holds its digest only."""

from __future__ import annotations

import re
import secrets
import sys
from hashlib import sha256
from typing import Annotated

import typer

from app.commands import output
from app.commands.gateway import AsJson, UsageError

SCOPES = ("read", "feedback", "operate", "admin")

commands = typer.Typer(help="Tokens for the API.", no_args_is_help=True, rich_markup_mode=None)


@commands.callback()
def top() -> None:
    """Tokens for the API."""


@commands.command("new")
def new(
    name: Annotated[str, typer.Option(help="Who it is; stands in the audit log")] = "ops",
    scope: Annotated[
        list[str] | None,
        typer.Option(help="read, feedback, operate or admin; may be repeated [default: read]"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a token: itself on standard output, the line for `auth.tokens` on standard error."""
    scopes = scope or ["read"]
    unknown = [one for one in scopes if one not in SCOPES]
    if unknown:
        raise UsageError(f"--scope: {', '.join(unknown)} is no scope; use {', '.join(SCOPES)}")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise UsageError("--name: use letters, digits, dot, dash and underscore, at most 64")
    token = secrets.token_urlsafe(32)
    digest = sha256(token.encode()).hexdigest()
    if as_json:
        output.emit({"token": token, "name": name, "sha256": digest, "scopes": scopes})
        return
    sys.stdout.write(f"{token}\n")
    output.say(f'auth.tokens: - {{name: {name}, sha256: "{digest}", scopes: [{", ".join(scopes)}]}}')
    output.say("then: kill -HUP the gateway (its first process), which reads auth.tokens anew")
