"""A whole gateway as a user starts it: `python -m app serve` with a file, real model servers behind it, its admin API in front."""

from __future__ import annotations

import contextlib
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import yaml

from tests.worker import eventually

ROOT = Path(__file__).parent.parent
# Trusts nobody. Without it each client would read all of the system's authorities, which takes longer than the call.
PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@dataclass
class RunningGateway:
    directory: Path
    port: int
    configuration: Path
    process: subprocess.Popen[bytes]
    roles: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def token(self) -> str:
        return (self.directory / "data" / "admin-token").read_text().strip()

    def admin(self, method: str, path: str, body: object = None, **headers: str) -> httpx2.Response:
        """One call of the API with the admin token."""
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        with httpx2.Client(trust_env=False, timeout=20.0, verify=PLAIN) as client:
            return client.request(
                method,
                self.url + path,
                json=body,
                headers={"Authorization": f"Bearer {self.token}", **headers},
            )

    def get(self, path: str) -> Any:
        reply = self.admin("GET", path)
        assert reply.status_code == 200, (path, reply.status_code, reply.text)
        return reply.json()

    def set_flags(self, model: str, reason: str = "test", **flags: object) -> Any:
        reply = self.admin("PATCH", f"/admin/models/{model}/flags", {**flags, "reason": reason})
        assert reply.status_code == 200, reply.text
        return reply.json()

    def accounting(self) -> Any:
        return self.get("/admin/accounting")

    def settled(self, within_s: float = 20.0, *, received: int = 0) -> Any:
        """The accounts once nothing is pending and so many records came in: copies are still under way when the clients have theirs."""

        def accounts() -> Any:
            found = self.accounting()
            return found["pending"] == 0 and found["received"] >= received and found

        return eventually(accounts, within_s, f"an empty journal after {received} records")

    def children(self) -> list[int]:
        """Process ids of workers and control process."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        with contextlib.suppress(OSError):
            return [int(pid) for pid in path.read_text().split()]
        return []

    def child(self, role: str) -> int:
        """The process id of a child by its role: worker or control."""
        for pid in self.children():
            with contextlib.suppress(OSError):
                if f"app.main\0{role}".encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return pid
        raise AssertionError(f"no {role} among {self.children()}")

    def kill_everything(self) -> None:
        """SIGKILL to supervisor and children, as a power button would."""
        pids = [self.process.pid, *self.children()]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(10)
        for pid in pids[1:]:
            eventually(lambda pid=pid: not Path(f"/proc/{pid}").exists() or _zombie(pid), what="the end")  # type: ignore[misc]

    def start_again(self, *, control: bool = True) -> None:
        """Start anew; without `control`, wait only for the workers."""
        self.process = _start(self.directory, self.configuration, self.roles, self.environment)
        if control:
            self.wait_until_up()
        else:
            eventually(self._ready, 60.0, "a worker that answers")

    def wait_until_up(self) -> None:
        eventually(self._up, 60.0, "a gateway that answers")

    def _ready(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"the gateway ended with {self.process.returncode}")
        try:
            return (
                httpx2.get(self.url + "/readyz", trust_env=False, timeout=2.0, verify=PLAIN).status_code
                == 200
            )
        except (httpx2.HTTPError, OSError):
            return False

    def _up(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"the gateway ended with {self.process.returncode}")
        try:
            reply = httpx2.get(self.url + "/readyz", trust_env=False, timeout=2.0, verify=PLAIN)
            return (
                reply.status_code == 200
                and "control" not in reply.json().get("degraded", [])
                and self.admin("GET", "/admin/models").status_code == 200
            )
        except (httpx2.HTTPError, OSError):
            return False


def _zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def _start(
    directory: Path, configuration: Path, roles: str | None, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "app", "serve", "--config", str(configuration)]
    if roles is not None:
        command += ["--roles", roles]
    with (directory / "gateway.log").open("ab") as log:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **environment},
        )


@contextlib.contextmanager
def running_gateway(
    directory: Path,
    models: Mapping[str, Any],
    *,
    port: int,
    roles: str | None = None,
    environment: Mapping[str, str] | None = None,
    **sections: Any,
) -> Iterator[RunningGateway]:
    """Start it with these models (as in the file) and further sections; end it with the block."""
    configuration = directory / "gateway.yaml"
    content = {
        "data_dir": str(directory / "data"),
        "store": {"url": f"sqlite:///{directory}/data/gateway.db"},
        "models": models,
        **sections,
    }
    content["server"] = {"port": port, **sections.get("server", {})}
    configuration.write_text(yaml.safe_dump(content))
    process = _start(directory, configuration, roles, environment or {})
    gateway = RunningGateway(directory, port, configuration, process, roles, environment or {})
    try:
        gateway.wait_until_up()
        yield gateway
    finally:
        _end(gateway)


def _end(gateway: RunningGateway) -> None:
    process = gateway.process
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            gateway.kill_everything()
    log = (gateway.directory / "gateway.log").read_text(errors="replace")
    sys.stdout.write(log[-4000:])
    assert "Traceback" not in log, "the gateway's log holds a traceback"
