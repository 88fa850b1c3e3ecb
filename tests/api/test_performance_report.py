"""What the performance report says beside its measured figures: estimates for young predictions, coverage by score and age,
and labels of reviewers weighted by their propensities.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

from app.control.ports import Batch, OutcomeRow, PredictionRow
from app.domain.model import Labels, Retraining
from tests.control_parts import (
    START,
    Control,
    control,
    features_of,
    model,
    outcome,
    prediction,
    store_rows,
    with_features,
)

MODEL = "/admin/models/credit"
DAY = 86_400.0
WEEK = Labels(horizon_s=7 * DAY, min_coverage=0.9)


def answers(count: int, chance: Random, days: float) -> list[PredictionRow]:
    """Calibrated probabilities, spread over the last `days` before START; ages are those of the features."""
    made = []
    for number in range(count):
        score = chance.random()
        at = START - timedelta(days=days * (count - number) / count)
        features = {"age": chance.gauss(40.0, 10.0), "income": chance.gauss(0.0, 1.0)}
        made.append(
            prediction(at, number, prediction=score, confidence=max(score, 1.0 - score), features=features)
        )
    return made


def right(row: PredictionRow, truth: float) -> bool:
    return (float(row.prediction or 0.0) >= 0.5) == bool(truth)


async def report(parts: Control) -> Any:
    async with parts.client() as client:
        (version,) = (await client.get(f"{MODEL}/performance")).json()["versions"]
        return version


async def stored(parts: Control, outcomes: Sequence[OutcomeRow]) -> None:
    for start in range(0, len(outcomes), 1000):
        await parts.store.load(Batch((), (), outcomes[start : start + 1000], (), ()))
    while await parts.store.join_waiting_outcomes(1000):
        pass


@pytest.mark.parametrize(
    "sent",
    [
        lambda delay: delay,
        lambda delay: (delay // DAY + 2) * DAY,  # once a day, of the day before yesterday
    ],
    ids=["as they are known", "in bulk, later"],
)
async def test_labels_that_are_sent_late_are_not_taken_for_labels_of_the_other_class(
    tmp_path: Path, sent: Callable[[float], float]
) -> None:
    """What was observed long ago may have been received, and stored, only now."""
    chance = Random(8)
    rows = answers(4000, chance, 21.0)
    truth = [float(chance.random() < float(row.prediction or 0.0)) for row in rows]
    outcomes = []
    # The last labels are received, but the recorder has not stored them yet.
    until = START - timedelta(hours=9)
    for row, known in zip(rows, truth, strict=True):
        delay = chance.expovariate(1 / DAY) + 3600.0
        received = row.timestamp + timedelta(seconds=sent(delay))
        if received <= until:
            observed = row.timestamp + timedelta(seconds=delay)
            outcomes.append(replace(outcome(row, known, observed), received_at=received))
    async with control(tmp_path, model(labels=WEEK)) as parts:
        await store_rows(parts.store, rows)
        await stored(parts, outcomes)
        young = (await report(parts))["provisional"]
    days = [
        right(row, known)
        for row, known in zip(rows, truth, strict=True)
        if row.timestamp > START - timedelta(days=7)
    ]
    figure = young["by_delay"]["accuracy"]
    assert figure["low"] <= sum(days) / len(days) <= figure["high"], figure
    assert figure["value"] == pytest.approx(0.75, abs=0.05)
    assert young["as_of"] is not None


async def test_the_precision_of_young_labels_reads_one_and_is_never_shown_for_the_mature_truth(
    tmp_path: Path,
) -> None:
    """Two in a hundred are fraud and are reported after five days on average; who is honest is known after thirty days. What is labelled
    at seven days is therefore fraud, every bit of it.
    """
    chance = Random(12)
    rows, truth = [], []
    for number in range(4000):
        fraud = chance.random() < 0.02
        said = chance.random() < (0.8 if fraud else 0.011)
        at = START - timedelta(days=7.0 * (4000 - number) / 4000)
        rows.append(prediction(at, number, prediction=0.9 if said else 0.1, confidence=0.9))
        truth.append(float(fraud))
    reported = [chance.expovariate(1 / (5 * DAY)) if known else 30 * DAY for known in truth]

    def known_between(begin: float, end: float) -> list[tuple[PredictionRow, float, OutcomeRow]]:
        """Rows, truths and outcomes that are received between these ages of the gateway's clock, in seconds after START."""
        found = []
        for row, fraud, delay in zip(rows, truth, reported, strict=True):
            at = row.timestamp + timedelta(seconds=delay)
            if begin < (at - START).total_seconds() <= end:
                found.append((row, fraud, replace(outcome(row, fraud, at), received_at=at)))
        return found

    def precision(judged: Sequence[tuple[PredictionRow, float]]) -> float:
        hits = [fraud for row, fraud in judged if float(row.prediction or 0.0) >= 0.5]
        return sum(hits) / len(hits)

    mature = precision(list(zip(rows, truth, strict=True)))
    assert mature == pytest.approx(
        0.6, abs=4 * (0.6 * 0.4 / 107) ** 0.5
    )  # 107 are expected to be called fraud
    async with control(tmp_path, model(labels=Labels(horizon_s=30 * DAY, min_coverage=0.9))) as parts:
        await store_rows(parts.store, rows)
        young = known_between(float("-inf"), 0.0)
        await stored(parts, [one for *_, one in young])
        assert precision([(row, fraud) for row, fraud, _ in young]) == 1.0
        figure = (await report(parts))["metrics"]["precision"]
        assert figure["value"] is None
        assert figure["reason"]
        parts.clock.turn(31 * DAY)
        await stored(parts, [one for *_, one in known_between(0.0, float("inf"))])
        figure = (await report(parts))["metrics"]["precision"]
        assert figure["value"] == pytest.approx(mature)
        assert figure["low"] <= mature <= figure["high"]


async def test_coverage_is_told_by_score_and_age_and_uneven_labels_are_noticed(tmp_path: Path) -> None:
    rows = answers(3000, Random(4), 14.0)
    async with control(tmp_path, model(labels=WEEK)) as parts:
        await store_rows(parts.store, rows, lambda n: 1.0 if float(rows[n].prediction or 0.0) > 0.3 else None)
        told = (await report(parts))["coverage_by"]
    assert told["sampled"] == 3000
    shares = [one["share"] for one in told["score"]]
    assert len(shares) == 10
    assert (shares[0], shares[1], shares[-1]) == (0.0, 0.0, 1.0)
    assert told["uneven"] < 1e-6
    assert len(told["age"]) == 10
    assert sum(one["predictions"] for one in told["age"]) == 3000
    assert all(one["share"] == pytest.approx(0.7, abs=0.15) for one in told["age"])


async def test_reviewers_labels_stand_for_what_nobody_labelled(tmp_path: Path) -> None:
    """Most labels are of the least confident; weighted by their propensities they tell the truth about all."""
    chance = Random(6)
    rows = answers(1500, chance, 1.0)
    truth = {row.prediction_id: float(chance.random() < float(row.prediction or 0.0)) for row in rows}
    actual = sum(right(row, truth[row.prediction_id]) for row in rows) / len(rows)
    settings = Retraining(metric="accuracy", baseline=0.76)
    async with control(tmp_path, model(labels=WEEK, retraining=settings)) as parts, parts.client() as client:
        await store_rows(parts.store, rows)
        strategies = {"strategy": "uncertainty,margin,random", "limit": 300}
        drawn = (await client.get(f"{MODEL}/review", params=strategies)).json()["items"]
        low = [item for item in drawn if item["confidence"] < 0.7]
        assert len(low) > 0.7 * len(drawn)
        for item in drawn:
            path = f"{MODEL}/review/{item['prediction_id']}"
            given = await client.post(path, json={"label": truth[item["prediction_id"]]})
            assert given.json()["review_finished"] is True
        by_id = {row.prediction_id: row for row in rows}
        found = [
            replace(outcome(by_id[i["prediction_id"]], truth[i["prediction_id"]], START), source="review")
            for i in drawn
        ]
        await stored(parts, found)
        parts.clock.turn(8 * DAY)
        version = await report(parts)
        assert version["metrics"]["accuracy"]["value"] is None
        reviewed = version["reviewed"]
        assert (reviewed["labels"], reviewed["stand_for"]) == (300, 1500)
        figure = reviewed["metrics"]["accuracy"]
        error = (figure["high"] - figure["low"]) / (
            2 * 1.96
        )  # who is drawn is chance, so four standard errors
        assert abs(figure["value"] - actual) <= 4 * error
        naive = sum(right(by_id[i["prediction_id"]], truth[i["prediction_id"]]) for i in drawn) / len(drawn)
        assert naive + (naive * (1 - naive) / len(drawn)) ** 0.5 < actual
        decision = (await client.post(f"{MODEL}/retraining")).json()
        assert decision["inputs"]["performance_current"] == pytest.approx(figure["value"])
        assert "reviewed labels" in decision["inputs"]["performance_note"]


async def test_a_decision_on_demand_looks_at_figures_made_now(tmp_path: Path) -> None:
    """Reports are kept for a moment; a decision that was asked for is not made from them."""
    known = model(retraining=Retraining(strategy="drift", psi_threshold=0.25))
    async with control(tmp_path, known) as parts, parts.client() as client:
        rows = [features_of(row) for row in answers(2000, Random(1), 1.0)]
        assert (await client.post(f"{MODEL}/baseline", json={"rows": rows})).status_code == 201
        assert (await client.get(f"{MODEL}/drift")).json()["detected"] is None
        assert (await client.post(f"{MODEL}/retraining")).json()["should_retrain"] is False
        moved = [
            with_features(row, age=features_of(row)["age"] + 30.0) for row in answers(2000, Random(2), 0.5)
        ]
        await store_rows(parts.store, moved)
        decision = (await client.post(f"{MODEL}/retraining")).json()
        assert decision["should_retrain"] is True
        assert decision["inputs"]["drift_severity"] > 0.25
        assert (await client.get(f"{MODEL}/drift")).json()["detected"] is True


async def test_in_the_training_set_a_reviewed_label_weighs_by_the_inverse_of_its_propensity(
    tmp_path: Path,
) -> None:
    rows = answers(400, Random(9), 1.0)
    async with control(tmp_path, model(labels=WEEK)) as parts, parts.client() as client:
        await store_rows(parts.store, rows, lambda n: 1.0 if n < 100 else None)
        drawn = (await client.get(f"{MODEL}/review", params={"strategy": "random", "limit": 30})).json()
        by_id = {row.prediction_id: row for row in rows}
        ids = [item["prediction_id"] for item in drawn["items"]]
        for name in ids:
            await client.post(f"{MODEL}/review/{name}", json={"label": 1})
        await stored(parts, [replace(outcome(by_id[n], 1.0, START), source="review") for n in ids])
        lines = (await client.get(f"{MODEL}/training-set")).text.splitlines()
    found = {row["prediction_id"]: row for row in map(json.loads, lines)}
    assert len(found) == 130
    picked = {item["prediction_id"]: item["propensity"] for item in drawn["items"]}
    for name, row in found.items():
        assert row["review_propensity"] == picked.get(name)
        assert row["sample_weight"] == pytest.approx(1.0 / picked.get(name, 1.0))
    assert max(row["sample_weight"] for row in found.values()) > 5.0
