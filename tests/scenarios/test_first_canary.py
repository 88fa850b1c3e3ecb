"""The guide "Your first canary", run as it stands: each block of shell, in order, in one shell."""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.guides import commands, said
from tests.ports import free_port
from tests.system import ROOT

pytestmark = pytest.mark.stories

GUIDE = ROOT / "docs" / "guides" / "first-canary.md"
PORTS = ("8080", "9001", "9002", "9003")
SHORTER = {
    "dwell_s: 5,": "dwell_s: 2,",
    "--rate 60": "--rate 150",
}  # a test has less time


def script(directory: str) -> str:
    """All shell blocks with free ports and a directory of our own; this interpreter's environment is set up already."""
    text = commands(GUIDE)
    for port in PORTS:
        text = text.replace(port, str(free_port()))
    for there, here in SHORTER.items():
        assert there in text
        text = text.replace(there, here)
    text = text.replace("make -s setup\n. .venv/bin/activate\n", "").replace("first-canary/", f"{directory}/")
    text = text.replace("examples.train first-canary", f"examples.train {directory}")
    gateway = re.search(r"http://127\.0\.0\.1:\d+(?=/readyz)", text)
    assert gateway is not None
    # The commands and the examples find a gateway on another port by these.
    text = text.replace("examples.clients", f"examples.clients --gateway {gateway[0]}")
    return f"set -eu\nexport GATEWAY_URL={gateway[0]}\n{text}\nkill $(jobs -p)\nwait\n"


def test_the_first_guide_does_what_it_says(tmp_path: Path) -> None:
    expected = (
        r"v2\.joblib: 30 features, 9\d\.\d% right",
        r"(?i)x-model-version: v1",
        r"[1-9]\d* pairs, the same answer in 0\.\d+",
        r"promoted",
        r"v2 0\.9\d+ coverage (1\.0|0\.9\d+)",
        r"v3 was taken out",
        r'"action":"rollback"|"action":"rollout.rollback"',
        r'"dropped":\{\},|"dropped":\{("[a-z_]+":0,?)+\}',
        r"v1: \d+ answers with an outcome, 8\d\.\d% right",
    )
    with TemporaryDirectory(prefix="guide") as directory:
        said(script(directory), tmp_path / "output", 200, expected)
