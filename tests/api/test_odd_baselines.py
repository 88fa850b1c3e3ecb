"""Baselines that do not fit what is asked for, and windows with nothing in them: a clear answer each."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.api.test_reports import MODEL, rows
from tests.control_parts import control, store_rows, with_features


async def test_a_baseline_with_other_columns_and_gaps_says_of_each_feature_what_is_wrong(
    tmp_path: Path,
) -> None:
    lines = "".join(f"{20 + n % 30},{'nan' if n % 3 == 0 else n % 9}\n" for n in range(600))
    async with control(tmp_path) as parts, parts.client() as client:
        posted = await client.post(
            f"{MODEL}/baseline",
            content=f"age,weight\n{lines}".encode(),
            headers={"Content-Type": "text/csv"},
        )
        assert posted.status_code == 201, posted.text
        await store_rows(parts.store, rows(1000))
        results = (await client.get(f"{MODEL}/drift")).json()["results"]
        said = {(one["feature"], one["test"]): one for one in results if one["window"] == "day"}
        assert said["region", "new_feature"]["verdict"] == "drift"
        assert said["region", "new_feature"]["reason"] == "in 1000 of 1000 rows, never in the reference"
        assert said["weight", "missing"]["reason"] == "1000 of 1000 missing, 200 of 600 in the reference"
        assert said["weight", "psi"]["verdict"] == "no_data"
        assert said["age", "missing"]["verdict"] == "stable"
        assert not [test for feature, test in said if feature == "$prediction"]  # the reference has none


async def test_a_window_without_mature_predictions_has_reasons_and_no_figures(tmp_path: Path) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        assert (await client.get(f"{MODEL}/performance")).json()["versions"] == []
        await store_rows(parts.store, rows(3))
        parts.clock.turn(60.0)  # a report is kept for a moment
        [first, *_] = (await client.get(f"{MODEL}/performance")).json()["versions"]
        assert (first["mature"], first["coverage"]) == (0, None)
        assert {figure["value"] for figure in first["metrics"].values()} == {None}
        assert all(figure["reason"] for figure in first["metrics"].values())


async def test_a_baseline_of_the_largest_numbers_says_what_they_are(tmp_path: Path) -> None:
    lines = "".join(
        f"{'1.5e308' if n % 2 else '-1.5e308'},{'inf' if n % 2 else '-inf'}\n" for n in range(600)
    )
    async with control(tmp_path) as parts, parts.client() as client:
        posted = await client.post(
            f"{MODEL}/baseline",
            content=f"large,endless\n{lines}".encode(),
            headers={"Content-Type": "text/csv"},
        )
        assert posted.status_code == 201, posted.text
        features = (await client.get(f"{MODEL}/baseline")).json()["features"]
        large = {name: features["large"][name] for name in ("mean", "sigma", "min", "max")}
        assert large == {"mean": 0.0, "sigma": pytest.approx(1.5e308), "min": -1.5e308, "max": 1.5e308}
        assert {features["endless"][name] for name in ("mean", "sigma", "min", "max")} == {None}
        stored = [
            with_features(row, large=1.5e308 if n % 2 else -1.5e308, endless=7.0)
            for n, row in enumerate(rows(1000))
        ]
        await store_rows(parts.store, stored)
        parts.clock.turn(60.0)
        results = (await client.get(f"{MODEL}/drift")).json()["results"]
        said = {(one["feature"], one["test"]): one for one in results if one["window"] == "day"}
        assert said["large", "psi"]["verdict"] == "stable"
        assert said["endless", "out_of_range"]["verdict"] == "drift"
