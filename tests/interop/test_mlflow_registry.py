"""A real MLflow tracking server beside the gateway: its challenger comes as a shadow, its champion moves with the promotion."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.interop.processes import said_by, serving
from tests.misbehaving import MisbehavingUpstream
from tests.ports import free_port
from tests.system import RunningGateway, running_gateway
from tests.worker import eventually

pytestmark = pytest.mark.interop


def tracking(directory: Path, port: int) -> AbstractContextManager[None]:
    store = f"sqlite:///{directory}/mlflow.db"
    command = [
        "mlflow",
        "server",
        "--backend-store-uri",
        store,
        "--host",
        "127.0.0.1",
        "--port",
        port,
        "--workers",
        1,
    ]
    return serving(command, f"http://127.0.0.1:{port}/health", directory)


def aliases(url: str) -> dict[str, str]:
    address = f"{url}/api/2.0/mlflow/registered-models/get"
    found = httpx2.get(address, params={"name": "risk"}, trust_env=False, timeout=20.0).json()
    return {one["alias"]: one["version"] for one in found["registered_model"].get("aliases", [])}


def restarted(gateway: RunningGateway, roles: str | None) -> None:
    """End it in order and start it with other roles."""
    gateway.process.terminate()
    assert gateway.process.wait(30) == 0
    gateway.roles = roles
    gateway.start_again()


def versions(gateway: RunningGateway) -> dict[str, Any]:
    return {version["name"]: version for version in gateway.get("/admin/models/credit")["versions"]}


def test_aliases_move_with_a_promotion_also_when_mlflow_is_away_or_nobody_leads_meanwhile(
    tmp_path: Path,
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with MisbehavingUpstream() as upstream:
        models = {
            "credit": {
                "match": {"path_prefix": "/models/credit"},
                "production": "v1",
                "versions": {"v1": {"url": f"{upstream.url}/v1", "metadata": {"mlflow_version": "1"}}},
                "registry": {"name": "risk", "shadow": True},
            }
        }
        registry = {"mlflow_uri": url, "poll_s": 0.5}
        with running_gateway(tmp_path, models, port=free_port(), registry=registry) as gateway:
            with tracking(tmp_path, port):  # the gateway is up before MLflow is
                first = ["register", "risk", "s3://bucket/1", ",", "alias", "risk", "champion", 1, ","]
                second = ["register", "risk", "s3://bucket/2", f"gateway.url={upstream.url}/v2", ","]
                last = ["alias", "risk", "challenger", 2]
                assert said_by("tracking.py", url, *first, *second, *last) == ["1", "2"]
                eventually(lambda: "mlflow-2" in versions(gateway), 20.0, "the challenger as a version")
                assert {name: version["registry_uri"] for name, version in versions(gateway).items()} == {
                    "v1": "models:/risk/1",
                    "mlflow-2": "models:/risk/2",
                }
                eventually(
                    lambda: gateway.get("/admin/models/credit/flags")["shadow_versions"] == ["mlflow-2"],
                    what="the challenger as a shadow",
                )
                begun = gateway.admin("POST", "/admin/models/credit/rollouts", {"candidate": "mlflow-2"})
                assert begun.status_code in (200, 201), begun.text
                path = f"/admin/models/credit/rollouts/{begun.json()['id']}/promote"
                promoted = gateway.admin("POST", path, {"reason": "good"})
                assert promoted.status_code == 200, promoted.text
                eventually(lambda: aliases(url) == {"champion": "2"}, 60.0, "champion on version 2")
            gateway.set_flags("credit", production="v1", candidate=None)  # MLflow is away
            assert gateway.get("/admin/models/credit/flags")["production"] == "v1"
            with tracking(tmp_path, port):
                eventually(lambda: aliases(url) == {"champion": "1"}, 90.0, "champion on version 1 again")
                restarted(gateway, "proxy,recorder")  # without a controller: nobody leads
                gateway.set_flags("credit", production="mlflow-2")
                assert gateway.get("/admin/models/credit/flags")["production"] == "mlflow-2"
                assert aliases(url) == {"champion": "1"}
                restarted(gateway, None)
                eventually(lambda: aliases(url) == {"champion": "2"}, 60.0, "champion on version 2")
