"""serve, demo, check-config, migrate: the commands that work on this host, without a running gateway."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from app.commands import output
from app.commands.gateway import AsJson, UsageError
from app.errors import ConfigurationError

ROLES = ("proxy", "recorder", "controller")
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Configuration file [default: GATEWAY_CONFIG, else none]"),
]


def serve(
    config: ConfigFile = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one")] = None,
    workers: Annotated[int | None, typer.Option(help="Proxy processes")] = None,
    roles: Annotated[str, typer.Option(help="Which parts run here, comma-separated")] = ",".join(ROLES),
) -> None:
    """Run the gateway until SIGTERM or Ctrl-C. SIGHUP reads tokens and certificates anew and replaces the workers one by one."""
    chosen = frozenset(role.strip() for role in roles.split(",") if role.strip())
    unknown = sorted(chosen - set(ROLES))
    if unknown or not chosen:
        raise UsageError(f"--roles: {', '.join(unknown) or 'nothing'} is no role; use {', '.join(ROLES)}")
    from app.config import load

    file, given = _configuration(config), {"server": {"host": host, "port": port, "workers": workers}}
    settings = load(file, given)
    if not settings.models:
        output.say(
            "no models are configured: name a file with --config (gateway.example.yaml is one to begin with)"
        )
    from app.main import serve as run

    raise typer.Exit(run(settings, chosen, lambda: load(file, given)))


def demo(
    port: Annotated[
        int | None, typer.Option(help="The gateway's port [default: 8080, else a free one]")
    ] = None,
    speed: Annotated[float, typer.Option(help="Divides the waiting times", min=0.1, max=100.0)] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="End after the story instead of staying up")] = False,
) -> None:
    """Watch real models being released and rolled back."""
    from app.demo import run

    raise typer.Exit(run(port, speed, once))


def check_config(
    file: Annotated[Path, typer.Argument(help="Configuration file", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Say whether a configuration is usable. 0, or 2 and one line a fault."""
    from app.config import load

    try:
        settings = load(file)
    except ConfigurationError as error:
        if as_json:
            output.emit({"ok": False, "faults": error.faults})
            raise typer.Exit(2) from None
        raise
    versions = sum(len(model.versions) for model in settings.models.values())
    if as_json:
        output.emit({"ok": True, "faults": [], "models": list(settings.models)})
    else:
        sys.stdout.write(f"{file}: good; models: {len(settings.models)}, versions: {versions}\n")


def migrate(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Bring the store's schema up to date. Repeating it changes nothing."""
    from app.config import load
    from app.config.masking import masked

    url = load(_configuration(config)).store.url
    from app.adapters.migrations import revisions, upgrade

    if url.startswith("sqlite:///"):
        _make_directory(Path(url.removeprefix("sqlite:///")).parent)
    before, _ = revisions(url)
    upgrade(url)
    after, _ = revisions(url)
    if as_json:
        output.emit({"store": masked(url), "before": before, "after": after})
    elif before == after:
        output.say(f"{masked(url)}: up to date at {after}")
    else:
        output.say(f"{masked(url)}: brought from {before or 'nothing'} to {after}")


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigurationError(
            [f"store.url: {path}: {error.strerror}; name a place that this user can write to"]
        ) from None


def _configuration(file: Path | None) -> Path | None:
    """The file that was named, here or in the environment."""
    from app import config

    known = config.client().config
    return file or (Path(known) if known else None)
