"""Environments of their own for other people's servers and clients, from lock files with hashes: never into the project's.

`python -m tests.interop.environment` makes them all ahead of the tests. What cannot be installed ends in an error, never in
a skipped test. They lie under .cache/ and are made again only when their lock file changes.
"""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
CACHE = HERE.parent.parent / ".cache"
# KServe and MLServer want different releases of the same libraries.
PLACES = {
    "servers": CACHE / "interop",
    "kserve": CACHE / "interop-kserve",
    "lake": CACHE / "interop-lake",  # DuckDB, and an S3 server
}


class NotInstalledError(RuntimeError):
    """An environment could not be made; the message holds what pip said."""


def python(name: str) -> Path:
    """The interpreter of an environment, which is made when it is missing or its lock file has changed."""
    directory = PLACES[name]
    lock = HERE / f"{name}.lock"
    wanted = hashlib.sha256(lock.read_bytes()).hexdigest()
    stamp = directory / "holds"
    interpreter = directory / "bin" / "python"
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f"{directory.name}.busy").open("w") as busy:
        fcntl.flock(busy, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != wanted:
            began = time.monotonic()
            _run(sys.executable, "-m", "venv", "--clear", str(directory))
            _run(
                str(interpreter), "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet",
                "--require-hashes", "--requirement", str(lock),
            )  # fmt: skip
            stamp.write_text(wanted)
            sys.stderr.write(f"{directory.name} installed in {time.monotonic() - began:.0f} s\n")
    return interpreter


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotInstalledError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    for each in PLACES:
        python(each)
