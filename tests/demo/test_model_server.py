"""The example model server over real HTTP, in a process of its own, with a model trained here."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from app.demo.model_server import ModelFile
from app.demo.releases import Case, World, accuracy, first_releases
from tests.ports import free_port
from tests.worker import eventually

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def world() -> World:
    return World(seed=1)


@pytest.fixture(scope="module")
def models(world: World) -> tuple[ModelFile, ...]:
    return first_releases(world)


@pytest.fixture(scope="module")
def server(
    models: tuple[ModelFile, ...], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx2.Client]:
    file = tmp_path_factory.mktemp("model") / "v2.joblib"
    models[1].save(file)
    port = free_port()
    command = [sys.executable, "-m", "examples.model_server", "--model", str(file), "--port", str(port)]
    with (
        subprocess.Popen(command, cwd=ROOT) as process,
        httpx2.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=10.0) as client,
    ):
        try:
            eventually(lambda: up(client), 30, "the model server")
            yield client
        finally:
            process.terminate()


def up(client: httpx2.Client) -> bool:
    try:
        return client.get("/health").status_code == 200
    except httpx2.TransportError:
        return False


def fault(client: httpx2.Client, **settings: object) -> None:
    assert client.post("/_fault", json=settings).status_code == 200


def test_it_answers_as_the_model_does(
    server: httpx2.Client, models: tuple[ModelFile, ...], world: World
) -> None:
    for case in world.cases(20):
        answer = server.post("/predict", json={"features": case.features}).json()
        row = [[case.features[name] for name in models[1].features]]
        scores = models[1].estimator.predict_proba(row)[0]  # type: ignore[arg-type]
        assert answer["scores"] == pytest.approx(list(scores))
        assert answer["confidence"] == max(answer["scores"])
        assert answer["prediction"] == int(scores.argmax())


def test_a_list_is_answered_by_a_list_in_order(server: httpx2.Client, world: World) -> None:
    rows = [{"features": case.features} for case in world.cases(5)]
    together = server.post("/predict", json=rows).json()
    alone = [server.post("/predict", json=row).json() for row in rows]
    # The order of additions differs between one row and several.
    assert [one["scores"] for one in together] == [pytest.approx(one["scores"]) for one in alone]


def body(case: Case, **features: object) -> dict[str, object]:
    return {"features": {**case.features, **features}}


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[" * 100_000, b"3", b'{"features": 3}', b'{"features": {}}'], ids=range(6)
)
def test_what_cannot_be_scored_is_refused_with_a_reason(server: httpx2.Client, content: bytes) -> None:
    reply = server.post("/predict", content=content)
    assert reply.status_code == 422
    assert reply.json()["error"]


@pytest.mark.parametrize("value", ["three", None, [1], 10**400])
def test_a_feature_that_is_no_number_is_refused(server: httpx2.Client, world: World, value: object) -> None:
    reply = server.post("/predict", json=body(world.cases(1)[0], mean_radius=value))
    assert (reply.status_code, reply.json()["error"]) == (422, "every feature must be a number")


def test_it_fails_on_demand_and_recovers(server: httpx2.Client, world: World) -> None:
    request = {"features": world.cases(1)[0].features}
    fault(server, error_rate=1.0)
    assert server.post("/predict", json=request).status_code == 500
    fault(server, hang=True)
    with pytest.raises(httpx2.TimeoutException):
        server.post("/predict", json=request, timeout=0.3)
    fault(server)
    assert server.post("/predict", json=request).status_code == 200


def test_v2_beats_v1_until_the_world_changes() -> None:
    """What the demo tells must not depend on luck: 4,000 cases, differences beyond five standard errors."""
    world = World(seed=2)
    v1, v2, _ = first_releases(world)
    before = world.cases(4000)
    world.magnification = 1.35
    after = world.cases(4000)
    error = 5 * (2 * 0.25 / 4000) ** 0.5
    assert accuracy(v2, before) - accuracy(v1, before) > error
    assert accuracy(v2, before) - accuracy(v2, after) > error


def test_later_patients_are_others(world: World) -> None:
    here, there = World(seed=3, noise=0.0), World(seed=3, noise=0.0)
    there.meet_later_patients()
    field = {case.features["mean_area"] for case in here.cases(2000)}
    later = {case.features["mean_area"] for case in there.cases(2000)}
    trained = set(here.training_rows[:, here.features.index("mean_area")].tolist())
    # Some patients share a measurement by chance; whole groups do not.
    assert len(field & later) < len(field) / 10
    assert len((field | later) & trained) < len(field) / 5
