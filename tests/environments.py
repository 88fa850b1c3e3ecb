"""Environments of their own for other people's programs, below .cache/: nothing of theirs ever gets into the project's."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

CACHE = Path(__file__).parent.parent / ".cache"


def environment(name: str, *packages: str) -> Path:
    """The `bin` directory of an environment that holds these packages (exact versions); made when it is not there yet."""
    directory = CACHE / name
    CACHE.mkdir(exist_ok=True)
    wanted = "\n".join(packages)
    stamp = directory / "holds"
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != wanted:
            _run(sys.executable, "-m", "venv", "--clear", str(directory))
            _run(str(directory / "bin" / "python"), "-m", "pip", "install", "--quiet", *packages)
            stamp.write_text(wanted)
    return directory / "bin"


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
