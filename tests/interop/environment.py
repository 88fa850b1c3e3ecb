"""Environments of their own for other people's servers and clients, from lock files with hashes: never into the project's.

`python -m tests.interop.environment` makes them all ahead of the tests. What cannot be installed ends in an error, never in
a skipped test. They lie under .cache/ and are made again only when their lock file changes. uv fills them, since pip takes
minutes where it takes seconds; pip brings uv itself.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
CACHE = HERE.parent.parent / ".cache"
# By the name of the lock file. KServe and MLServer want different releases of the same libraries.
PLACES = {
    "servers": CACHE / "interop",
    "kserve": CACHE / "interop-kserve",
    "lake": CACHE / "interop-lake",  # DuckDB, and an S3 server
    "audit": CACHE / "pip-audit",
    "schemathesis": CACHE / "schemathesis",
    "fuzz": CACHE / "fuzz",
    "deploy": CACHE / "deploy",  # Kubernetes' schemas, hadolint
}
UV = CACHE / "uv"


class NotInstalledError(RuntimeError):
    """An environment could not be made; the message holds what pip or uv said."""


def python(name: str) -> Path:
    """The interpreter of one of `PLACES`."""
    return filled(PLACES[name], HERE / f"{name}.lock")


def filled(directory: Path, lock: Path) -> Path:
    """The interpreter of an environment, which is made when it is missing or its lock file has changed."""
    wanted = hashlib.sha256(lock.read_bytes()).hexdigest()
    stamp = directory / "holds"
    interpreter = directory / "bin" / "python"
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "environments.busy").open("w") as busy:
        fcntl.flock(busy, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != wanted:
            began = time.monotonic()
            uv = str(_uv())
            _run(uv, "venv", "--quiet", "--clear", "--no-project", "--python", sys.executable, str(directory))
            _run(
                uv, "pip", "install", "--quiet", "--python", str(interpreter), "--require-hashes", "--requirement", str(lock),
            )  # fmt: skip
            stamp.write_text(wanted)
            sys.stderr.write(f"{directory.name} installed in {time.monotonic() - began:.0f} s\n")
    return interpreter


def _uv() -> Path:
    """uv, in the release and with the hash of its lock file."""
    lock = HERE / "uv.lock"
    wanted = hashlib.sha256(lock.read_bytes()).hexdigest()
    stamp = UV / "holds"
    if not stamp.exists() or stamp.read_text() != wanted:
        _run(
            sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet", "--upgrade",
            "--no-deps", "--require-hashes", "--target", str(UV), "--requirement", str(lock),
        )  # fmt: skip
        stamp.write_text(wanted)
    return UV / "bin" / "uv"


def _run(*command: str) -> None:
    environment = {**os.environ, "UV_CACHE_DIR": str(CACHE / "uv-cache"), "UV_NO_CONFIG": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise NotInstalledError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    for each in PLACES:
        python(each)
