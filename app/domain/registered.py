"""A version as a model registry knows it."""

from __future__ import annotations

from dataclasses import dataclass

from app.domain.model import Version

NUMBER = "mlflow_version"
"""The key of a version's metadata that holds its number in MLflow's registry."""
CHAMPION, CHALLENGER = "champion", "challenger"
"""MLflow's aliases: of the version that is production, and of one that wants to be."""


@dataclass(frozen=True, slots=True)
class RegisteredVersion:
    """`url` is where it is served, when the registry says so (tag `gateway.url`)."""

    number: str
    source: str
    url: str | None = None


def number_of(version: Version | None) -> str | None:
    """A version's number in the registry as the registry writes it; None when it has none there."""
    number = dict(version.metadata).get(NUMBER, "") if version is not None else ""
    return str(int(number)) if number.isdecimal() else None


def uri(name: str, number: str) -> str:
    """MLflow's URI of a registered version."""
    return f"models:/{name}/{number}"
