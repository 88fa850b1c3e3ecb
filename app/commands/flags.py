"""flags get, flags set: what may change while the gateway runs."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated, Any

import typer

from app.commands import output
from app.commands.gateway import (
    DATA_DIR,
    Answer,
    AsJson,
    DataDir,
    Gateway,
    TokenText,
    Url,
    UsageError,
    model_path,
)

commands = typer.Typer(no_args_is_help=True, help="What may change while the gateway runs.")

_TRUE = frozenset(("true", "yes", "on", "1"))
_FALSE = frozenset(("false", "no", "off", "0"))
_NONE = frozenset(("", "null", "none"))
CHANGEABLE = (
    "production",
    "candidate",
    "canary_percent",
    "canary_enabled",
    "shadow_enabled",
    "shadow_versions",
    "disabled_versions",
)

ModelName = Annotated[str, typer.Argument(metavar="MODEL", show_default=False)]


@commands.command("get")
def get(
    model: ModelName,
    url: Url = None,
    token: TokenText = None,
    data_dir: DataDir = DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """The flags in force."""
    with Gateway.at(url, token, data_dir) as gateway:
        _show(gateway.get(model_path(model, "flags")), as_json)


@commands.command("set")
def change(
    model: ModelName,
    changes: Annotated[
        list[str],
        typer.Argument(
            metavar="KEY=VALUE…", help=f"One of {', '.join(CHANGEABLE)}; lists as a,b", show_default=False
        ),
    ],
    if_revision: Annotated[
        int | None, typer.Option(help="Only if the flags still have this revision", min=0)
    ] = None,
    reason: Annotated[str, typer.Option(help="For the audit log")] = "",
    url: Url = None,
    token: TokenText = None,
    data_dir: DataDir = DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Change flags, all together or not at all."""
    wanted = parsed(changes)
    headers = {} if if_revision is None else {"If-Match": f'"{if_revision}"'}
    body = {**wanted, "reason": reason} if reason else wanted
    with Gateway.at(url, token, data_dir) as gateway:
        _show(gateway.send("PATCH", model_path(model, "flags"), body, headers=headers), as_json)


def parsed(changes: list[str]) -> dict[str, Any]:
    """`k=v` pairs with the types that the flags have. `UsageError` names the first that cannot be read."""
    wanted: dict[str, Any] = {}
    for change in changes:
        key, found, text = change.partition("=")
        key, text = key.strip(), text.strip()
        if not found:
            raise UsageError(f"{change!r}: write KEY=VALUE")
        if key not in CHANGEABLE:
            close = get_close_matches(key, CHANGEABLE, n=1)
            hint = f"did you mean {close[0]}?" if close else f"use one of {', '.join(CHANGEABLE)}"
            raise UsageError(f"{key!r} is no flag; {hint}")
        if key in wanted:
            raise UsageError(f"{key!r} is given twice; give it once")
        wanted[key] = _value(key, text)
    return wanted


def _value(key: str, text: str) -> object:
    if key.endswith("_enabled"):
        if text.lower() not in _TRUE | _FALSE:
            raise UsageError(f"{key}: {text!r} is neither true nor false")
        return text.lower() in _TRUE
    if key.endswith("_versions"):
        inside = text.removeprefix("[").removesuffix("]")
        return [name.strip().strip("\"'") for name in inside.split(",") if name.strip()]
    if key == "canary_percent":
        try:
            percent = float(text.removesuffix("%"))
        except ValueError:
            raise UsageError(f"canary_percent: {text!r} is no number") from None
        if not 0.0 <= percent <= 100.0:
            raise UsageError(f"canary_percent: {text} is not between 0 and 100")
        return percent
    if key == "candidate" and text.lower() in _NONE:
        return None
    return text


def _show(flags: Answer, as_json: bool) -> None:
    if as_json:
        output.emit(flags)
    else:
        output.show_fields(flags)
