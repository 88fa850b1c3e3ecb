"""What one client or one server may take of a worker: memory, descriptors, names to look up. And which port answers what."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from app.domain.model import Match, Model, Shadow, Version
from app.domain.policy import ServerPolicy
from app.proxy.upstream import Upstream
from tests.client import load, post
from tests.faults.observed import footprint
from tests.misbehaving import MisbehavingUpstream
from tests.proxy.test_canary_and_shadow import flags
from tests.proxy.test_outliers import ask
from tests.worker import eventually, read_all, read_answer, running_worker

GET = b"GET /m/ok HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"


def model(url: str, **changes: Any) -> Model:
    versions = (Version("v1", (url,), timeout_s=10.0), Version("v2", (url,), timeout_s=10.0))
    return Model("m", "v1", versions, match=Match("/m"), **changes)


def closed_within(client: socket.socket, within_s: float) -> float:
    """Seconds until the gateway has closed the connection. What it sends is not read: reading is what keeps a connection."""
    begun = time.monotonic()
    while time.monotonic() - begun < within_s:
        with contextlib.suppress(BlockingIOError):
            try:
                client.send(b"", socket.MSG_DONTWAIT)
                error = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            except OSError:
                return time.monotonic() - begun
            if error:
                return time.monotonic() - begun
        state = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        if state != 1:  # not ESTABLISHED
            return time.monotonic() - begun
        time.sleep(0.05)
    raise AssertionError(f"still open after {within_s} s")


def test_a_client_that_does_not_read_gets_no_further_answers_made_and_is_closed() -> None:
    policy = ServerPolicy(receive_timeout_s=1.0)
    with MisbehavingUpstream() as server, running_worker([model(server.url)], server=policy) as worker:
        before = footprint(worker.process.pid).resident_mib
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", worker.port))
            request = b"GET /m/long_body?bytes=200000 HTTP/1.1\r\nHost: t\r\n\r\n"
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.send(request * 2_000)
            closed_within(client, 15.0)
        # What fits into socket buffers and a buffer of the worker's own is made, and nothing like all of it.
        assert server.count() < 200
        assert footprint(worker.process.pid).resident_mib - before < 64


def test_a_trailer_without_end_is_refused() -> None:
    with MisbehavingUpstream() as server, running_worker([model(server.url)]) as worker:
        before = footprint(worker.process.pid).resident_mib
        with worker.connect() as client:
            client.settimeout(5)
            client.sendall(
                b"POST /m/ok HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-T: "
            )
            sent = 0
            with contextlib.suppress(OSError):  # reset, or broken, as the kernel likes
                while sent < 200 << 20:
                    client.sendall(b"a" * 65536)
                    sent += 65536
        assert sent < 64 << 20
        assert footprint(worker.process.pid).resident_mib - before < 32


async def test_a_shadows_trailer_without_end_is_cut_off() -> None:
    with MisbehavingUpstream() as v1, MisbehavingUpstream(default="endless_trailer") as v2:
        shadowed = Model(
            "m",
            "v1",
            (Version("v1", (v1.url,)), Version("v2", (v2.url,))),
            match=Match("/m"),
            shadow=Shadow(timeout_s=20.0, noise_sample=0.0),
        )
        with running_worker([shadowed], [flags("m", 0.0, ("v2",))]) as worker:
            before = footprint(worker.process.pid).resident_mib
            assert {a.status for a in await load(worker.port, [post("/m/x") for _ in range(20)])} == {200}
            eventually(lambda: len(worker.shadows("m")) == 20, 20.0, "the end of all copies")
            assert {r.error for r in worker.shadows("m")} == {"cut"}
            assert footprint(worker.process.pid).resident_mib - before < 64


async def test_names_that_nobody_answers_for_hold_up_no_other_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a shadow's would production's, were they looked up by the loop's few threads."""
    asked, over = [], threading.Event()
    real = socket.getaddrinfo

    def resolver(host: str, port: int, **more: int) -> list[Any]:
        asked.append(host)
        if host.startswith("dead"):
            over.wait(30)
            raise socket.gaierror("nobody answers")
        return list(real("127.0.0.1" if host == "prod.test" else host, port, **more))

    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    loop = asyncio.get_running_loop()
    with MisbehavingUpstream() as server:
        dead = [
            Upstream(loop, (f"http://dead{n}.test",), timeout_s=20, connect_timeout_s=20) for n in range(8)
        ]
        waiting = [asyncio.create_task(ask(one)) for one in dead for _ in range(10)]
        while len(asked) < 8:
            await asyncio.sleep(0.01)
        good = Upstream(
            loop, (f"http://prod.test:{server.port}/close_after_answer",), timeout_s=5, connect_timeout_s=2
        )
        attempt = await ask(good)
        assert (attempt.error, attempt.status) == ("", 200)
        assert len(asked) == 9  # each name once, however many connections wait for it
        over.set()
        assert {one.error for one in await asyncio.gather(*waiting)} == {"unreachable"}
        for upstream in (*dead, good):
            upstream.close()


async def test_a_name_that_dns_cannot_have_is_unreachable() -> None:
    upstream = Upstream(
        asyncio.get_running_loop(), (f"http://{'a' * 64}.test",), timeout_s=5, connect_timeout_s=5
    )
    assert (await ask(upstream)).error == "unreachable"
    upstream.close()


def test_more_connections_than_descriptors_leave_room_for_work() -> None:
    before = ("sh", "-c", 'ulimit -n 256; exec "$@"', "sh")
    with MisbehavingUpstream() as server, running_worker([model(server.url)], before=before) as worker:
        with worker.connect() as kept, contextlib.ExitStack() as stack:
            kept.sendall(b"GET /m/ok HTTP/1.1\r\nHost: t\r\n\r\n")
            assert read_answer(kept).startswith(b"HTTP/1.1 200 ")
            for _ in range(400):
                one = stack.enter_context(socket.create_connection(("127.0.0.1", worker.port), timeout=5))
                with contextlib.suppress(OSError):
                    one.sendall(b"GET / HT")
            for _ in range(20):
                kept.sendall(b"GET /m/close_after_answer HTTP/1.1\r\nHost: t\r\n\r\n")
                assert read_answer(kept).startswith(b"HTTP/1.1 200 ")
        assert worker.process.poll() is None
        eventually(lambda: worker.raw(GET).startswith(b"HTTP/1.1 200 "), what="room again")


def test_a_silent_control_process_holds_a_bounded_number_of_requests(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent, MisbehavingUpstream() as server:
        silent.bind(str(tmp_path / "api.sock"))
        silent.listen(1024)
        with (
            running_worker([model(server.url)], directory=tmp_path) as worker,
            contextlib.ExitStack() as stack,
        ):
            clients = []
            for _ in range(300):
                one = stack.enter_context(worker.connect())
                one.sendall(b"GET /metrics HTTP/1.1\r\nHost: t\r\n\r\n")
                clients.append(one)
            refused = 0
            for one in clients[256:]:
                refused += read_answer(one).startswith(b"HTTP/1.1 503 ")
            assert refused == 300 - 256
            assert worker.raw(GET).startswith(b"HTTP/1.1 200 ")
            for one in clients[:256]:
                one.close()
            # They have left: there is room for others.
            late = stack.enter_context(worker.connect())
            late.settimeout(0.5)
            late.sendall(b"GET /metrics HTTP/1.1\r\nHost: t\r\n\r\n")
            with pytest.raises(TimeoutError):
                late.recv(1)


def asked_at(port: int, path: str) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n".encode())
        return read_all(client)


def test_with_a_port_of_its_own_the_api_answers_on_no_other_and_models_not_on_it() -> None:
    with (
        MisbehavingUpstream() as server,
        running_worker([model(server.url)], admin=True) as worker,
    ):
        assert worker.admin_port is not None
        for path in (
            "/admin/models",
            "/metrics",
            "/",
            "/ui/",
            "/openapi.json",
            "/feedback",
            "/predictions/x",
        ):
            assert asked_at(worker.port, path).startswith(b"HTTP/1.1 404 "), path
            # There is no control process here; that it was asked is what counts.
            assert b"control_unavailable" in asked_at(worker.admin_port, path), path
        assert asked_at(worker.port, "/m/ok").startswith(b"HTTP/1.1 200 ")
        assert asked_at(worker.admin_port, "/m/ok").startswith(b"HTTP/1.1 404 ")
        for port in (worker.port, worker.admin_port):
            assert asked_at(port, "/healthz").startswith(b"HTTP/1.1 200 ")
            assert asked_at(port, "/readyz").startswith(b"HTTP/1.1 200 ")


def test_a_client_of_http_1_0_is_told_that_its_connection_stays() -> None:
    with MisbehavingUpstream() as server, running_worker([model(server.url)]) as worker:
        with worker.connect() as client:
            for _ in range(2):
                client.sendall(b"GET /m/ok HTTP/1.0\r\nHost: t\r\nConnection: keep-alive\r\n\r\n")
                assert b"\r\nConnection: keep-alive\r\n" in read_answer(client)
        assert b"\r\nConnection: close\r\n" in worker.raw(b"GET /m/ok HTTP/1.0\r\nHost: t\r\n\r\n")


FIELDS = (
    "X-Forwarded-Port: 1", "X-Forwarded-Prefix: /evil", "X-Forwarded-Server: e", "X-Real-IP: 1.2.3.4",
    "X_Forwarded_For: 1.2.3.4", "X_Prediction_Id: forged", "Transfer_Encoding: chunked", "X_Real_IP: 1.2.3.4",
)  # fmt: skip


@pytest.mark.parametrize("trusted", [False, True])
def test_what_only_a_trusted_peer_may_say_goes_no_further_from_others(trusted: bool) -> None:
    policy = ServerPolicy(trusted_proxies=("127.0.0.0/8",) if trusted else ())
    request = "GET /m/ok HTTP/1.1\r\nHost: t\r\nConnection: close\r\nX_Tenant: kept\r\n" + "\r\n".join(FIELDS)
    with MisbehavingUpstream() as server, running_worker([model(server.url)], server=policy) as worker:
        assert worker.raw(request.encode() + b"\r\n\r\n").startswith(b"HTTP/1.1 200 ")
        names = {name.lower().decode() for name, _ in server.requests[0].headers}
    assert "x_tenant" in names
    assert not names & {"x_forwarded_for", "x_prediction_id", "transfer_encoding", "x_real_ip"}
    spoken = {"x-forwarded-port", "x-forwarded-prefix", "x-forwarded-server", "x-real-ip"}
    assert names & spoken == (spoken if trusted else set())


@pytest.mark.parametrize("path", ["/m/%2e%2e%2f%2e%2e/x", "/m/..%2fx", "/m/a%2F..%2Fb", "/m/%2F.%2Fx"])
def test_dot_segments_between_encoded_slashes_are_refused(path: str) -> None:
    with MisbehavingUpstream() as server, running_worker([model(server.url)]) as worker:
        request = f"GET {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n".encode()
        assert worker.raw(request).startswith(b"HTTP/1.1 400 ")
        assert server.count() == 0
        assert worker.raw(request.replace(path.encode(), b"/m/a%2Fb..c/ok")).startswith(b"HTTP/1.1 200 ")


def test_a_request_id_is_recorded_up_to_what_an_outcome_can_name() -> None:
    with MisbehavingUpstream() as server, running_worker([model(server.url)]) as worker:
        request = GET.replace(b"Host: t\r\n", b"Host: t\r\nX-Request-Id: " + b"i" * 8_000 + b"\r\n")
        assert worker.raw(request).startswith(b"HTTP/1.1 200 ")
        (record,) = worker.predictions("m")
        assert record.request_id == "i" * 200
        assert server.requests[0].header("X-Request-Id") == "i" * 8_000
