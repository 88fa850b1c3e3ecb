from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.cli import main
from tests.scripted_api import ScriptedApi, scripted_api


@dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ran]


@pytest.fixture
def api() -> Iterator[ScriptedApi]:
    with scripted_api() as running:
        yield running


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, api: ScriptedApi
) -> Run:
    """Runs a command in an empty directory against the scripted API, with the token `t`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GATEWAY_URL", api.url)
    monkeypatch.setenv("GATEWAY_TOKEN", "t")

    def ran(*arguments: str) -> Ran:
        capsys.readouterr()
        status = main(arguments)
        return Ran(status, *capsys.readouterr())

    return ran
