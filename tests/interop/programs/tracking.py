"""A user's hand on an MLflow tracking server: `tracking.py URL register MODEL SOURCE [TAG=VALUE…]`, `alias MODEL ALIAS VERSION`,
`aliases MODEL`; prints the answer as JSON.
"""

from __future__ import annotations

import contextlib
import json
import sys

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient


def register(client: MlflowClient, model: str, source: str, *tags: str) -> str:
    """The new version's number."""
    with contextlib.suppress(MlflowException):  # it exists
        client.create_registered_model(model)
    return client.create_model_version(model, source, tags=dict(tag.split("=", 1) for tag in tags)).version


def alias(client: MlflowClient, model: str, name: str, version: str) -> None:
    client.set_registered_model_alias(model, name, version)


def aliases(client: MlflowClient, model: str) -> dict[str, str]:
    return {name: str(version) for name, version in client.get_registered_model(model).aliases.items()}


if __name__ == "__main__":
    url, action, *rest = sys.argv[1:]
    print(
        json.dumps(
            {"register": register, "alias": alias, "aliases": aliases}[action](MlflowClient(url), *rest)
        )
    )
