"""Disks of a limited size, and what lies on them: a tmpfs in a mount namespace that one process keeps, so that its users may come and go.

Needs root.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import PostgresServer


def skip_unless_mountable() -> None:
    probe = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False)
    if probe.returncode or os.geteuid() != 0:
        pytest.skip("only root can mount a file system of a limited size")


class SmallDisk:
    """Lies over a directory, whose content it takes in, for those that are started behind `command`. `path` is the way in from outside."""

    def __init__(self, directory: Path, mib: int, owner: str | None = None) -> None:
        self.directory = directory
        new = directory.with_name(directory.name + ".disk")
        new.mkdir()
        mount = (
            f"mount -t tmpfs -o size={mib}m,mode=700 tmpfs {new} && cp -a {directory}/. {new} && "
            f"mount --bind {new} {directory} && echo mounted && exec cat"
        )
        self._keeper = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", mount],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._keeper.stdout is not None
        assert self._keeper.stdout.readline() == "mounted\n"
        self.path = Path(f"/proc/{self._keeper.pid}/root{directory}")
        self.command = ["nsenter", "-t", str(self._keeper.pid), "-m"]
        if owner is not None:
            group = pwd.getpwnam(owner).pw_gid
            self.command += [
                "setpriv",
                f"--reuid={owner}",
                f"--regid={group}",
                "--clear-groups",
                "--pdeathsig=KILL",
            ]
            os.chown(self.path, pwd.getpwnam(owner).pw_uid, group)

    @property
    def free(self) -> int:
        """Bytes."""
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def fill(self) -> None:
        """To the last block."""
        with (self.path / "filler").open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(1 << 20))
        with (self.path / "filler").open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))

    def make_room(self) -> None:
        (self.path / "filler").unlink(missing_ok=True)

    def close(self) -> None:
        self._keeper.communicate(timeout=10)


class CrampedPostgres(PostgresServer):
    """Its data lies on a small disk: all of it, or all but its write-ahead log."""

    def __init__(self, mib: int, *, log_too: bool) -> None:
        # A short log: what is free is for the tables to fill.
        super().__init__({"max_wal_size": "64MB", "min_wal_size": "32MB"})
        data = self.directory / "data"
        if not log_too:
            (data / "pg_wal").rename(self.directory / "wal")
            (data / "pg_wal").symlink_to(self.directory / "wal")
        self._owner, self._user = self._user, None
        self.disk = SmallDisk(data, mib, self._owner)

    def _command(self) -> list[str]:
        return [*self.disk.command, *super()._command()]

    def remove(self) -> None:
        self.stop()
        self.disk.close()
        super().remove()


@contextlib.contextmanager
def cramped_postgres(mib: int, *, log_too: bool) -> Iterator[CrampedPostgres]:
    server = CrampedPostgres(mib, log_too=log_too)
    try:
        server.start()
        yield server
    finally:
        server.remove()
