"""A name that stands for an allowed address when it is registered and for another when it is connected to gets nowhere.

0.0.0.0 is the forbidden address here that this host would answer at: a gateway that connected to it would reach the test's own server.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from app.domain.model import Match, Model, Version
from app.proxy.upstream import Upstream
from tests.misbehaving import MisbehavingUpstream
from tests.proxy.test_outliers import ask
from tests.worker import running_worker

REQUEST = b"POST /m/close_after_answer HTTP/1.1\r\nHost: t\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("addresses", "error", "status"),
    [
        (["127.0.0.1"], "", 200),
        (["0.0.0.0"], "unreachable", 0),
        (["169.254.169.254"], "unreachable", 0),
        (["::ffff:0.0.0.0"], "unreachable", 0),
        (["::ffff:169.254.169.254"], "unreachable", 0),
        (["::169.254.169.254"], "unreachable", 0),
        (["64:ff9b:1::a9fe:a9fe"], "unreachable", 0),
        (["fd20:ce::254"], "unreachable", 0),
        (["168.63.129.16"], "unreachable", 0),
        (["0.0.0.0", "127.0.0.1"], "", 200),  # the allowed ones are tried
        ([], "unreachable", 0),
    ],
)
async def test_the_address_that_is_checked_is_the_one_connected_to(
    monkeypatch: pytest.MonkeyPatch,
    upstream: MisbehavingUpstream,
    addresses: list[str],
    error: str,
    status: int,
) -> None:
    loop = asyncio.get_running_loop()
    real = socket.getaddrinfo
    asked: list[str] = []

    def resolver(host: str, port: int, **more: int) -> list[Any]:
        if host != "model.internal":
            return list(real(host, port, **more))
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    before = upstream.count()
    version = Upstream(
        loop, (f"http://model.internal:{upstream.port}/ok",), timeout_s=5.0, connect_timeout_s=5.0
    )
    attempt = await ask(version)
    version.close()
    assert (attempt.error, attempt.status) == (error, status)
    assert asked == ["model.internal"]  # once: no second answer could differ from the one that was checked
    assert upstream.count() - before == (status == 200)


async def test_an_address_written_in_the_file_is_the_operators_own_word(
    upstream: MisbehavingUpstream,
) -> None:
    """Through the API it is refused (test_upstream_policy): what a worker gets as an address comes from the file."""
    loop = asyncio.get_running_loop()
    url = f"http://0.0.0.0:{upstream.port}/ok"
    version = Upstream(loop, (url,), timeout_s=5.0, connect_timeout_s=5.0)
    attempt = await ask(version)
    version.close()
    assert (attempt.error, attempt.status) == ("", 200)


def test_a_name_that_changes_its_address_while_the_gateway_runs_is_refused(
    tmp_path: Path, upstream: MisbehavingUpstream
) -> None:
    """With the system's own resolver, whose hosts file changes below a running worker."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("only root can give a worker a hosts file of its own; the test above needs no root")
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 model.internal\n")
    version = Version("v1", (f"http://model.internal:{upstream.port}",), connect_timeout_s=5.0)
    model = Model("m", "v1", (version,), match=Match("/m", strip=True))
    before = ("unshare", "-m", "sh", "-c", f'mount --bind {hosts} /etc/hosts && exec "$@"', "sh")
    with running_worker([model], before=before) as worker:
        assert worker.raw(REQUEST).startswith(b"HTTP/1.1 200 ")
        for address in ("0.0.0.0", "169.254.169.254", "::ffff:0.0.0.0"):
            reached = upstream.count()
            hosts.write_text(f"{address} model.internal\n")
            answer = worker.raw(REQUEST)
            assert answer.startswith(b"HTTP/1.1 502 ")
            assert b"X-Gateway-Error: upstream_unreachable" in answer
            assert upstream.count() == reached
        hosts.write_text("127.0.0.1 model.internal\n")
        assert worker.raw(REQUEST).startswith(b"HTTP/1.1 200 ")
