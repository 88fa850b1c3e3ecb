"""MLServer and KServe with a scikit-learn model behind the gateway, Triton's client before it: nothing changed but the URL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.interop.processes import PROGRAMS, said_by, serving
from tests.interop.rows import predictions
from tests.ports import free_port
from tests.system import RunningGateway, running_gateway

pytestmark = pytest.mark.interop

ROWS = [[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3], [5.9, 3.0, 4.2, 1.5]]
CLASSES = [0, 2, 1]


def model(prefix: str, port: int, protocol: str) -> dict[str, Any]:
    return {
        "match": {"path_prefix": f"/models/{prefix}", "strip": True},
        "protocol": protocol,
        "task": "multiclass",
        "routing_key": {"header": "X-User-Id"},
        "production": "v1",
        "versions": {"v1": {"url": f"http://127.0.0.1:{port}"}},
    }


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    directory: Path = tmp_path_factory.mktemp("model-servers")
    ml, ks = directory / "mlserver", directory / "kserve"
    ml.mkdir()
    ks.mkdir()
    said_by("train.py", "mlserver", ml)
    ports = {name: free_port() for name in ("http", "grpc", "metrics", "kserve")}
    settings = {"host": "127.0.0.1", "parallel_workers": 0} | {
        f"{name}_port": ports[name] for name in ("http", "grpc", "metrics")
    }
    (ml / "settings.json").write_text(json.dumps(settings))
    with ExitStack() as stack:
        ready = "/v2/models/iris/ready"
        stack.enter_context(
            serving(["mlserver", "start", "."], f"http://127.0.0.1:{ports['http']}{ready}", ml)
        )
        stack.enter_context(
            serving(
                ["python", PROGRAMS / "kserve_server.py", ports["kserve"]],
                f"http://127.0.0.1:{ports['kserve']}/v2/health/ready",
                ks,
                environment="kserve",
            )
        )
        models = {
            "mlserver": model("mlserver", ports["http"], "oip"),
            "kserve": model("kserve", ports["kserve"], "oip"),
            "kserve-v1": model("kserve-v1", ports["kserve"], "tfserving"),
        }
        yield stack.enter_context(running_gateway(directory, models, port=free_port()))


# MLServer 1.7 takes no binary tensors over HTTP; KServe does.
@pytest.mark.parametrize(("server", "forms"), [("mlserver", ["json"]), ("kserve", ["json", "binary"])])
def test_tritonclient_is_answered_and_each_row_is_written_down(
    gateway: RunningGateway, server: str, forms: list[str]
) -> None:
    said = said_by("triton_client.py", f"127.0.0.1:{gateway.port}/models/{server}", "iris", *forms)
    assert (said["live"], said["ready"], said["name"]) == (True, True, "iris")
    rows = [row for row in predictions(gateway, server) if row["features"] is not None]
    assert len(rows) == len(forms) * len(ROWS)
    for number, form in enumerate(forms):
        assert said[form]["id"] == f"binary-{form == 'binary'}"
        assert said[form]["predict"] == CLASSES
        for place, row in enumerate(rows[number * len(ROWS) :][: len(ROWS)]):
            assert row["features"] == {f"predict[{at}]": value for at, value in enumerate(ROWS[place])}
            assert float(row["prediction"]) == CLASSES[place]
            assert row["confidence"] == pytest.approx(max(said[form]["predict_proba"][place]))
            assert row["prediction_id"].endswith(f":{place}")


def test_kserve_v1_is_read_as_tfserving(gateway: RunningGateway) -> None:
    reply = httpx2.post(
        f"{gateway.url}/models/kserve-v1/v1/models/iris:predict",
        json={"instances": ROWS},
        trust_env=False,
        timeout=20,
    )
    assert reply.json() == {"predictions": CLASSES}
    rows = predictions(gateway, "kserve-v1")
    assert [float(row["prediction"]) for row in rows] == CLASSES
    assert [list(row["features"].values()) for row in rows] == ROWS


def test_the_outcome_of_one_row_of_a_batch_reaches_that_row(gateway: RunningGateway) -> None:
    body = {"inputs": [{"name": "predict", "shape": [3, 4], "datatype": "FP64", "data": ROWS}]}
    reply = httpx2.post(
        f"{gateway.url}/models/mlserver/v2/models/iris/infer", json=body, trust_env=False, timeout=20
    )
    identity = reply.headers["x-prediction-id"]
    sent = [
        {"prediction_id": f"{identity}:2", "ground_truth": 1},
        {"prediction_id": f"{identity}:0", "ground_truth": 2},
    ]
    assert gateway.admin("POST", "/feedback", {"outcomes": sent}).json()["accepted"] == 2
    truth = {
        row["prediction_id"]: row["ground_truth"]
        for row in predictions(gateway, "mlserver")
        if row["prediction_id"].startswith(identity)
    }
    assert {
        name.rpartition(":")[2]: None if value is None else float(value) for name, value in truth.items()
    } == {
        "0": 2.0,
        "1": None,
        "2": 1.0,
    }
