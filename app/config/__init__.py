"""The configuration: one YAML file, the environment over it, the command line over both.

Nothing else reads the environment. `load` gives settings that the gateway can be started with, or every fault
at once. Settings go no further than the composition root; `app.config.values` makes policies of them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from app.config import consistency, document, environment, faults
from app.config.document import Document, DocumentError, Keys, Tree
from app.config.environment import Client
from app.config.schema import Settings
from app.config.values import auth, journal, models, registry, server, telemetry, webhooks
from app.errors import ConfigurationError

__all__ = [
    "Client",
    "Settings",
    "auth",
    "client",
    "journal",
    "load",
    "models",
    "registry",
    "server",
    "telemetry",
    "webhooks",
]


def load(
    path: Path | None, overrides: Mapping[str, object] | None = None, environ: Mapping[str, str] | None = None
) -> Settings:
    """Settings from the file, then the environment, then `overrides` (nested; None leaves a key alone).

    Without a file everything has its default and there is no model. `ConfigurationError` holds every fault.
    """
    found = Document()
    if path is not None:
        try:
            found = document.read(path)
        except DocumentError as error:
            named = f"{faults.path(error.path)}: " if error.path else ""
            wrong, semicolon, remedy = error.what.partition("; ")
            place = f" (line {error.line})" if error.line else ""
            raise ConfigurationError([f"{path}: {named}{wrong}{place}{semicolon}{remedy}"]) from None
    changed = environment.overlay(found.tree, os.environ if environ is None else environ)
    given: set[Keys] = set()
    _lay_over(found.tree, overrides or {}, (), given)
    narrator = faults.Narrator(path, found, changed.origins, given)
    try:
        settings = Settings.model_validate(found.tree)
    except ValidationError as error:
        lines = [narrator.line(*one) for one in faults.all_worded(error, found.tree)]
        raise ConfigurationError(changed.faults + lines) from None
    lines = changed.faults + [narrator.line(*one) for one in consistency.faults(settings)]
    if lines:
        raise ConfigurationError(lines)
    return settings


def client(environ: Mapping[str, str] | None = None) -> Client:
    """What the command line takes from the environment when an option is not given."""
    return environment.client(os.environ if environ is None else environ)


def _lay_over(tree: Tree, overrides: Mapping[str, object], at: Keys, given: set[Keys]) -> None:
    for key, value in overrides.items():
        inner = tree.get(key)
        if isinstance(value, Mapping):
            if not isinstance(inner, dict):
                inner = tree[key] = {}
            _lay_over(inner, value, (*at, key), given)
        elif value is not None:
            tree[key] = value
            given.add((*at, key))
