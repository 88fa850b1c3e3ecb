"""A user's hand on an MLflow tracking server: `tracking.py URL STEP…`, in order: `register MODEL SOURCE [TAG=VALUE…]` makes a version,
`alias MODEL ALIAS VERSION` names one; steps are separated by `,`. Prints the numbers of the versions made as JSON.
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


def main(url: str, *words: str) -> list[str]:
    client = MlflowClient(url)
    made = []
    for step in " ".join(words).split(" , "):
        action, *rest = step.split()
        if action == "register":
            made.append(str(register(client, *rest)))
        else:
            alias(client, *rest)
    return made


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
