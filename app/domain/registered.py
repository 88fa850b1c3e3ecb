"""A version as a model registry knows it."""

from __future__ import annotations

from dataclasses import dataclass

NUMBER = "mlflow_version"
"""The key of a version's metadata that holds its number in MLflow's registry."""


@dataclass(frozen=True, slots=True)
class RegisteredVersion:
    """`url` is where it is served, when the registry says so (tag `gateway.url`)."""

    number: str
    source: str
    url: str | None = None


def uri(name: str, number: str) -> str:
    """MLflow's URI of a registered version."""
    return f"models:/{name}/{number}"
