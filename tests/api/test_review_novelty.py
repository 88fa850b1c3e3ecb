"""What the review queue calls novel: rows unlike the baseline, as scikit-learn's LocalOutlierFactor of the standardised baseline has
it; without a baseline unlike the labelled rows; and what it says when it can tell neither.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from app.control import novelty
from app.control.ports import PredictionRow
from app.domain.model import Privacy, Review
from tests.api.test_review import drawn
from tests.control_parts import START, Control, control, model, prediction, store_rows, with_features

MODEL = "/admin/models/credit"
Points = np.ndarray[Any, np.dtype[np.float64]]
ALL = Review(near_duplicate=0.0)


def between(chance: np.random.Generator, count: int) -> tuple[Points, Points]:
    """Two clusters, and one in the middle."""
    known = [chance.normal(center, 1.0, (count // 2, 6)) for center in (0.0, 4.0)]
    return np.concatenate(known), chance.normal(2.0, 0.7, (count, 6))


def other_combination(chance: np.random.Generator, count: int) -> tuple[Points, Points]:
    """Each coordinate by itself is ordinary in what is new; together they never occurred."""
    signs = chance.choice([-1.0, 1.0], (count, 1))
    known = signs * 3.0 + chance.normal(0.0, 1.0, (count, 2))
    strange = signs * np.array([[3.0, -3.0]]) + chance.normal(0.0, 1.0, (count, 2))
    extra = chance.normal(0.0, 1.0, (2, count, 2))
    return np.hstack([known, extra[0]]), np.hstack([strange, extra[1]])


def of_other_sizes(chance: np.random.Generator, count: int) -> tuple[Points, Points]:
    """A dense and a wide cluster, with coordinates in units a million apart."""
    dense = chance.normal(0.0, 0.3, (count // 2, 4))
    wide = chance.normal(8.0, 2.0, (count // 2, 4))
    strange = chance.normal(0.0, 0.4, (count, 4)) + np.array([2.5, 0.0, 2.5, 0.0])
    units = np.array([1.0, 1000.0, 1e-3, 1.0])
    return np.concatenate([dense, wide]) * units, strange * units


def correlated(chance: np.random.Generator, count: int) -> tuple[Points, Points]:
    """A band, and a cluster beside it."""
    along = chance.uniform(-4.0, 4.0, (count, 1))
    known = np.hstack([along, along + chance.normal(0.0, 0.5, (count, 1)), chance.normal(0, 1, (count, 3))])
    beside = np.array([1.5, -1.5, 0.0, 0.0, 0.0]) + chance.normal(0.0, 0.5, (count, 5))
    return known, beside


def rows(points: Points) -> list[dict[str, float]]:
    return [{f"x{i}": float(value) for i, value in enumerate(point)} for point in points]


def unlabelled(points: Points) -> list[PredictionRow]:
    return [prediction(START, number, features=row) for number, row in enumerate(rows(points))]


async def scores(parts: Control, stored: list[PredictionRow]) -> list[float]:
    async with parts.client() as client:
        answer = await drawn(client, strategy="novelty", limit=1000)
    found = {item["prediction_id"]: item["score"] for item in answer["items"]}
    return [found[row.prediction_id] for row in stored]


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("world", [between, other_combination, of_other_sizes, correlated])
async def test_a_cluster_that_the_baseline_lacks_is_told_as_well_as_by_scikit_learn(
    tmp_path: Path, world: Any, seed: int
) -> None:
    known, strange = world(np.random.default_rng(seed), 3600)
    baseline, fresh = known[::2], known[1::6][:300]
    asked = np.concatenate([fresh, strange[:300]])
    truth = [0] * len(fresh) + [1] * 300
    stored = unlabelled(asked)
    async with control(tmp_path, model(review=ALL)) as parts, parts.client() as client:
        made = await client.post(f"{MODEL}/baseline", json={"rows": rows(baseline)})
        assert made.status_code == 201, made.text
        await store_rows(parts.store, stored)
        ours = roc_auc_score(truth, await scores(parts, stored))
    peer = make_pipeline(StandardScaler(), LocalOutlierFactor(n_neighbors=20, novelty=True)).fit(baseline)
    theirs = roc_auc_score(truth, -peer.score_samples(asked))
    assert theirs > 0.8, "else there is nothing to tell apart"
    assert ours >= theirs - 0.02


async def test_of_a_large_baseline_some_rows_tell_as_much(tmp_path: Path) -> None:
    known, strange = between(np.random.default_rng(4), 20_000)
    asked = np.concatenate([known[:300:2], strange[:150]])
    stored = unlabelled(asked)
    async with control(tmp_path, model(review=ALL)) as parts, parts.client() as client:
        await client.post(f"{MODEL}/baseline", json={"rows": rows(known[1::2])})
        await store_rows(parts.store, stored)
        answer = await drawn(client, strategy="novelty", limit=1)
        assert answer["notes"] == {"novelty": "measured against 2000 rows of the baseline"}
        parts.clock.turn(3600.0)
        ours = roc_auc_score([0] * 150 + [1] * 150, await scores(parts, stored))
    peer = make_pipeline(StandardScaler(), LocalOutlierFactor(n_neighbors=20, novelty=True)).fit(known[1::2])
    assert ours >= roc_auc_score([0] * 150 + [1] * 150, -peer.score_samples(asked)) - 0.02


async def test_the_baseline_is_what_counts_and_is_fitted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = []
    fit = novelty.Density.fit.__func__  # type: ignore[attr-defined]
    monkeypatch.setattr(
        novelty.Density, "fit", classmethod(lambda cls, rows: (fits.append(len(rows)), fit(cls, rows))[1])
    )
    chance = np.random.default_rng(5)
    async with control(tmp_path, model(review=ALL)) as parts, parts.client() as client:
        strange = chance.normal(9.0, 0.5, (300, 3))
        labelled = unlabelled(strange[:200])
        await store_rows(parts.store, labelled, lambda _: 1.0)
        free = [
            prediction(START, 1000 + number, features=row)
            for number, row in enumerate(rows(np.concatenate([chance.normal(0, 1, (100, 3)), strange[200:]])))
        ]
        await store_rows(parts.store, free)
        before = await drawn(client, strategy="novelty", limit=100)
        assert before["notes"]["novelty"] == "measured against 200 labelled rows, as there is no baseline"
        new = {row.prediction_id for row in free[100:]}
        assert not new & {item["prediction_id"] for item in before["items"]}
        parts.clock.turn(3600.0)
        await client.post(f"{MODEL}/baseline", json={"rows": rows(chance.normal(0, 1, (400, 3)))})
        for _ in range(3):
            after = await drawn(client, strategy="novelty", limit=10)
            assert {item["prediction_id"] for item in after["items"]} < new
        assert fits == [200, 400]
        await client.post(f"{MODEL}/baseline", json={"rows": rows(chance.normal(0, 1, (300, 3)))})
        await drawn(client, strategy="novelty", limit=10)
        assert fits == [200, 400, 300]


async def test_a_baseline_of_stored_predictions_measures_by_what_is_left_of_them(tmp_path: Path) -> None:
    chance = np.random.default_rng(6)
    async with control(tmp_path, model(review=ALL)) as parts, parts.client() as client:
        (tmp_path / "privacy-secret").write_bytes(b"0" * 32)
        of_two = [
            prediction(START, number, features=row, routing_key="ann" if number < 60 else "bob")
            for number, row in enumerate(rows(chance.normal(0, 1, (160, 3))))
        ]
        await store_rows(parts.store, of_two)
        made = await client.post(f"{MODEL}/baseline", json={"version": "v1"})
        assert made.json()["rows"] == 160
        erased = await client.post(f"{MODEL}/erasures", json={"routing_key": "ann", "reason": "asked"})
        assert erased.json()["erased"] == 60
        answer = await drawn(client, strategy="novelty", limit=5)
        assert answer["notes"]["novelty"] == "measured against 100 rows of the baseline"
        await client.post(f"{MODEL}/baseline", json={"version": "v1"})
        await client.post(f"{MODEL}/erasures", json={"routing_key": "bob", "reason": "asked"})
        answer = await drawn(client, strategy="novelty", limit=5)
        assert answer["notes"]["novelty"].startswith(
            "not known, as the baseline has no 100 rows left and 0 rows are labelled"
        )


async def test_private_features_of_an_upload_are_not_kept(tmp_path: Path) -> None:
    known = model(privacy=Privacy(drop=("name",), hash=("user.email",)))
    async with control(tmp_path, known) as parts, parts.client() as client:
        uploaded = [{"age": 20.0 + n % 30, "name": f"n{n}", "user.email": f"{n}@x"} for n in range(200)]
        uploaded[0]["prediction"] = 0.5
        assert (await client.post(f"{MODEL}/baseline", json={"rows": uploaded})).status_code == 201
        number = await parts.store.newest_baseline("credit")
        sample = await parts.store.baseline_sample(number)
        assert len(sample["rows"]) == 200
        assert {name for row in sample["rows"] for name in row} == {"age"}


async def test_what_cannot_be_measured_is_said_and_not_passed_off_as_novel(tmp_path: Path) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        stored = [with_features(prediction(START, n), number=float(n)) for n in range(40)]
        await store_rows(parts.store, stored, lambda n: 1.0 if n < 10 else None)
        answer = await drawn(client, strategy="novelty", limit=10)
        assert {item["strategy"] for item in answer["items"]} == {"random"}
        assert answer["notes"]["novelty"] == (
            "not known, as there is no baseline and 10 rows are labelled: POST a baseline, or wait for 100 labels; "
            "0 of 30 candidates are ranked, the others cannot be placed; what these do not fill of its share is drawn at random"
        )
        assert (await drawn(client, strategy="random", limit=1))["notes"] == {}


async def test_reviewers_at_the_same_moment_cost_one_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = []
    fit = novelty.Density.fit.__func__  # type: ignore[attr-defined]
    monkeypatch.setattr(
        novelty.Density, "fit", classmethod(lambda cls, rows: (fits.append(len(rows)), fit(cls, rows))[1])
    )
    chance = np.random.default_rng(7)
    async with control(tmp_path) as parts, parts.client() as client:
        await client.post(f"{MODEL}/baseline", json={"rows": rows(chance.normal(0, 1, (200, 2)))})
        await store_rows(parts.store, unlabelled(chance.normal(0, 1, (60, 2))))
        await asyncio.gather(*(drawn(client, strategy="novelty", limit=5) for _ in range(4)))
        assert fits == [200]
