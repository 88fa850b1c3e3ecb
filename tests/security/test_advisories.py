"""What we depend on, against the published advisories. Not to be able to ask is never taken for an answer."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.interop.environment import python

ROOT = Path(__file__).parent.parent.parent
# An advisory that does not concern us, with the reason: {"PYSEC-…": "only with option x, which is never set"}.
EXPLAINED: dict[str, str] = {}


@pytest.mark.interop
@pytest.mark.parametrize("lock", ["requirements.runtime.lock", "requirements.lock"])
def test_no_locked_dependency_has_a_known_vulnerability(lock: str) -> None:
    program = python("audit").with_name("pip-audit")
    command = [
        str(program),
        "--require-hashes",
        "--disable-pip",
        "--format",
        "json",
        "--progress-spinner",
        "off",
    ]
    done = subprocess.run(
        [*command, "-r", str(ROOT / lock)], capture_output=True, text=True, check=False, timeout=300
    )
    try:
        dependencies = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        pytest.skip(f"NOT AUDITED: no answer from the advisory service: {done.stderr.strip()[-300:]}")
    unknown = [one["name"] for one in dependencies if "skip_reason" in one]
    if len(unknown) == len(dependencies):  # an index that has packages and no advisories answers so
        pytest.skip(f"NOT AUDITED: the advisory service knows none of the {len(unknown)} packages")
    found = {
        f"{one['name']} {one['version']}: {flaw['id']}"
        for one in dependencies
        for flaw in one.get("vulns", [])
        if flaw["id"] not in EXPLAINED
    }
    assert found == set()
    assert unknown == []
