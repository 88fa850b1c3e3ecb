"""The gateway's code as it was when the benchmark began: a run takes minutes, and half an edit must not be measured.

Two trees: `plain` holds the sources; `compiled` holds them with the data plane's C extensions beside them, when
`make compiled` has made these from the very same sources. Extensions of other sources are never used.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.peers.processes import PeerError

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("app", "migrations")
BUILT = ROOT / ".cache" / "compiled"


def take(directory: Path, sources: Path = ROOT, built: Path = BUILT) -> str:
    """Copy into `directory`; a remark on why there is no `compiled` tree, or nothing."""
    ignore = shutil.ignore_patterns("*.so")
    for part in PARTS:
        if (sources / part).is_dir():
            shutil.copytree(sources / part, directory / "plain" / part, ignore=ignore)
    extensions = sorted(built.rglob("*.so"))
    if not extensions:
        return "the data plane is not compiled; `make compiled` does it"
    for extension in extensions:
        if extension.parent == built:
            continue  # the shared part of all; it belongs to no one source
        name = extension.relative_to(built).with_name(extension.name.partition(".")[0] + ".py")
        if not _same(built / name, directory / "plain" / name):
            return f"the compiled data plane is older than {name}; `make compiled` brings it up to date"
    shutil.copytree(directory / "plain", directory / "compiled")
    for extension in extensions:
        shutil.copy2(extension, directory / "compiled" / extension.relative_to(built))
    return ""


def check(directory: Path) -> None:
    """Raise PeerError when the copied sources cannot even be imported: they were copied in the middle of an edit."""
    env = {**os.environ, "PYTHONPATH": str(directory / "plain")}
    modules = "import app.cli, app.compose, app.proxy.worker"
    done = subprocess.run(
        [sys.executable, "-P", "-c", modules],
        capture_output=True,
        text=True,
        env=env,
        timeout=60,
        check=False,
    )
    if done.returncode != 0:
        raise PeerError(f"the gateway cannot be imported: {done.stderr.strip().splitlines()[-1]}")


def tree(directory: Path, *, compiled: bool) -> Path:
    """The tree to run, compiled only when asked for and there."""
    wanted = directory / "compiled"
    return wanted if compiled and os.path.isdir(wanted) else directory / "plain"


def _same(one: Path, other: Path) -> bool:
    return one.is_file() and other.is_file() and one.read_bytes() == other.read_bytes()
