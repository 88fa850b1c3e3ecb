"""README's ten minutes, run as they stand by someone who has nothing but the README: a gateway before a model server, a canary,
a rollback, feedback. Only ports and directory are other ones, and the set-up is done already."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.guides import readme, said
from tests.system import ROOT

pytestmark = pytest.mark.interop

LIMIT_S = 240


def test_a_new_user_gets_a_canary_and_a_rollback_with_nothing_but_the_readme(tmp_path: Path) -> None:
    expected = (
        r"gateway\.yaml: good; models: 1, versions: 2",
        r"(?i)x-model-version: v1",
        r'"accepted":1',
        r"state +promoted",
        r"credit +\d+ +v2 ",
        r"state +rolled_back",
        r"reason +support reports odd answers",
        r"shadow_enabled +no",
    )
    with TemporaryDirectory(prefix="readme") as directory:
        text, _ = readme(Path(directory))
        said(text, tmp_path / "output", LIMIT_S, expected, PYTHONPATH=str(ROOT))
