"""An operator's day at the command line, against a whole gateway: every command as it is typed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from app.cli import main
from tests.client import load, post
from tests.misbehaving import MisbehavingUpstream
from tests.ports import free_port
from tests.system import ROOT, RunningGateway, running_gateway
from tests.worker import eventually


class Shell:
    """Runs `model-gateway` in the gateway's directory, where it finds the admin token."""

    def __init__(self, gateway: RunningGateway, capsys: pytest.CaptureFixture[str]) -> None:
        self.gateway = gateway
        self._capsys = capsys

    def __call__(self, *arguments: str, expect: int = 0) -> str:
        self._capsys.readouterr()
        status = main(arguments)
        out, err = self._capsys.readouterr()
        assert status == expect, (arguments, status, out, err)
        return out

    def json(self, *arguments: str, expect: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", expect=expect))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with MisbehavingUpstream() as v1, MisbehavingUpstream() as v2:
        models = {
            "credit": {
                "match": {"path_prefix": "/models/credit", "strip": True},
                "extract": {"features": "$.features", "prediction": "$.prediction"},
                "task": "binary",
                "routing_key": {"header": "X-User-Id"},
                "production": "v1",
                "versions": {"v1": {"url": v1.url}, "v2": {"url": v2.url}},
                "canary": {"stages": [50, 100], "dwell_s": 3600, "min_requests": 1},
                "labels": {"horizon_s": 0, "min_coverage": 0},
            }
        }
        with running_gateway(tmp_path_factory.mktemp("day"), models, port=free_port()) as running:
            yield running


@pytest.fixture
def shell(
    gateway: RunningGateway, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Shell:
    monkeypatch.chdir(gateway.directory)
    monkeypatch.setenv("GATEWAY_URL", gateway.url)
    return Shell(gateway, capsys)


async def stored_predictions(gateway: RunningGateway, count: int) -> list[tuple[str, str]]:
    """Id and role of each answer, once all of them are in the store."""
    answered = await predictions(gateway, count)
    for prediction_id, _ in answered:
        path = f"/predictions/{prediction_id}"
        eventually(lambda path=path: gateway.admin("GET", path).status_code == 200, 30.0, path)  # type: ignore[misc]
    return answered


async def predictions(gateway: RunningGateway, count: int) -> list[tuple[str, str]]:
    """Id and role of each answer."""
    requests = [
        post(
            "/models/credit/predict", b'{"features": {"age": %d}}' % (20 + number), X_User_Id=f"user-{number}"
        )
        for number in range(count)
    ]
    answers = await load(gateway.port, requests)
    assert {answer.status for answer in answers} == {200}
    return [(one.headers["x-prediction-id"], one.headers["x-model-role"]) for one in answers]


async def test_an_operators_day(shell: Shell) -> None:
    gateway = shell.gateway

    # What is there?
    found = shell.json("status")
    assert found["ready"] is True
    assert [model["name"] for model in found["models"]] == ["credit"]
    assert "takes traffic" in shell("status")

    # Flags: changed with an expected revision, refused with a stale one.
    flags = shell.json("flags", "get", "credit")
    changed = shell.json(
        "flags",
        "set",
        "credit",
        "shadow_versions=v2",
        "--if-revision",
        str(flags["revision"]),
        "--reason",
        "try",
    )
    assert changed["revision"] == flags["revision"] + 1
    shell("flags", "set", "credit", "shadow_versions=", "--if-revision", str(flags["revision"]), expect=1)
    shell("flags", "set", "credit", "production=v9", expect=1)
    assert shell.json("flags", "set", "credit", "shadow_versions=")["shadow_versions"] == []

    # A rollout: half of the users at once, paused, resumed, in. One at a time.
    shell("rollout", "pause", "credit", expect=1)
    started = shell.json("rollout", "start", "credit", "v2", "--reason", "better features")
    assert started["candidate"] == "v2"
    shell("rollout", "start", "credit", "v2", expect=1)
    eventually(lambda: shell.json("flags", "get", "credit")["canary_percent"] == 50, what="the first stage")
    answered = await stored_predictions(gateway, 60)
    assert {role for _, role in answered} == {"production", "canary"}

    # Why did these requests get their version? Decided again, it comes out the same.
    for prediction_id, role in answered[:6]:
        replayed = shell.json("replay", prediction_id)
        assert (replayed["reproduced"], replayed["recorded_role"]) == (True, role)

    assert shell.json("rollout", "pause", "credit")["state"] == "paused"
    assert shell.json("rollout", "resume", "credit")["state"] == "canary"
    shell("rollout", "promote", "credit", "--reason", "seen enough")
    assert "promoted" in shell("rollout", "watch", "credit", "--id", started["id"])
    assert shell.json("flags", "get", "credit")["production"] == "v2"

    # Late outcomes from a file; sent twice they are known already. A row that is none is named.
    rows = "".join(f"{prediction_id},{number % 2}\n" for number, (prediction_id, _) in enumerate(answered))
    (gateway.directory / "labels.csv").write_text("prediction_id,ground_truth\n" + rows)
    first = shell.json("feedback", "import", "labels.csv")
    assert (first["accepted"], first["rejected"]) == (60, 0)
    eventually(
        lambda: shell.json("feedback", "import", "labels.csv")["duplicates"] == 60,
        what="outcomes known already",
    )
    (gateway.directory / "odd.csv").write_text("prediction_id,ground_truth\nnot-an-id,1\n")
    assert shell.json("feedback", "import", "odd.csv", expect=1)["rejected"] == 1

    # Out again as a training set.
    def exported_rows() -> list[dict[str, object]]:
        shell("export", "training-set", "credit", "-o", "set.ndjson")
        return [json.loads(line) for line in (gateway.directory / "set.ndjson").read_text().splitlines()]

    eventually(lambda: len(exported_rows()) == 60, what="every outcome joined to its prediction")
    exported = exported_rows()
    assert {row["prediction_id"] for row in exported} == {prediction_id for prediction_id, _ in answered}
    assert all(row["sample_weight"] > 0 for row in exported)
    for name in ("set.csv", "set.parquet"):
        assert shell.json("export", "training-set", "credit", "-o", name)["bytes"] > 0

    # What is worth a label?
    fresh = await stored_predictions(gateway, 5)
    items = shell.json("review", "credit", "--strategy", "random", "--limit", "3")["items"]
    assert len(items) == 3
    assert {item["prediction_id"] for item in items} <= {prediction_id for prediction_id, _ in fresh}
    shell("review", "credit", "--label", f"{items[0]['prediction_id']}=1")


def test_a_second_gateway_on_the_same_port_is_told_so(shell: Shell) -> None:
    gateway = shell.gateway
    other = ["--config", str(gateway.configuration), "--port", str(gateway.port)]
    environment = {**os.environ, "GATEWAY_DATA_DIR": str(gateway.directory / "other")}
    done = subprocess.run(
        [sys.executable, "-m", "app", "serve", *other],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert str(gateway.port) in done.stderr
