"""`mlflow models serve` behind the gateway: each form of input, read row by row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.interop.processes import said_by, serving
from tests.interop.rows import predictions
from tests.ports import free_port
from tests.system import RunningGateway, running_gateway

pytestmark = pytest.mark.interop

COLUMNS = ["sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)"]
ROWS = [[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]]
CLASSES = [0, 2]
NAMED = [dict(zip(COLUMNS, row, strict=True)) for row in ROWS]
NUMBERED = [{f"f{place}": value for place, value in enumerate(row)} for row in ROWS]
CSV = "\n".join([",".join(COLUMNS), *(",".join(map(str, row)) for row in ROWS)]) + "\n"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    directory: Path = tmp_path_factory.mktemp("mlflow")
    said_by("train.py", "mlflow", directory / "model")
    port = free_port()
    command = [
        "mlflow",
        "models",
        "serve",
        "-m",
        directory / "model",
        "--env-manager",
        "local",
        "-h",
        "127.0.0.1",
        "-p",
        port,
    ]
    models = {
        "iris": {
            "match": {"path_prefix": "/models/iris", "strip": True},
            "protocol": "mlflow",
            "task": "multiclass",
            "production": "v1",
            "versions": {"v1": {"url": f"http://127.0.0.1:{port}"}},
        }
    }
    with (
        serving(command, f"http://127.0.0.1:{port}/ping", directory),
        running_gateway(directory, models, port=free_port()) as running,
    ):
        yield running


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"dataframe_split": {"columns": COLUMNS, "data": ROWS}}, NAMED),
        ({"dataframe_records": NAMED}, NAMED),
        ({"instances": ROWS}, NUMBERED),
        ({"inputs": ROWS}, NUMBERED),
        (CSV, NAMED),
    ],
    ids=["dataframe_split", "dataframe_records", "instances", "inputs", "csv"],
)
def test_each_form_of_input_is_answered_and_read(
    gateway: RunningGateway, body: Any, expected: list[dict[str, float]]
) -> None:
    kind = "text/csv" if isinstance(body, str) else "application/json"
    reply = httpx2.post(
        f"{gateway.url}/models/iris/invocations",
        content=body if isinstance(body, str) else json.dumps(body),
        headers={"Content-Type": kind},
        trust_env=False,
        timeout=30,
    )
    assert reply.json() == {"predictions": CLASSES}
    identity = reply.headers["x-prediction-id"]
    rows = [row for row in predictions(gateway, "iris") if row["prediction_id"].startswith(identity)]
    assert [float(row["prediction"]) for row in rows] == CLASSES
    assert [row["features"] for row in rows] == expected
