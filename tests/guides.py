"""Guides as they are run: the shell blocks of a page, in order, in one shell."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.ports import free_port
from tests.system import ROOT


def commands(page: Path) -> str:
    """All shell blocks of a page."""
    return "\n".join(re.findall(r"^```sh\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL))


@contextmanager
def shell(text: str, output: Path, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """A shell that leads its own group, so that whatever it started ends with it. This interpreter's programs come first."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with (
        output.open("wb") as file,
        subprocess.Popen(
            ["bash", "-c", text],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PATH": path, **variables},
        ) as process,
    ):
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def said(text: str, output: Path, limit_s: float, expected: Iterable[str], **variables: str) -> None:
    """Run it to its end: it must succeed within the limit, say each of the expected, and never show a traceback."""
    status = None
    with shell(text, output, **variables) as process, suppress(subprocess.TimeoutExpired):
        status = process.wait(timeout=limit_s)
    told = output.read_text()
    assert status == 0, told
    for one in expected:
        assert re.search(one, told), f"no {one!r} in:\n{told}"
    assert "Traceback" not in told, told


def readme(directory: Path) -> tuple[str, str]:
    """README's ten minutes in a directory of their own, on free ports, and the gateway's address. The set-up is done already."""
    text = commands(ROOT / "README.md")
    assert "make -s setup && . .venv/bin/activate\n" in text
    text = text.replace("make -s setup && . .venv/bin/activate\n", "")
    shutil.copy(ROOT / "gateway.example.yaml", directory)
    ports = {port: str(free_port()) for port in ("8080", "9001", "9002")}
    for port, free in ports.items():
        text = text.replace(port, free)
        file = directory / "gateway.example.yaml"
        file.write_text(file.read_text().replace(port, free))
    gateway = f"http://127.0.0.1:{ports['8080']}"
    assert "examples.clients " in text
    text = text.replace("examples.clients ", f"examples.clients --gateway {gateway} ")
    return (
        f"cd {directory}\nset -eu\nexport GATEWAY_URL={gateway}\n{text}\nkill $(jobs -p)\nwait || true\n",
        gateway,
    )
