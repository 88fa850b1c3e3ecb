"""Samples of predictions, arrivals of labels and what reviewers may be offered, alike in SQLite and PostgreSQL."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec.structs import replace

from app.adapters.sql_store import SqlStore
from app.control.ports import Row
from tests.store_rows import T0, batch, outcome_of, prediction

HOUR = timedelta(hours=1)
NOW = datetime.now(UTC)


def lease(prediction_id: str, until: datetime, propensity: float | None = 0.1) -> Row:
    return {
        "prediction_id": prediction_id,
        "model": "credit",
        "strategy": "uncertainty",
        "score": 0.5,
        "propensity": propensity,
        "leased_by": "anna",
        "leased_until": until,
    }


async def test_a_sample_is_spread_over_the_time_that_there_are_rows_of(store: SqlStore) -> None:
    rows = [prediction(T0 + timedelta(seconds=number)) for number in range(400)]
    failed = prediction(T0 + timedelta(seconds=5), status=500)
    await store.load(batch([*rows, failed], (), [outcome_of(rows[7], 1.0, T0 + HOUR)]))
    found = await store.sample("credit", "v1", T0 - 30 * 24 * HOUR, T0 + timedelta(seconds=400), 100)
    places = [int((row["timestamp"] - T0).total_seconds()) for row in found]
    assert places == sorted(places, reverse=True)
    assert len(places) == 100
    assert [sum(place // 20 == part for place in places) for part in range(20)] == [5] * 20
    assert failed.prediction_id not in {row["prediction_id"] for row in found}
    everything = await store.sample("credit", "v1", T0, T0 + HOUR, 10_000)
    assert {row["prediction_id"] for row in everything} == {row.prediction_id for row in rows}
    (labelled,) = (row for row in everything if row["ground_truth_timestamp"] is not None)
    assert (labelled["prediction_id"], labelled["ground_truth"]) == (rows[7].prediction_id, 1.0)
    assert await store.sample("credit", "v1", T0 + HOUR, T0 + 2 * HOUR, 10) == []


async def test_answers_are_all_that_can_have_a_label_newest_first(store: SqlStore) -> None:
    rows = [prediction(T0 + n * HOUR) for n in range(5)]
    failed = prediction(T0 + HOUR, status=502)
    others = [prediction(T0 + HOUR, model_version="v2"), prediction(T0 + HOUR, model="other")]
    await store.load(batch([*rows, failed, *others], (), [outcome_of(rows[3], 1.0, T0 + 9 * HOUR)]))
    found = await store.answers("credit", "v1", T0 + HOUR, T0 + 4 * HOUR, 10)
    assert [row["prediction_id"] for row in found] == [rows[n].prediction_id for n in (3, 2, 1)]
    assert [row["ground_truth"] for row in found] == [1.0, None, None]
    assert found[0]["features"] == json.loads(rows[3].features or "")
    assert len(await store.answers("credit", "v1", None, None, 2)) == 2


async def test_an_arrival_is_when_the_first_outcome_was_received_not_when_it_was_observed(
    store: SqlStore,
) -> None:
    row, other, none = prediction(), prediction(request_id="r-9"), prediction()
    first = outcome_of(row, 1.0, T0 + HOUR)
    first = replace(first, received_at=T0 + 5 * HOUR)
    again = replace(outcome_of(row, 0.0, T0 + 2 * HOUR), received_at=T0 + 9 * HOUR, outcome_id="a correction")
    by_request = replace(
        outcome_of(other, 1.0, T0), prediction_id=None, model="credit", request_id="r-9", outcome_id="r"
    )
    await store.load(batch([row, other, none], (), [first, again, by_request]))
    asked = [
        {"prediction_id": one.prediction_id, "model": "credit", "request_id": one.request_id}
        for one in (row, other, none)
    ]
    assert await store.arrivals(asked) == {
        row.prediction_id: T0 + 5 * HOUR,
        other.prediction_id: by_request.received_at,
    }


async def test_only_labels_that_reviewers_alone_gave_have_a_review_propensity(store: SqlStore) -> None:
    reviewed, confirmed, unfair, open_one, natural = (prediction() for _ in range(5))
    by_review = [replace(outcome_of(row, 1.0), source="review") for row in (reviewed, confirmed, unfair)]
    by_itself = [outcome_of(row, 0.0, T0 + HOUR) for row in (confirmed, natural)]
    rows = (reviewed, confirmed, unfair, open_one, natural)
    await store.load(batch(list(rows), (), [*by_review, *by_itself]))
    ids = [row.prediction_id for row in rows]
    assert await store.review_propensities("credit", ids) == {}
    for row, propensity in ((reviewed, 0.25), (confirmed, 0.25), (unfair, None), (open_one, 0.25)):
        await store.put_reviews([lease(row.prediction_id, NOW + HOUR, propensity)], NOW)
    for row in (reviewed, confirmed, unfair):
        assert await store.finish_review(row.prediction_id, 1.0, "anna", NOW)
    assert await store.review_propensities("credit", ids) == {reviewed.prediction_id: 0.25}


async def test_what_is_offered_is_neither_labelled_nor_under_review(store: SqlStore) -> None:
    rows = [prediction(NOW - HOUR + timedelta(seconds=number)) for number in range(6)]
    rows.append(prediction(NOW - HOUR, prediction=None))
    await store.load(batch(rows, (), [outcome_of(rows[0], 1.0, NOW)]))
    await store.put_reviews([lease(rows[1].prediction_id, NOW + HOUR)], NOW)
    await store.put_reviews([lease(rows[2].prediction_id, NOW - HOUR)], NOW)
    await store.put_reviews([lease(rows[3].prediction_id, NOW - HOUR)], NOW)
    assert await store.finish_review(rows[3].prediction_id, 1.0, "anna", NOW)

    async def free(limit: int) -> list[Any]:
        return [row["prediction_id"] for row in await store.unlabelled("credit", ["v1", "v2"], limit, NOW)]

    assert await free(100) == [rows[n].prediction_id for n in (5, 4, 2)]
    assert await free(4) == [rows[n].prediction_id for n in (5, 4)]
    (shown,) = await store.offered([rows[4].prediction_id, "unknown"])
    assert (shown["prediction_id"], shown["features"], shown["confidence"]) == (
        rows[4].prediction_id,
        json.loads(rows[4].features or ""),
        rows[4].confidence,
    )
