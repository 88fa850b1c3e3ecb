"""docker-compose.yml, judged by the Compose specification's own JSON schema. Without an engine nothing is started; what the containers
run is tested apart: the image's steps (test_deploy.py), the configurations (tests/test_deploy.py), the model server (tests/demo).

Not checked: that the images of others can be pulled, and what Docker makes of the file beyond its schema.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from tests.interop.environment import python
from tests.system import ROOT

pytestmark = [pytest.mark.interop, pytest.mark.xdist_group("deploy")]


def judged(file: Path) -> subprocess.CompletedProcess[str]:
    program = python("deploy").parent / "check-jsonschema"
    command = [str(program), "--builtin-schema", "vendor.compose-spec", str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_file_is_what_the_specification_allows() -> None:
    said = judged(ROOT / "docker-compose.yml")
    assert said.returncode == 0, said.stdout + said.stderr


@pytest.mark.parametrize(
    "wrong",
    [
        {"stop_graceperiod": "40s"},
        {"healthcheck": {"test": 5}},
        {"depends_on": {"redis": {"condition": "soon"}}},
    ],
)
def test_a_file_that_is_wrong_would_be_noticed(wrong: dict[str, object], tmp_path: Path) -> None:
    document = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    document["services"]["gateway"] |= wrong
    file = tmp_path / "docker-compose.yml"
    file.write_text(yaml.safe_dump(document))
    assert judged(file).returncode == 1
