"""Tokens and certificates are replaced while the gateway runs: SIGHUP, no restart of anything that serves, no request refused."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx2
import yaml

from app.domain.model import Match, Model, Version
from app.domain.policy import AuthPolicy, Token
from tests.certificates import Authority
from tests.misbehaving import MisbehavingUpstream
from tests.ports import free_port
from tests.security.tokens import raw, request, status_of
from tests.system import ROOT, RunningGateway, running_gateway
from tests.worker import eventually, running_worker

FLAGS = "/admin/models/m/flags"


def model(upstream: MisbehavingUpstream) -> dict[str, Any]:
    versions = {name: {"url": upstream.url} for name in ("v1", "v2")}
    return {"m": {"match": {"path_prefix": "/m"}, "production": "v1", "versions": versions}}


def digest(token: str) -> str:
    return sha256(token.encode()).hexdigest()


def status(gateway: RunningGateway, token: str) -> int:
    return status_of(raw(gateway.port, request("GET", FLAGS, token=token)))


def may_force(gateway: RunningGateway, token: str) -> bool:
    answer = raw(gateway.port, request("GET", "/m", "X-Gateway-Version: v2", token=token))
    return status_of(answer) == 200 and b"X-Model-Version: v2" in answer


def rewrite(gateway: RunningGateway, *digests: str) -> None:
    content = yaml.safe_load(gateway.configuration.read_text())
    content["auth"] = {"tokens": [{"name": "ops", "sha256": list(digests), "scopes": ["admin"]}]}
    gateway.configuration.write_text(yaml.safe_dump(content))
    gateway.process.send_signal(signal.SIGHUP)


def test_a_token_is_replaced_while_both_are_good_and_nothing_restarts_but_workers(
    tmp_path: Path, upstream: MisbehavingUpstream
) -> None:
    old, new = "the-old-token-of-a-test", "the-new-token-of-a-test"
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "data" / "admin-token").write_text(old)  # where RunningGateway looks for its own
    auth = {"tokens": [{"name": "ops", "sha256": digest(old), "scopes": ["admin"]}]}
    with running_gateway(tmp_path, model(upstream), port=free_port(), auth=auth) as gateway:
        control = gateway.child("control")
        assert (status(gateway, old), status(gateway, new)) == (200, 401)

        rewrite(gateway, digest(old), digest(new))
        eventually(lambda: status(gateway, new) == 200, 20.0, "the new token's acceptance")
        assert status(gateway, old) == 200
        eventually(lambda: may_force(gateway, new), 20.0, "a worker that knows the new token")

        rewrite(gateway, digest(new))
        eventually(lambda: status(gateway, old) == 401, 20.0, "the old token's end")
        eventually(lambda: not may_force(gateway, old), 20.0, "a worker that has forgotten the old token")

        gateway.configuration.write_text("auth: {tokens: [{name: ops}]}\n")
        gateway.process.send_signal(signal.SIGHUP)
        log = tmp_path / "gateway.log"
        eventually(lambda: "SIGHUP: nothing was changed" in log.read_text(), what="the refusal in the log")
        assert "auth.tokens[0].sha256" in log.read_text()
        assert status(gateway, new) == 200

        assert gateway.child("control") == control
        assert old not in log.read_text()
        assert new not in log.read_text()
        audit = httpx2.get(
            gateway.url + "/admin/audit", headers={"Authorization": f"Bearer {new}"}, trust_env=False
        )
        assert audit.status_code == 200  # the name is the same as before: the log goes on under it


def test_guesses_through_a_forced_version_lock_out_nobody(upstream: MisbehavingUpstream) -> None:
    """Whoever shares the address with one who guesses, behind a load balancer for one, is served as before."""
    model = Model("m", "v1", (Version("v1", (upstream.url,)),), match=Match("/m"))
    good = "the-good-token-of-a-test"
    auth = AuthPolicy((Token("ops", digest(good), ("operate",)),))

    def forced(token: str) -> int:
        asked = request("GET", "/m", "X-Gateway-Version: v1", token=token)
        return status_of(worker.raw(asked, until_close=False))

    with running_worker([model], auth=auth) as worker:
        assert forced(good) == 200
        assert [forced(f"guess-{number}") for number in range(12)] == [403] * 12
        assert forced(good) == 200
        assert (
            status_of(worker.raw(request("GET", "/m"), until_close=False)) == 200
        )  # traffic is not concerned


def test_a_certificate_is_replaced_without_a_refused_connection(
    tmp_path: Path, upstream: MisbehavingUpstream
) -> None:
    authority = Authority(tmp_path, "authority")
    certificate, key = tmp_path / "live.pem", tmp_path / "live.key"

    def put(name: str) -> None:
        pair = authority.issue(name)
        shutil.copy(pair.certificate, certificate)
        shutil.copy(pair.key, key)

    put("first")
    port = free_port()
    file = tmp_path / "gateway.yaml"
    content = {
        "data_dir": str(tmp_path / "data"),
        "server": {"port": port, "tls": {"certificate": str(certificate), "key": str(key)}},
        "models": model(upstream),
    }
    file.write_text(yaml.safe_dump(content))
    command = [sys.executable, "-m", "app", "serve", "--config", str(file), "--roles", "proxy"]
    client = authority.client()

    def shown() -> str:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
            client.wrap_socket(plain, server_hostname="localhost") as tls,
        ):
            tls.sendall(b"GET /readyz HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
            assert tls.recv(12) == b"HTTP/1.1 200"
            subject: Any = tls.getpeercert()
            return str(subject["subject"][0][0][1])

    def up() -> bool:
        with contextlib.suppress(OSError, ssl.SSLError, AssertionError):
            return shown() == "first"
        return False

    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stderr=log, stdin=subprocess.DEVNULL)
    try:
        eventually(up, 30.0, "a gateway that speaks TLS")
        put("second")
        process.send_signal(signal.SIGHUP)
        eventually(
            lambda: shown() == "second", 20.0, "the new certificate"
        )  # `shown` fails if one connection does
        assert f"https://127.0.0.1:{port}" in (tmp_path / "log").read_text()
    finally:
        process.terminate()
        process.wait(30)
