"""The image runs as nobody in particular, on a file system that it cannot write to: as its files say, and as the gateway bears it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
import yaml

from tests.misbehaving import MisbehavingUpstream
from tests.ports import free_port
from tests.system import PLAIN, ROOT
from tests.worker import eventually


def stages() -> list[str]:
    return re.split(r"^FROM ", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)[1:]


def test_the_last_stage_has_no_root_no_tools_and_fetches_nothing() -> None:
    last = stages()[-1]
    users = re.findall(r"^USER (\S+)$", last, re.MULTILINE)
    assert users
    assert all(re.fullmatch(r"[1-9][0-9]*:[1-9][0-9]*", user) for user in users)
    after = last.rpartition(f"USER {users[-1]}")[2]
    assert not re.search(r"^(RUN|COPY|ADD) ", after, re.MULTILINE)
    assert not re.search(r"\b(pip|apt-get|curl|wget)\b", last)
    assert "ADD " not in "".join(stages())
    assert "--require-hashes" in stages()[0]
    assert re.findall(r"^VOLUME (\S+)$", last, re.MULTILINE) == ["/data"]


def test_the_composition_takes_every_right_away() -> None:
    composition = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    ours = [
        one
        for one in composition["services"].values()
        if one.get("build") or "model-gateway" in one.get("image", "")
    ]
    assert ours
    for service in ours:
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]
        assert "privileged" not in service


def test_the_gateway_serves_without_a_writable_file_system_and_without_any_capability(
    tmp_path: Path, upstream: MisbehavingUpstream
) -> None:
    """As in the composition: everything read-only but the data directory, no capability, no way to gain one.

    The user stays the test's own: its interpreter may lie where no other user can read it.
    """
    setpriv = shutil.which("setpriv")
    if (
        os.geteuid() != 0
        or setpriv is None
        or subprocess.run(["unshare", "-m", "true"], check=False).returncode
    ):
        pytest.skip("only root can take a child's rights away and mount its file system read-only")
    port = free_port()
    data = tmp_path / "data"
    data.mkdir()
    file = tmp_path / "gateway.yaml"
    model = {"match": {"path_prefix": "/m"}, "production": "v1", "versions": {"v1": {"url": upstream.url}}}
    file.write_text(yaml.safe_dump({"data_dir": str(data), "server": {"port": port}, "models": {"m": model}}))
    python = [sys.executable, "-m", "app", "serve", "--config", str(file)]
    script = (
        f"mount --bind {data} {data} && mount -o remount,bind,ro / && "
        f'exec {setpriv} --no-new-privs --bounding-set=-all --inh-caps=-all "$@"'
    )
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(data)}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", script, "sh", *python], cwd=ROOT, stdout=log, stderr=log, env=environment,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    try:

        def answered() -> bool:
            assert process.poll() is None, (tmp_path / "log").read_text()
            try:
                ready = httpx2.get(f"http://127.0.0.1:{port}/readyz", trust_env=False, verify=PLAIN).json()
            except (httpx2.HTTPError, OSError):
                return False
            return bool(ready["status"] == "ready")

        eventually(answered, 30.0, "a gateway that answers")
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE)
        assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
        assert (
            httpx2.post(
                f"http://127.0.0.1:{port}/m", content=b"{}", trust_env=False, verify=PLAIN
            ).status_code
            == 200
        )
        token = (data / "admin-token").read_text().strip()

        def stored() -> bool:
            reply = httpx2.get(
                f"http://127.0.0.1:{port}/admin/accounting",
                headers={"Authorization": f"Bearer {token}"},
                trust_env=False,
                verify=PLAIN,
            )
            return bool(reply.json()["stored"] == 1)

        eventually(stored, 20.0, "the stored prediction")
    finally:
        process.terminate()
        process.wait(30)
