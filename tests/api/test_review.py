"""Review over HTTP: no item goes to two reviewers at once, a lease that runs out gives it back, a day has its budget, and
near-duplicates are asked about once.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.control.extraction import Extractor
from app.control.ports import PredictionRow
from app.domain.model import Review
from tests.control_parts import START, control, model, prediction, store_rows, with_features
from tests.journal_records import predicted

REVIEW = "/admin/models/credit/review"
LEASE_S = 900.0


def apart(count: int) -> list[PredictionRow]:
    """Predictions of which no two are alike, the first the least confident."""
    return [
        prediction(START, n, confidence=0.5 + n / (2 * count), features={"age": 10.0 * n, "name": f"n{n}"})
        for n in range(count)
    ]


async def drawn(client: httpx2.AsyncClient, **params: Any) -> Any:
    reply = await client.get(REVIEW, params=params)
    assert reply.status_code == 200, reply.text
    return reply.json()


def ids(answer: Any) -> set[str]:
    return {item["prediction_id"] for item in answer["items"]}


async def test_reviewers_who_ask_at_the_same_moment_never_get_the_same_item(tmp_path: Path) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        await store_rows(parts.store, apart(60))
        answers = await asyncio.gather(*(drawn(client, limit=10) for _ in range(6)))
        assert [len(ids(answer)) for answer in answers] == [10] * 6
        assert len(set.union(*map(ids, answers))) == 60
        assert (await drawn(client, limit=10))["reason"] == "nothing to review"


async def test_an_item_whose_lease_has_run_out_is_offered_again_and_a_labelled_one_is_not(
    tmp_path: Path,
) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        await store_rows(parts.store, apart(4))
        first = await drawn(client, limit=2)
        labelled, lapsed = (item["prediction_id"] for item in first["items"])
        assert (await client.post(f"{REVIEW}/{labelled}", json={"label": 1})).status_code == 200
        parts.clock.turn(LEASE_S - 1)
        assert ids(await drawn(client, limit=1)).isdisjoint(ids(first))
        parts.clock.turn(1)
        assert lapsed in ids(await drawn(client, limit=4))
        parts.clock.turn(LEASE_S)
        assert labelled not in ids(await drawn(client, limit=4))


async def test_the_lease_lasts_as_long_as_configured(tmp_path: Path) -> None:
    async with (
        control(tmp_path, model(review=Review(lease_s=60.0))) as parts,
        parts.client() as client,
    ):
        await store_rows(parts.store, apart(1))
        assert len(ids(await drawn(client))) == 1
        parts.clock.turn(59.0)
        assert ids(await drawn(client)) == set()
        parts.clock.turn(1.0)
        assert len(ids(await drawn(client))) == 1


async def test_a_day_has_its_budget_of_labels_given_and_items_out(tmp_path: Path) -> None:
    async with (
        control(tmp_path, model(review=Review(daily_budget=5))) as parts,
        parts.client() as client,
    ):
        await store_rows(parts.store, apart(40))
        both = await asyncio.gather(drawn(client, limit=4), drawn(client, limit=4))
        assert sorted(len(ids(answer)) for answer in both) == [1, 4], "together no more than five"
        assert {answer["budget_left"] for answer in both} == {0, 1}
        spent = await drawn(client, limit=4)
        assert (spent["items"], spent["reason"], spent["budget_left"]) == ([], "no budget left", 0)
        given = sorted(set.union(*map(ids, both)))[:3]
        for prediction_id in given:
            assert (await client.post(f"{REVIEW}/{prediction_id}", json={"label": 0})).status_code == 200
        assert ids(await drawn(client, limit=4)) == set(), "a label given stays spent"
        parts.clock.turn(LEASE_S)
        assert len(ids(await drawn(client, limit=4))) == 2, "a lease that ran out costs nothing"
        parts.clock.turn(86_400.0)
        assert len(ids(await drawn(client, limit=10))) == 5, "another day"


@pytest.mark.parametrize(("near_duplicate", "cells"), [(0.0, 40), (0.1, 20), (10.0, 1)])
async def test_rows_within_the_configured_distance_are_asked_about_once(
    tmp_path: Path, near_duplicate: float, cells: int
) -> None:
    async with (
        control(tmp_path, model(review=Review(near_duplicate=near_duplicate))) as parts,
        parts.client() as client,
    ):
        pairs = [
            prediction(START, n, confidence=0.6, features={"age": 100.0 * (n // 2) + 0.5 + n % 2})
            for n in range(40)
        ]
        await store_rows(parts.store, pairs)
        answer = await drawn(client, limit=40)
        assert len(ids(answer)) == cells
        stand_for = [1 / item["propensity"] for item in answer["items"]]
        assert sum(stand_for) == pytest.approx(40), "each stands for those like it"


EXTRACT = (("features", "$.features"), ("prediction", "$.prediction"))
SEVERAL = model(task="multiclass", extract=EXTRACT)


def classified(number: int, prediction: Any) -> PredictionRow:
    """As the recorder stores a classifier's answer."""
    record = predicted(
        {"number": 10.0 * number}, {"prediction": prediction}, at_ns=int(START.timestamp() * 1e9)
    )
    [row] = Extractor(lambda: {"credit": SEVERAL}).prediction(record)
    return row


async def test_of_several_classes_the_closest_two_come_first_by_margin(tmp_path: Path) -> None:
    """The least confident one is another one: its best class leads by more."""
    close, confident, spread = [0.48, 0.46, 0.06], [0.9, 0.06, 0.04], [0.4, 0.3, 0.3]
    stored = [classified(number, scores) for number, scores in enumerate((close, confident, spread))]
    async with control(tmp_path, SEVERAL) as parts, parts.client() as client:
        await store_rows(parts.store, stored)
        by_margin = await drawn(client, strategy="margin", limit=3)
        assert [item["prediction_id"] for item in by_margin["items"]] == [
            stored[n].prediction_id for n in (0, 2, 1)
        ]
        assert [item["score"] for item in by_margin["items"]] == pytest.approx([0.98, 0.9, 0.16])
        assert {item["strategy"] for item in by_margin["items"]} == {"margin"}
        assert by_margin["notes"] == {}
        assert all("facts" not in item for item in by_margin["items"])
        parts.clock.turn(LEASE_S)
        uncertain = await drawn(client, strategy="uncertainty", limit=1)
        assert ids(uncertain) == {stored[2].prediction_id}


async def test_where_the_margin_cannot_be_known_the_answer_says_so(tmp_path: Path) -> None:
    labels = [classified(number, "cat") for number in range(3)]
    logits = [classified(3, [4.0, 2.0, -1.0])]
    known = [classified(4, [0.5, 0.4, 0.1])]
    async with control(tmp_path, SEVERAL) as parts, parts.client() as client:
        await store_rows(parts.store, [*labels, *logits, *known])
        why = "what these do not fill of its share is drawn at random"
        for strategy, lack in {
            "margin": "of the others no probabilities of all classes are known",
            "uncertainty": "the others have no confidence",
        }.items():
            answer = await drawn(client, strategy=f"{strategy},random", limit=5)
            assert answer["notes"] == {strategy: f"1 of 5 candidates are ranked, {lack}; {why}"}
            ranked = {item["prediction_id"] for item in answer["items"] if item["strategy"] == strategy}
            assert ranked == {known[0].prediction_id}
            parts.clock.turn(LEASE_S)


@pytest.mark.parametrize("fields", [{"confidence": None}, {"confidence": 0.7}])
async def test_of_two_classes_the_margin_follows_from_the_confidence_or_the_probability(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        await store_rows(parts.store, [prediction(START, 1, prediction=0.3, **fields)])
        answer = await drawn(client, strategy="margin")
        assert [item["score"] for item in answer["items"]] == pytest.approx([0.6])
        assert answer["notes"] == {}


@pytest.mark.parametrize("odd", [1e308, -1e308])
async def test_one_number_of_any_size_among_the_labelled_rows_keeps_nobody_from_reviewing(
    tmp_path: Path, odd: float
) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        labelled = apart(200)
        labelled[3] = with_features(labelled[3], age=odd)
        await store_rows(parts.store, labelled, lambda _: 1.0)
        free = [with_features(prediction(START, 500 + n), age=40.0 + n, name=f"m{n}") for n in range(50)]
        free[5] = with_features(free[5], age=-odd)
        await store_rows(parts.store, free)
        answer = await drawn(client, strategy="novelty,random", limit=50)
        assert len(ids(answer)) == 50
        assert any(item["strategy"] == "novelty" for item in answer["items"])
