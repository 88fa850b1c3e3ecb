"""The guides for other projects' servers, run as they stand: each block of shell, in order, in one shell."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.guides import commands, said
from tests.interop.environment import HERE, python
from tests.interop.processes import QUIET
from tests.ports import free_port
from tests.system import ROOT

pytestmark = pytest.mark.interop

GUIDES = ROOT / "docs" / "guides"
INSTALLING = re.compile(
    r"\. \.venv/bin/activate\npython -m venv servers\nservers/bin/pip install --quiet (.*)\n"
)
PORT = re.compile(r"\b(?:8080|5000|900[1-9])\b")
LIMIT_S = 400  # on a busy machine; a minute on a quiet one


def script(guide: str, directory: Path) -> str:
    """All shell blocks with free ports and a directory of our own; the environments are there already."""
    text = commands(GUIDES / guide)
    ports = {port: str(free_port()) for port in sorted(set(PORT.findall(text)))}
    installed = INSTALLING.search(text)
    assert installed is not None
    for name, version in re.findall(r"([a-z-]+)(?:\[\w+\])?==([0-9.]+)", installed[1]):
        assert re.search(
            rf"^{name}(\[\w+\])?=={version} ", (HERE / "servers.lock").read_text(), re.MULTILINE
        ), name
    text = PORT.sub(lambda found: ports[found[0]], INSTALLING.sub("", text))
    servers = python("servers").parent
    text = text.replace("$PWD/servers/bin", f"{servers}").replace("servers/bin/", f"{servers}/")
    text = text.replace(f"{guide.removesuffix('.md')}-guide", str(directory))
    return f"set -eu\nexport GATEWAY_URL=http://127.0.0.1:{ports['8080']}\n{text}\nkill $(jobs -p)\nwait || true\n"


EXPECTED = {
    "kserve.md": [
        r"classes \[0, 2\]",
        r'"predict\[0\]":\s*5\.1.* 0(\.0)? 0\.98 None',
        r'"accepted":1',
        r":1 .* 2(\.0)? 0\.92 2(\.0)?\n",
    ],
    "mlflow.md": [
        r'"predictions": \[0, 2\]',
        r'"predictions": \[1\]',
        r'"registry_uri":"models:/iris/2"',
        r"\{'champion': '?2'?\}",
    ],
    "openai.md": [
        r"whole +(\w.*)\nstreamed +\1",
        r"the gateway -> .*\| \d+ tokens, (stop|length) \| first byte after \d",
        r'gateway_first_byte_seconds_count\{model="chat",role="production",version="v1"\} [12]\.0',
    ],
}


@pytest.mark.parametrize(("guide", "expected"), EXPECTED.items(), ids=list(EXPECTED))
def test_a_guide_does_what_it_says(guide: str, expected: list[str], tmp_path: Path) -> None:
    said(script(guide, tmp_path / "g"), tmp_path / "output", LIMIT_S, expected, **QUIET)
