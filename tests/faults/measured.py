"""Costs that are measured apart: a benchmark in a process of its own, with cores of its own, whose figures go into the report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def measured(module: str, *arguments: str, within_s: float = 900.0) -> dict[str, Any]:
    """What `python -m MODULE --json` prints; its exit code says whether the goal was met, which the caller judges by the figures."""
    command = [sys.executable, "-m", module, "--json", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=within_s)
    assert done.returncode in (0, 1), done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found
