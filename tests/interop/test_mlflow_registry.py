"""A real MLflow tracking server beside the gateway: its challenger comes as a shadow, its champion moves with the promotion."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.interop.processes import said_by, serving
from tests.misbehaving import MisbehavingUpstream
from tests.system import RunningGateway, free_port, running_gateway
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
    found: dict[str, str] = said_by("tracking.py", url, "aliases", "risk")
    return found


def versions(gateway: RunningGateway) -> dict[str, Any]:
    return {version["name"]: version for version in gateway.get("/admin/models/credit")["versions"]}


def test_aliases_move_with_a_promotion_also_when_mlflow_is_away_meanwhile(tmp_path: Path) -> None:
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
                assert said_by("tracking.py", url, "register", "risk", "s3://bucket/1") == "1"
                tag = f"gateway.url={upstream.url}/v2"
                assert said_by("tracking.py", url, "register", "risk", "s3://bucket/2", tag) == "2"
                said_by("tracking.py", url, "alias", "risk", "champion", 1)
                said_by("tracking.py", url, "alias", "risk", "challenger", 2)
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
