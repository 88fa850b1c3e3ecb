"""The layout of deploy/kubernetes without Kubernetes: a proxy and its recorder as two programs on one directory, a controller elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx2
import pytest
import yaml

from tests.faults.traffic import Database, Traffic, credit
from tests.misbehaving import MisbehavingUpstream
from tests.ports import free_port
from tests.servers import PostgresServer
from tests.system import PLAIN, _start, running_gateway
from tests.worker import eventually

pytestmark = pytest.mark.interop


@pytest.fixture
def directory() -> Iterator[Path]:
    """With a short path, since there will be Unix sockets in it."""
    with TemporaryDirectory(prefix="apart") as name:
        yield Path(name)


@contextlib.contextmanager
def program(directory: Path, configuration: Path, roles: str) -> Iterator[subprocess.Popen[bytes]]:
    """One container of the pod; its log must hold no traceback."""
    directory.mkdir(exist_ok=True)
    process = _start(directory, configuration, roles, {})
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(40)
    assert "Traceback" not in (directory / "gateway.log").read_text(errors="replace")


async def test_a_rollout_decided_elsewhere_moves_a_pod_whose_recorder_outlives_its_proxy(
    directory: Path, postgres_server: PostgresServer, redis_url: str
) -> None:
    database = await Database.made(postgres_server)
    with (
        MisbehavingUpstream(default="ok") as v1,
        MisbehavingUpstream(default="ok") as v2,
        contextlib.ExitStack() as pod,
    ):
        canary = {"stages": [50, 100], "dwell_s": 2, "min_requests": 20}
        models, port = credit(v1, v2, canary=canary), free_port()
        shared = {"store": {"url": database.url}, "flags": {"url": redis_url}}
        configuration = directory / "pod.yaml"
        configuration.write_text(
            yaml.safe_dump(
                {"data_dir": str(directory / "data"), "server": {"port": port}, "models": models, **shared}
            )
        )
        recorder = pod.enter_context(program(directory / "recorder", configuration, "recorder"))
        proxy = pod.enter_context(program(directory / "proxy", configuration, "proxy"))

        def degraded() -> list[str] | None:
            with contextlib.suppress(httpx2.HTTPError):
                reply = httpx2.get(f"http://127.0.0.1:{port}/readyz", trust_env=False, verify=PLAIN)
                return list(reply.json().get("degraded", [])) if reply.status_code == 200 else None
            return None

        await asyncio.to_thread(eventually, lambda: degraded() == [], 60.0, "a pod that is ready")
        elsewhere = directory / "controller"
        elsewhere.mkdir()
        with running_gateway(elsewhere, models, port=free_port(), **shared) as controller:
            async with Traffic(port, clients=2) as traffic:
                body = {"candidate": "v2", "reason": "test"}
                reply = await asyncio.to_thread(
                    controller.admin, "POST", "/admin/models/credit/rollouts", body
                )
                assert reply.status_code == 201, reply.text
                rollout = f"/admin/models/credit/rollouts/{reply.json()['id']}"
                await asyncio.to_thread(
                    eventually,
                    lambda: controller.get(rollout)["state"] == "promoted",
                    60.0,
                    "a promotion by what the pod saw",
                )
                before = len(traffic.answers)
                await traffic.more(200)
                served = {answer.headers["x-model-version"] for answer in traffic.answers[before + 150 :]}
            traffic.all_good()
            assert served == {"v2"}
            proxy.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(proxy.wait, 40) == 0
            assert recorder.poll() is None
            recorder.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(recorder.wait, 40) == 0
            assert sorted(await database.stored()) == sorted(traffic.ids)
