"""Performance, shadow comparison, drift, retraining, training set and review over HTTP, from rows in a
real store.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import pyarrow.parquet as pq
import pytest
from msgspec.structs import replace
from sklearn.metrics import f1_score

from app.control.controller import By
from app.control.ports import Batch, PredictionRow, ShadowRow
from app.domain.model import Drift, Labels, Retraining
from app.domain.recency import weight
from app.domain.rollout import Action
from tests.control_parts import (
    START,
    Control,
    control,
    features_of,
    model,
    outcome,
    prediction,
    prediction_id,
    store_rows,
    with_features,
)

MODEL = "/admin/models/credit"
DAY = 86_400.0
SHORT = Labels(horizon_s=DAY, min_coverage=0.8)


def rows(count: int, seed: int = 1, days: float = 0.5, **changes: Any) -> list[PredictionRow]:
    """Predictions spread over the last `days` before START; a probability each."""
    chance = Random(seed)
    made = []
    for number in range(count):
        at = START - timedelta(days=days * (count - number) / count)
        score = chance.random()
        features = {
            "age": chance.gauss(40.0, 10.0),
            "region": chance.choice(["north", "south", "west"]),
            "vip": chance.random() < 0.1,
        }
        made.append(
            prediction(
                at, number, prediction=score, confidence=max(score, 1 - score), features=features, **changes
            )
        )
    return made


# ---- performance


async def test_performance_is_that_of_mature_labels_with_interval_and_coverage(tmp_path: Path) -> None:
    chance = Random(3)
    stored = rows(400)
    truth = [float(chance.random() < (row.prediction or 0.0)) for row in stored]  # type: ignore[operator]
    async with control(tmp_path, model(labels=SHORT)) as parts, parts.client() as client:
        await store_rows(parts.store, stored, lambda index: truth[index] if index % 10 else None)
        [young] = (await client.get(f"{MODEL}/performance")).json()["versions"]
        assert (young["mature"], young["coverage"], young["metrics"]["f1"]["value"]) == (0, None, None)
        parts.clock.turn(2 * DAY)
        [version] = (await client.get(f"{MODEL}/performance")).json()["versions"]
        assert (version["version"], version["mature"], version["labelled"], version["coverage"]) == (
            "v1",
            400,
            360,
            0.9,
        )
        kept = [index for index in range(400) if index % 10]
        # type: ignore[operator]
        expected = f1_score(
            [truth[i] for i in kept], [float((stored[i].prediction or 0) >= 0.5) for i in kept]
        )
        figure = version["metrics"]["f1"]
        assert figure["value"] == pytest.approx(expected)
        assert figure["low"] < expected < figure["high"]


async def test_figures_are_withheld_with_the_reason_while_too_few_labels_have_come(tmp_path: Path) -> None:
    async with control(tmp_path, model(labels=SHORT)) as parts, parts.client() as client:
        await store_rows(parts.store, rows(200), lambda index: 1.0 if index < 100 else None)
        parts.clock.turn(2 * DAY)
        [version] = (await client.get(f"{MODEL}/performance")).json()["versions"]
        assert version["coverage"] == 0.5
        assert all(figure["value"] is None for figure in version["metrics"].values())
        assert "80.0% are needed" in version["metrics"]["accuracy"]["reason"]


async def test_versions_and_windows_are_told_apart_and_one_class_is_no_error(tmp_path: Path) -> None:
    async with control(tmp_path, model(labels=SHORT)) as parts, parts.client() as client:
        await store_rows(parts.store, rows(60), lambda _: 1.0)
        other = [
            prediction(START - timedelta(hours=1), 1000 + n, model_version="v2", role="canary")
            for n in range(40)
        ]
        await store_rows(parts.store, other, lambda _: 1.0)
        parts.clock.turn(2 * DAY)
        report = (await client.get(f"{MODEL}/performance")).json()
        assert [one["version"] for one in report["versions"]] == ["v1", "v2"]
        assert report["versions"][0]["metrics"]["roc_auc"]["value"] is None
        only = (await client.get(f"{MODEL}/performance", params={"version": "v2"})).json()
        assert [one["version"] for one in only["versions"]] == ["v2"]
        since = (START - timedelta(hours=2)).isoformat()
        assert (await client.get(f"{MODEL}/performance", params={"since": since})).json()["versions"][0][
            "mature"
        ] < 60
        empty = await client.get(f"{MODEL}/performance", params={"since": since, "until": since})
        assert empty.status_code == 422


async def test_young_predictions_have_provisional_figures_of_their_own(tmp_path: Path) -> None:
    chance = Random(5)
    at = [START - timedelta(days=20) + timedelta(minutes=8 * number) for number in range(3600)]
    stored = [
        prediction(when, number, prediction=score, confidence=max(score, 1 - score))
        for number, when in enumerate(at)
        if (score := chance.random()) is not None
    ]
    truth = [float(chance.random() < float(row.prediction or 0.0)) for row in stored]
    horizon = 5 * DAY
    delay = [chance.random() * horizon * (0.9 if truth[i] else 0.3) for i in range(len(stored))]
    known = [at[i] + timedelta(seconds=delay[i]) <= START for i in range(len(stored))]
    async with (
        control(tmp_path, model(labels=Labels(horizon_s=horizon, min_coverage=0.8))) as parts,
        parts.client() as client,
    ):
        await store_rows(parts.store, stored)
        outcomes = [
            outcome(stored[i], truth[i], at[i] + timedelta(seconds=delay[i]))
            for i in range(len(stored))
            if known[i]
        ]
        for start in range(0, len(outcomes), 500):
            await parts.store.load(Batch((), (), outcomes[start : start + 500], (), ()))
        while await parts.store.join_waiting_outcomes(1000):
            pass
        [version] = (await client.get(f"{MODEL}/performance")).json()["versions"]
        right = [(float(stored[i].prediction or 0) >= 0.5) == bool(truth[i]) for i in range(len(stored))]
        young = [right[i] for i in range(len(stored)) if START - at[i] <= timedelta(seconds=horizon)]
        actual = sum(young) / len(young)
        provisional = version["provisional"]
        assert provisional["rows"] == len(young)
        assert provisional["labelled"] < provisional["rows"]
        for method in ("by_delay", "by_confidence"):
            figure = provisional[method]["accuracy"]
            assert figure["low"] <= actual <= figure["high"], method
        assert version["metrics"]["accuracy"]["n"] < len(stored) - len(young) + 1


async def test_figures_are_told_apart_by_a_feature(tmp_path: Path) -> None:
    async with control(tmp_path, model(labels=SHORT)) as parts, parts.client() as client:
        stored = rows(600)
        north = [bool(features_of(row)["region"] == "north") for row in stored]
        await store_rows(
            parts.store, stored, lambda i: float((float(stored[i].prediction or 0) >= 0.5) != north[i])
        )
        parts.clock.turn(2 * DAY)
        [version] = (await client.get(f"{MODEL}/performance", params={"by": "region"})).json()["versions"]
        groups = {one["group"]: one["metrics"]["accuracy"]["value"] for one in version["groups"]}
        assert groups == {"north": 0.0, "south": 1.0, "west": 1.0}
        [version] = (await client.get(f"{MODEL}/performance", params={"by": "age"})).json()["versions"]
        assert sum(one["rows"] for one in version["groups"]) == 600
        assert len(version["groups"]) == 4


async def test_a_group_of_which_few_labels_have_come_has_its_figures_withheld(tmp_path: Path) -> None:
    """Of the south every tenth is labelled, of all others each: together enough, of the south not."""
    async with control(tmp_path, model(labels=SHORT)) as parts, parts.client() as client:
        stored = [
            with_features(row, region="south" if n % 5 == 0 else "north") for n, row in enumerate(rows(2000))
        ]
        failed = [replace(row, prediction_id=prediction_id(START, 9000 + n), status=500)
                  for n, row in enumerate(stored[:100])]  # fmt: skip
        await store_rows(parts.store, failed)
        await store_rows(parts.store, stored, lambda n: float(n % 2) if n % 5 or n % 50 == 0 else None)
        parts.clock.turn(2 * DAY)
        [version] = (await client.get(f"{MODEL}/performance", params={"by": "region"})).json()["versions"]
        assert version["coverage"] == pytest.approx(0.82)
        assert version["metrics"]["accuracy"]["value"] is not None
        groups = {one["group"]: one for one in version["groups"]}
        assert [
            (groups[g]["mature"], groups[g]["rows"], groups[g]["coverage"]) for g in ("north", "south")
        ] == [
            (1600, 1600, 1.0),
            (400, 40, 0.1),
        ]
        assert groups["north"]["metrics"]["accuracy"]["value"] is not None
        for figure in groups["south"]["metrics"].values():
            assert figure["value"] is None
            assert figure["reason"].startswith("10.0% of mature predictions are labelled")


async def test_a_group_may_have_labels_enough_though_the_version_has_not(tmp_path: Path) -> None:
    async with control(tmp_path, model(labels=SHORT)) as parts, parts.client() as client:
        stored = [
            with_features(row, region="south" if n % 2 == 0 else "north") for n, row in enumerate(rows(400))
        ]
        await store_rows(parts.store, stored, lambda n: float(n % 4 == 1) if n % 2 else None)
        parts.clock.turn(2 * DAY)
        [version] = (await client.get(f"{MODEL}/performance", params={"by": "region"})).json()["versions"]
        assert version["metrics"]["accuracy"]["value"] is None
        found = {one["group"]: one["metrics"]["accuracy"]["value"] for one in version["groups"]}
        assert found["south"] is None
        assert found["north"] is not None


# ---- shadow


async def shadowed(parts: Control, count: int = 200, version: str = "v2") -> list[PredictionRow]:
    stored = rows(count)
    await store_rows(parts.store, stored, lambda index: float(index % 2))
    pairs = []
    for index, row in enumerate(stored):
        failed = index % 50 == 0
        answer = (
            None if failed else min(1.0, float(row.prediction or 0.0) + (0.3 if index % 10 == 1 else 0.01))
        )
        pairs.append(
            ShadowRow(row.prediction_id, "credit", version, "shadow", row.timestamp, answer, 0.9, 20.0, 500 if failed else 200,
                      # type: ignore[operator]
                      None if failed else answer - float(row.prediction or 0.0), None if failed else index % 10 != 1, None)
        )  # fmt: skip
    await parts.store.load(Batch((), pairs, (), (), ()))
    return stored


async def test_the_shadow_report_tells_agreement_differences_worst_cases_and_latency(tmp_path: Path) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        await shadowed(parts)
        report = (await client.get(f"{MODEL}/shadow", params={"version": "v2"})).json()
        assert report["n"] == 196
        assert report["agreement_rate"] == pytest.approx(176 / 196, abs=0.03)
        assert report["failures"] == {"production": 0, "shadow": 4}
        assert (report["latency_ms"]["production"]["p50"], report["latency_ms"]["shadow"]["p50"]) == (
            12.0,
            20.0,
        )
        assert report["worst"][0]["difference"] == pytest.approx(0.3, abs=0.01)
        assert report["labelled"]["n"] == 196
        assert {"accuracy", "f1"} <= set(report["labelled"]["shadow"])
        assert report["noise_floor"] is None


async def test_a_version_without_pairs_has_counts_of_zero_and_no_rates(tmp_path: Path) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        report = (await client.get(f"{MODEL}/shadow", params={"version": "v3"})).json()
        assert (report["n"], report["agreement_rate"], report["labelled"]) == (0, None, None)
        assert (await client.get(f"{MODEL}/shadow", params={"version": "v9"})).status_code == 404


# ---- drift and baselines


def features(row: PredictionRow) -> dict[str, Any]:
    return {"features": features_of(row), "prediction": row.prediction}


async def test_drift_is_found_in_the_feature_that_moved_and_only_there(tmp_path: Path) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        none = (await client.get(f"{MODEL}/drift")).json()
        assert (none["detected"], none["results"]) == (None, [])
        assert "baseline" in none["reason"]
        reference = [features(row) for row in rows(3000, seed=7)]
        made = await client.post(f"{MODEL}/baseline", json={"rows": reference, "metrics": {"f1": 0.91}})
        assert (made.status_code, made.json()["rows"]) == (201, 3000)
        live = [with_features(row, age=features_of(row)["age"] + 8.0) for row in rows(2000, seed=8)]
        await store_rows(parts.store, live)
        parts.clock.turn(10.0)
        report = (await client.get(f"{MODEL}/drift")).json()
        assert (report["version"], report["detected"]) == ("v1", True)
        assert {one["feature"] for one in report["results"] if one["verdict"] == "drift"} == {"age"}
        [age] = [
            one
            for one in report["results"]
            if (one["feature"], one["test"], one["window"]) == ("age", "psi", "day")
        ]
        assert age["statistic"] > age["threshold"]
        assert {one["feature"] for one in report["results"]} >= {"age", "region", "vip", "$prediction"}


async def test_drift_of_the_last_hours_is_not_drowned_by_the_rest_of_the_day(tmp_path: Path) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        await store_rows(parts.store, rows(3000, seed=7, days=3.0))
        await client.post(f"{MODEL}/baseline", json={"version": "v1"})
        parts.clock.turn(DAY)
        live = rows(6000, seed=8, days=0.9)
        moved = [
            replace(
                row,
                prediction_id=prediction_id(row.timestamp + timedelta(seconds=DAY), n),
                timestamp=row.timestamp + timedelta(seconds=DAY),
            )
            for n, row in enumerate(live)
        ]
        moved[-600:] = [with_features(row, age=features_of(row)["age"] + 15.0) for row in moved[-600:]]
        await store_rows(parts.store, moved)
        report = (await client.get(f"{MODEL}/drift")).json()
        assert (report["rows"], report["detected"]) == (6000, True)
        hours = {one["window"] for one in report["results"] if one["verdict"] == "drift"}
        assert any(hour.startswith("2026-03-03T1") for hour in hours)


async def test_what_the_baseline_was_made_from_is_not_compared_with_itself(tmp_path: Path) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        await store_rows(parts.store, rows(1000))
        await client.post(f"{MODEL}/baseline", json={"version": "v1"})
        parts.clock.turn(60.0)
        assert (await client.get(f"{MODEL}/drift")).json()["rows"] == 0


async def test_a_new_baseline_is_compared_with_at_once_also_on_another_host(tmp_path: Path) -> None:
    async with (
        control(tmp_path / "one") as parts,
        control(tmp_path / "other", store=parts.store, clock=parts.clock) as others,
        parts.client() as client,
        others.client() as there,
    ):
        await store_rows(parts.store, rows(2000, seed=8))

        async def detected() -> list[Any]:
            return [(await asked.get(f"{MODEL}/drift")).json()["detected"] for asked in (client, there)]

        assert await detected() == [None, None]
        moved = [with_features(row, age=features_of(row)["age"] + 8.0) for row in rows(2000, seed=7)]
        await client.post(f"{MODEL}/baseline", json={"rows": [features(row) for row in moved]})
        assert await detected() == [True, True]
        await client.post(f"{MODEL}/baseline", json={"rows": [features(row) for row in rows(2000, seed=7)]})
        assert await detected() == [False, False]


async def test_numbers_are_compared_by_the_configured_test(tmp_path: Path) -> None:
    known = model(drift=Drift(numeric_test="ks"))
    async with control(tmp_path, known) as parts, parts.client() as client:
        await client.post(f"{MODEL}/baseline", json={"rows": [features(row) for row in rows(2000, seed=7)]})
        moved = [with_features(row, age=features_of(row)["age"] + 8.0) for row in rows(2000, seed=8)]
        await store_rows(parts.store, moved)
        report = (await client.get(f"{MODEL}/drift")).json()
        tests = {one["feature"]: one["test"] for one in report["results"] if one["threshold"] is not None}
        assert tests == {"age": "ks", "region": "chi2", "vip": "chi2", "$prediction": "ks"}
        assert report["drifted"] == ["age"]
        assert report["severity"] > 0.25, "PSI, whichever test alarmed"


async def test_the_configured_rate_of_false_alarms_decides_where_alarms_begin(tmp_path: Path) -> None:
    cutoffs = []
    for rate in (0.001, 0.2):
        known = model(drift=Drift(daily_false_alarm_rate=rate))
        async with control(tmp_path / str(rate), known) as parts, parts.client() as client:
            reference = [features(row) for row in rows(2000, seed=7)]
            await client.post(f"{MODEL}/baseline", json={"rows": reference})
            await store_rows(parts.store, rows(2000, seed=8))
            cutoffs.append((await client.get(f"{MODEL}/drift")).json()["cutoff"])
    assert cutoffs[1] == pytest.approx(200 * cutoffs[0])


@pytest.mark.parametrize("kind", ["text/csv", "application/x-ndjson", "application/vnd.apache.parquet"])
async def test_a_baseline_is_uploaded_as_a_table(tmp_path: Path, kind: str) -> None:
    import pyarrow as pa

    table = pa.Table.from_pylist(
        [{"age": 20.0 + n % 30, "region": "north", "prediction": n / 500} for n in range(500)]
    )
    file = io.BytesIO()
    if kind.endswith("parquet"):
        pq.write_table(table, file)
    elif kind == "text/csv":
        from pyarrow import csv as arrow_csv

        arrow_csv.write_csv(table, file)
    else:
        file.write("\n".join(json.dumps(row) for row in table.to_pylist()).encode())
    async with control(tmp_path) as parts, parts.client() as client:
        reply = await client.post(
            f"{MODEL}/baseline",
            content=file.getvalue(),
            headers={"Content-Type": kind},
            params={"metrics": '{"f1": 0.9}', "trained_at": "2026-01-01T00:00:00Z"},
        )
        assert reply.status_code == 201, reply.text
        shown = (await client.get(f"{MODEL}/baseline")).json()
        assert (shown["rows"], shown["metrics"]) == (500, {"f1": 0.9})
        assert shown["trained_at"].startswith("2026-01-01")
        assert {name: one["type"] for name, one in shown["features"].items()} == {
            "age": "number",
            "region": "category",
            "$prediction": "number",
        }


async def test_a_baseline_is_taken_from_stored_predictions(tmp_path: Path) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        await store_rows(parts.store, rows(300))
        made = await client.post(f"{MODEL}/baseline", json={"version": "v1", "metrics": {"f1": 0.8}})
        assert (made.status_code, made.json()["rows"], made.json()["source"]) == (201, 300, "window of v1")
        assert (await client.post(f"{MODEL}/baseline", json={"version": "v2"})).status_code == 422
        assert (await client.post(f"{MODEL}/baseline", json={"version": "v9"})).status_code == 404


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/json", b"{", 422),
        ("application/json", b'{"rows": [{"a": 1}]}', 422),
        ("application/json", b'{"rows": 5}', 422),
        ("application/json", b'{"metrics": {"f1": NaN}}', 422),
        ("application/json", b'{"metrics": {"f1": "high"}}', 422),
        ("application/x-ndjson", b'{"a": 1}\n{"a": ', 422),
        ("application/x-ndjson", b"[1]\n" * 200, 422),
        ("application/vnd.apache.parquet", b"PAR1 not really PAR1", 422),
        ("application/vnd.apache.parquet", b"", 422),
        ("text/csv", b"a,b\n1\n2,3,4\n", 422),
        ("text/csv", b"\xff\xfe\x00", 422),
        ("application/zip", b"PK", 415),
    ],
)
async def test_a_baseline_that_cannot_be_read_is_refused(
    tmp_path: Path, kind: str, body: bytes, status: int
) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        reply = await client.post(f"{MODEL}/baseline", content=body, headers={"Content-Type": kind})
        assert reply.status_code == status, reply.text
        assert reply.headers["content-type"] == "application/problem+json"


# ---- retraining


async def test_a_performance_drop_of_mature_labels_calls_for_retraining_with_its_inputs(
    tmp_path: Path,
) -> None:
    known = model(labels=SHORT, retraining=Retraining(metric="accuracy", baseline=0.95))
    async with control(tmp_path, known) as parts, parts.client() as client:
        first = (await client.post(f"{MODEL}/retraining")).json()
        assert (first["should_retrain"], first["inputs"]["performance_current"]) == (False, None)
        stored = rows(300)
        # type: ignore[operator]
        await store_rows(
            parts.store,
            stored,
            lambda index: float((stored[index].prediction or 0) >= 0.5) if index % 4 else 1.0,
        )
        parts.clock.turn(2 * DAY)
        decision = (await client.post(f"{MODEL}/retraining")).json()
        assert decision["should_retrain"] is True
        assert decision["urgency"] in ("elevated", "critical")
        assert "0.950" in decision["reason"]
        assert (decision["inputs"]["metric"], decision["inputs"]["performance_baseline"]) == (
            "accuracy",
            0.95,
        )
        kept = (await client.get(f"{MODEL}/retraining")).json()["decisions"]
        assert [one["should_retrain"] for one in kept] == [True, False]


async def test_a_schedule_fires_by_itself_though_nobody_said_when_the_model_was_trained(
    tmp_path: Path,
) -> None:
    known = model(retraining=Retraining(strategy="schedule", every_s=7 * DAY))
    async with control(tmp_path, known) as parts, parts.client() as client:

        async def latest() -> tuple[bool, str]:
            await parts.monitor.look()
            row = (await client.get(f"{MODEL}/retraining")).json()["decisions"][0]
            return row["should_retrain"], row["reason"]

        assert await latest() == (False, "No time of the last training is known.")
        await store_rows(parts.store, [prediction(START, 1)])
        parts.clock.turn(DAY)
        first = await latest()
        assert first[0] is False
        assert "no time of the last training is known, but v1 was first asked 86400 s ago" in first[1]
        parts.clock.turn(6 * DAY)
        assert (await latest())[0] is True
        reference = [features(row) for row in rows(200)]
        await client.post(f"{MODEL}/baseline", json={"rows": reference})
        parts.clock.turn(DAY)
        after_baseline = await latest()
        assert after_baseline[0] is False
        assert "but the baseline was set 86400 s ago" in after_baseline[1]
        by = By("ops", "", "operator")
        await parts.controller.look()
        begun = await parts.controller.begin("credit", "v2", by=by, reason="")
        await parts.controller.act_on("credit", begun["id"], Action.PROMOTE, by=by, reason="good")
        parts.clock.turn(7 * DAY)
        promoted = await latest()
        assert promoted[0] is True
        assert "but v2 was promoted 604800 s ago" in promoted[1]
        trained = {"rows": reference, "trained_at": (parts.clock.now() - timedelta(days=1)).isoformat()}
        await client.post(f"{MODEL}/baseline", json=trained)
        decision = (await client.post(f"{MODEL}/retraining")).json()
        assert "last trained 86400 s ago" in decision["reason"]
        assert decision["inputs"]["after_training_at"] is None


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"age": None}, "age missing in 100.0% more rows"),
        ({"age": "forty"}, "age of another type in 100.0% more rows"),
        ({"vip": "yes"}, "vip of another type in 100.0% more rows"),
    ],
)
async def test_a_feature_that_vanished_or_changed_its_type_is_drift(
    tmp_path: Path, change: dict[str, Any], found: str
) -> None:
    known = model(retraining=Retraining(strategy="drift"))
    async with control(tmp_path, known) as parts, parts.client() as client:
        await client.post(f"{MODEL}/baseline", json={"rows": [features(row) for row in rows(2000, seed=7)]})
        await store_rows(parts.store, [with_features(row, **change) for row in rows(1000, seed=8)])
        decision = (await client.post(f"{MODEL}/retraining")).json()
        assert decision["should_retrain"] is True
        assert decision["inputs"]["drift_detected"] is True
        assert decision["inputs"]["drift_findings"] == [found]
        assert found in decision["reason"]


async def test_a_feature_that_is_missing_in_few_rows_only_is_no_drift_to_retrain_for(tmp_path: Path) -> None:
    for limit, detected in ((0.1, False), (0.03, True)):
        known = model(retraining=Retraining(strategy="drift", schema_threshold=limit))
        async with control(tmp_path / str(limit), known) as parts, parts.client() as client:
            reference = [features(row) for row in rows(2000, seed=7)]
            await client.post(f"{MODEL}/baseline", json={"rows": reference})
            live = [
                with_features(row, age=None) if n % 20 == 0 else row
                for n, row in enumerate(rows(2000, seed=8))
            ]
            await store_rows(parts.store, live)
            decision = (await client.post(f"{MODEL}/retraining")).json()
            assert decision["inputs"]["drift_detected"] is detected


async def test_the_timer_stores_a_decision_only_when_it_changes(tmp_path: Path) -> None:
    known = model(labels=SHORT, retraining=Retraining(metric="accuracy", baseline=0.95))
    async with control(tmp_path, known) as parts, parts.client() as client:
        for _ in range(3):
            await parts.monitor.look()
            parts.clock.turn(60.0)
        assert len((await client.get(f"{MODEL}/retraining")).json()["decisions"]) == 1
        parts.clock.turn(DAY)
        await parts.monitor.look()
        assert len((await client.get(f"{MODEL}/retraining")).json()["decisions"]) == 2


async def test_the_monitor_survives_a_store_that_is_down(tmp_path: Path) -> None:
    async with control(tmp_path, model(), model("churn")) as parts:
        parts.store.down = True
        await parts.monitor.look()
        parts.store.down = False
        await parts.monitor.look()


# ---- training set


async def exported(client: Any, kind: str, **query: Any) -> bytes:
    reply = await client.get(f"{MODEL}/training-set", params={"format": kind, **query})
    assert reply.status_code == 200, reply.text
    assert f".{kind}" in reply.headers["content-disposition"]
    return bytes(reply.content)


async def test_the_training_set_has_recency_weights_and_is_the_same_in_every_format(tmp_path: Path) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        stored = rows(2500, days=100.0)
        await store_rows(parts.store, stored, lambda index: float(index % 2) if index % 5 else None)
        lines = [json.loads(line) for line in (await exported(client, "ndjson")).splitlines()]
        assert len(lines) == 2000
        assert [line["prediction_id"] for line in lines] == sorted(line["prediction_id"] for line in lines)
        for line in lines[::100]:
            assert line["sample_weight"] == pytest.approx(weight(line["age_days"]))
        table = list(csv.DictReader(io.StringIO((await exported(client, "csv")).decode())))
        parquet = pq.read_table(io.BytesIO(await exported(client, "parquet"))).to_pylist()
        assert len(table) == len(parquet) == 2000
        for line, cell, row in zip(lines, table, parquet, strict=True):
            assert line["prediction_id"] == cell["prediction_id"] == row["prediction_id"]
            assert line["features"]["age"] == float(cell["feature.age"]) == row["feature.age"]
            assert line["features"]["vip"] == (cell["feature.vip"] == "true") == row["feature.vip"]
            assert line["ground_truth"] == float(cell["ground_truth"]) == row["ground_truth"]
            assert line["sample_weight"] == float(cell["sample_weight"]) == row["sample_weight"]


async def test_of_one_version_rows_that_were_unlikely_weigh_more_up_to_a_bound(tmp_path: Path) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        at = START - timedelta(days=1)
        stored = [
            prediction(at, number, propensity=share) for number, share in enumerate((1.0, 0.05, 0.0001))
        ]
        await store_rows(parts.store, stored, lambda _: 1.0)
        lines = [json.loads(line) for line in (await exported(client, "ndjson", version="v1")).splitlines()]
        assert [line["sample_weight"] for line in lines] == [1.0, 20.0, 100.0]


async def test_traffic_under_a_rollout_counts_as_often_as_any_other(tmp_path: Path) -> None:
    """A hundred requests before a rollout and a hundred during it, five of which the canary got."""
    async with control(tmp_path) as parts, parts.client() as client:
        at = START - timedelta(days=1)
        before = [prediction(at, number) for number in range(100)]
        production = [prediction(at, 100 + number, propensity=0.95) for number in range(95)]
        canary = [
            prediction(at, 200 + number, model_version="v2", role="canary", propensity=0.05)
            for number in range(5)
        ]
        await store_rows(parts.store, [*before, *production, *canary], lambda _: 1.0)

        async def weights(**query: str) -> list[float]:
            lines = (await exported(client, "ndjson", **query)).splitlines()
            return [json.loads(line)["sample_weight"] for line in lines]

        assert await weights() == [1.0] * 200
        assert sum((await weights(version="v1"))[100:]) == pytest.approx(100.0)
        assert sum(await weights(version="v2")) == pytest.approx(100.0)


async def test_a_fallback_was_given_with_certainty_whatever_was_stored_of_it(tmp_path: Path) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        at = START - timedelta(days=1)
        stored = [
            prediction(at, number, role=role, propensity=0.05)
            for number, role in enumerate(("fallback", "production"))
        ]
        await store_rows(parts.store, stored, lambda _: 1.0)
        lines = [json.loads(line) for line in (await exported(client, "ndjson", version="v1")).splitlines()]
        assert [(line["propensity"], line["sample_weight"]) for line in lines] == [(1.0, 1.0), (0.05, 20.0)]


async def test_features_that_change_name_or_type_are_kept_apart_not_lost(tmp_path: Path) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        stored = rows(1200, days=5.0)
        odd = [
            prediction(START - timedelta(seconds=1), 5000, features={"age": "unknown", "new": [1, 2]}),
            prediction(START - timedelta(seconds=1), 5001, features=None, prediction=None, confidence=None),
        ]
        await store_rows(parts.store, [*stored, *odd], lambda _: 1.0)
        parts.clock.turn(DAY)
        rows_ = pq.read_table(io.BytesIO(await exported(client, "parquet"))).to_pylist()
        assert rows_[-2]["feature.age"] is None
        assert json.loads(rows_[-2]["more_features"]) == {"age": "unknown", "new": [1, 2]}
        assert (rows_[-1]["prediction"], rows_[-1]["more_features"]) == (None, None)
        table = list(csv.DictReader(io.StringIO((await exported(client, "csv")).decode())))
        assert (table[-2]["feature.age"], json.loads(table[-2]["more_features"])) == (
            "unknown",
            {"new": [1, 2]},
        )


@pytest.mark.parametrize("kind", ["csv", "ndjson", "parquet"])
async def test_an_empty_training_set_is_a_whole_file_without_rows(tmp_path: Path, kind: str) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        data = await exported(client, kind)
        if kind == "parquet":
            assert pq.read_table(io.BytesIO(data)).num_rows == 0
        elif kind == "csv":
            assert list(csv.DictReader(io.StringIO(data.decode()))) == []
        else:
            assert data == b""


async def test_the_training_set_is_narrowed_by_time_and_version(tmp_path: Path) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        await store_rows(parts.store, rows(100, days=10.0), lambda _: 1.0)
        await store_rows(
            parts.store, [prediction(START - timedelta(hours=1), 900, model_version="v2")], lambda _: 1.0
        )
        assert len((await exported(client, "ndjson", version="v2")).splitlines()) == 1
        since = (START - timedelta(days=5)).isoformat()
        assert 50 <= len((await exported(client, "ndjson", since=since)).splitlines()) <= 53


async def test_a_manifest_lets_an_export_be_repeated_byte_for_byte(tmp_path: Path) -> None:
    """Whatever labels come afterwards: of rows that had none, however long ago they were observed, and corrections."""
    async with control(tmp_path) as parts, parts.client() as client:
        stored = rows(2400, days=20.0)
        await store_rows(parts.store, stored, lambda index: 1.0 if index % 2 else None)
        made = (await client.get(f"{MODEL}/training-set/manifest")).json()
        first = {kind: await exported(client, kind) for kind in ("ndjson", "csv", "parquet")}
        assert (made["rows"], made["by_version"]) == (1200, {"v1": 1200})
        assert made["sha256"] == hashlib.sha256(first["ndjson"]).hexdigest()
        parts.clock.turn(3 * DAY)
        later = [prediction(START + timedelta(days=1), 7777)]
        await store_rows(parts.store, later, lambda _: 1.0)
        # New to the columns, and among the first rows: what is left out must not show in a file's columns either.
        odd = [with_features(prediction(START - timedelta(days=19), 8000), surprise=1.0)]
        unlabelled = [*odd, *stored[:200:2]]
        await store_rows(parts.store, odd)
        at = parts.clock.now()
        sent = [
            replace(outcome(row, 0.0, row.timestamp + timedelta(minutes=1)), received_at=at)
            for row in unlabelled
        ]
        sent += [outcome(row, 0.0, at) for row in stored[1:300:2]]  # corrections
        await parts.store.load(Batch((), (), sent, (), ()))
        changed = await exported(client, "ndjson")
        assert len(changed.splitlines()) == 1200 + 1 + 101
        assert {json.loads(line)["ground_truth"] for line in changed.splitlines()} == {0.0, 1.0}
        for kind, data in first.items():
            assert await exported(client, kind, as_of=made["query"]["as_of"]) == data, kind
        again = (
            await client.get(f"{MODEL}/training-set/manifest", params={"as_of": made["query"]["as_of"]})
        ).json()
        assert again == made


async def test_an_export_says_from_when_it_is_so_that_it_can_be_repeated(tmp_path: Path) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        stored = rows(50, days=2.0)
        await store_rows(parts.store, stored[:40], lambda _: 1.0)
        first = await client.get(f"{MODEL}/training-set")
        assert first.headers["x-as-of"] == START.isoformat()
        parts.clock.turn(DAY)
        await store_rows(parts.store, stored[40:])
        sent = [replace(outcome(row, 0.0, START), received_at=parts.clock.now()) for row in stored]
        await parts.store.load(Batch((), (), sent, (), ()))
        again = await client.get(f"{MODEL}/training-set", params={"as_of": first.headers["x-as-of"]})
        assert again.content == first.content


# ---- review


async def test_the_least_confident_are_listed_first_and_leased_to_one_reviewer(tmp_path: Path) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        # No two alike.
        stored = [with_features(row, number=number) for number, row in enumerate(rows(200, days=0.001))]
        await store_rows(parts.store, stored, lambda index: 1.0 if index < 20 else None)
        first = (await client.get(f"{MODEL}/review", params={"limit": 5})).json()
        unlabelled = sorted(row.confidence for row in stored[20:] if row.confidence is not None)
        assert [item["confidence"] for item in first["items"]] == pytest.approx(unlabelled[:5])
        assert all(
            item["strategy"] == "uncertainty" and item["propensity"] == 1.0 and item["features"]
            for item in first["items"]
        )
        mixed = (
            await client.get(f"{MODEL}/review", params={"limit": 10, "strategy": "uncertainty,random"})
        ).json()
        assert all(0 < item["propensity"] <= 1.0 for item in mixed["items"])


async def test_a_label_given_becomes_an_outcome_and_the_wrong_kind_is_refused(tmp_path: Path) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        [row] = rows(1, days=0.001)
        await store_rows(parts.store, [row])
        await client.get(f"{MODEL}/review")
        path = f"{MODEL}/review/{row.prediction_id}"
        assert (await client.post(path, json={"label": "maybe"})).status_code == 422
        assert (await client.post(path, json={})).status_code == 422
        given = await client.post(path, json={"label": 1})
        assert (given.status_code, given.json()["review_finished"]) == (200, True)
        assert parts.writer.records["outcome"] == 1
        assert (await client.post(path, json={"label": 1})).status_code == 409
        other = prediction_id(START, 77)
        assert (await client.post(f"{MODEL}/review/{other}", json={"label": 1})).status_code == 404
        assert (await client.post(f"{MODEL}/review/nonsense", json={"label": 1})).status_code == 422


async def test_disagreement_with_a_shadow_is_a_reason_to_look(tmp_path: Path) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        stored = rows(50)
        await store_rows(parts.store, stored)
        apart = stored[7]
        await parts.store.load(
            Batch(
                (),
                [
                    ShadowRow(
                        apart.prediction_id,
                        "credit",
                        "v2",
                        "shadow",
                        apart.timestamp,
                        0.0,
                        0.9,
                        1.0,
                        200,
                        -0.8,
                        False,
                        None,
                    )
                ],
                (),
                (),
                (),
            )
        )
        drawn = (await client.get(f"{MODEL}/review", params={"strategy": "disagreement", "limit": 1})).json()
        assert [item["prediction_id"] for item in drawn["items"]] == [apart.prediction_id]


async def test_what_lies_where_nothing_was_learned_is_novel(tmp_path: Path) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        await store_rows(parts.store, rows(400, seed=1), lambda _: 1.0)
        unlabelled = [
            replace(row, prediction_id=prediction_id(START, 10_000 + n))
            for n, row in enumerate(rows(100, seed=2))
        ]
        strange = {row.prediction_id for row in unlabelled[:5]}
        unlabelled[:5] = [with_features(row, age=400.0 + len(row.prediction_id)) for row in unlabelled[:5]]
        await store_rows(parts.store, unlabelled)
        drawn = (await client.get(f"{MODEL}/review", params={"strategy": "novelty", "limit": 1})).json()
        assert drawn["items"][0]["prediction_id"] in strange
        assert drawn["items"][0]["score"] > 2.0


async def test_of_near_duplicates_one_is_reviewed_and_stands_for_the_others(tmp_path: Path) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        same = [
            prediction(START, n, confidence=0.5, features={"age": 40.0, "region": "north"}) for n in range(50)
        ]
        other = prediction(START, 999, confidence=0.6, features={"age": 20.0, "region": "south"})
        await store_rows(parts.store, [*same, other])
        drawn = (await client.get(f"{MODEL}/review", params={"limit": 10})).json()
        assert len(drawn["items"]) == 2
        assert {item["propensity"] for item in drawn["items"]} == {1 / 50, 1.0}
        assert "48" in drawn["reason"] or "49" in drawn["reason"]
