"""The guide "Outcomes from a warehouse", run as it stands: each block of shell, in order, in one shell."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.guides import commands, said
from tests.ports import free_port
from tests.system import ROOT

pytestmark = pytest.mark.stories

GUIDE = ROOT / "docs" / "guides" / "feedback.md"


def script(directory: str) -> str:
    """All shell blocks with free ports and a directory of our own; this interpreter's environment is set up already."""
    text = commands(GUIDE)
    gateway = str(free_port())
    text = text.replace("8080", gateway).replace("9002", str(free_port()))
    text = text.replace("make -s setup\n. .venv/bin/activate\n", "").replace("feedback-guide", directory)
    return f"set -eu\nexport GATEWAY_URL=http://127.0.0.1:{gateway}\n{text}\nkill $(jobs -p)\nwait\n"


def test_the_feedback_guide_does_what_it_says(tmp_path: Path) -> None:
    expected = (
        r'\{"accepted":1,"duplicates":0,"rejected":\[\]\}',
        r"rows +3\naccepted +3\nduplicates +0\nrejected +0",
        r'"rows": 3, "accepted": 0, "duplicates": 3',
        r'"accepted":1,"duplicates":0,"rejected":\[.*"index":2,"reason":"there is no model',
        r'"index":1,"reason":"ground_truth: a binary outcome is',
        r"prediction \S+ truth 1",
        r"A-3: predicted [01], was 1\nA-4: predicted [01], was 1",
        r"v2 coverage 1\.0 .*are needed",
    )
    with TemporaryDirectory(prefix="guide") as directory:
        said(script(directory), tmp_path / "output", 200, expected)
