"""Outcomes label their predictions alike in SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec import structs

from app.adapters.sql_store import SqlStore
from app.adapters.stores import open_store
from app.control.ports import OutcomeRow, outcome_subject
from app.domain.outcome import Outcome, resolve
from tests.store_rows import T0, batch, outcome_of, prediction

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


async def row_of(store: SqlStore, name: str) -> dict[str, Any]:
    row = await store.prediction(name)
    assert row is not None, name
    return row


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    """The waiting outcomes are looked at again within a few seconds of the clock."""
    end = datetime.now(UTC) + timedelta(seconds=20)
    while not await condition():
        assert datetime.now(UTC) < end


async def test_an_outcome_labels_its_prediction(store: SqlStore) -> None:
    row = prediction()
    await store.load(batch([row]))
    outcome = outcome_of(row, 1.0)
    await store.load(batch((), (), [outcome]))
    found = await row_of(store, row.prediction_id)
    assert (found["ground_truth"], found["ground_truth_timestamp"]) == (1.0, outcome.observed_at)
    (kept,) = found["outcomes"]
    assert (kept["outcome_id"], kept["ground_truth"], kept["source"], kept["state"]) == (
        outcome.outcome_id, 1.0, "test", "joined",
    )  # fmt: skip


async def test_an_outcome_in_the_batch_of_its_prediction_labels_it(store: SqlStore) -> None:
    row = prediction()
    await store.load(batch([row], (), [outcome_of(row, "spam")]))
    assert (await row_of(store, row.prediction_id))["ground_truth"] == "spam"


async def test_the_same_outcome_twice_is_one(store: SqlStore) -> None:
    row = prediction()
    outcome = outcome_of(row, 1.0)
    later = structs.replace(outcome, received_at=outcome.received_at + HOUR)
    await store.load(batch([row], (), [outcome, later]))
    await store.load(batch((), (), [later]))
    assert len((await row_of(store, row.prediction_id))["outcomes"]) == 1
    assert await store.coverage("credit", None, None) == [
        {"model_version": "v1", "predictions": 1, "labelled": 1}
    ]


async def test_the_newest_observed_holds_whatever_the_order_and_all_are_kept(store: SqlStore) -> None:
    first, second, late = (prediction() for _ in range(3))
    old, new = T0 + DAY, T0 + 2 * DAY
    await store.load(batch([first, second, late]))
    await store.load(batch((), (), [outcome_of(first, 0.0, old), outcome_of(first, 1.0, new)]))
    await store.load(batch((), (), [outcome_of(second, 1.0, new)]))
    await store.load(batch((), (), [outcome_of(second, 0.0, old), outcome_of(late, 0.0, old)]))
    await store.load(batch((), (), [outcome_of(late, 1.0, new)]))
    for row in (first, second, late):
        found = await row_of(store, row.prediction_id)
        assert (found["ground_truth"], found["ground_truth_timestamp"]) == (1.0, new)
        assert [outcome["ground_truth"] for outcome in found["outcomes"]] == [1.0, 0.0]


async def test_an_outcome_before_its_prediction_waits_and_joins(store: SqlStore) -> None:
    row = prediction()
    await store.load(batch((), (), [outcome_of(row, 0.0)]))
    assert await store.join_waiting_outcomes(10) == 0
    await store.load(batch([row]))

    async def joined() -> object:
        await store.join_waiting_outcomes(10)
        return (await row_of(store, row.prediction_id))["ground_truth"] == 0.0

    await until(joined)
    assert await store.join_waiting_outcomes(10) == 0
    assert (await store.coverage("credit", None, None))[0]["labelled"] == 1


async def test_outcomes_by_request_and_by_another_form_of_the_id_join_within_a_look(store: SqlStore) -> None:
    by_request, single, several = prediction(request_id="r-1"), prediction(), prediction()
    rows = [
        structs.replace(several, prediction_id=f"{several.prediction_id}:{number}") for number in range(2)
    ]
    await store.load(batch([by_request, single, *rows]))
    await store.load(
        batch(
            (),
            (),
            [
                outcome_of(None, 1.0, model="credit", request_id="r-1"),
                outcome_of(f"{single.prediction_id}:0", 1.0),
                outcome_of(several.prediction_id, 1.0),
                outcome_of(None, 1.0, model="other", request_id="r-1"),
            ],
        )
    )
    assert await store.join_waiting_outcomes(10) == 3
    for name in (by_request.prediction_id, single.prediction_id, rows[0].prediction_id):
        found = await row_of(store, name)
        assert (found["ground_truth"], len(found["outcomes"])) == (1.0, 1)
    assert (await row_of(store, rows[1].prediction_id))["ground_truth"] is None


async def test_of_several_predictions_with_one_request_id_the_first_is_meant(store: SqlStore) -> None:
    first, second = prediction(request_id="r"), prediction(T0 + HOUR, request_id="r")
    await store.load(batch([second, first], (), [outcome_of(None, 1.0, model="credit", request_id="r")]))
    assert await store.join_waiting_outcomes(10) == 1
    assert (await row_of(store, first.prediction_id))["ground_truth"] == 1.0
    assert (await row_of(store, second.prediction_id))["ground_truth"] is None


async def test_an_outcome_for_another_model_never_joins(store: SqlStore) -> None:
    row, waiting = prediction(), prediction()
    await store.load(
        batch([row], (), [outcome_of(row, 1.0, model="other"), outcome_of(waiting, 1.0, model="other")])
    )
    await store.load(batch([waiting]))
    await store.join_waiting_outcomes(10)
    for name in (row.prediction_id, waiting.prediction_id):
        assert (await row_of(store, name))["ground_truth"] is None


async def test_outcomes_of_unknown_predictions_are_looked_at_ever_less_often(store: SqlStore) -> None:
    long_ago = datetime.now(UTC) - timedelta(hours=8)
    unknown = [outcome_of(prediction(), 1.0, received=long_ago) for _ in range(5)]
    await store.load(batch((), (), unknown))
    assert await store.join_waiting_outcomes(3) == 0
    row = prediction(prediction_id=unknown[4].prediction_id)
    await store.load(batch([row]))
    await store.join_waiting_outcomes(3)
    # Those of the first look are not due for two hours; the others were looked at now.
    labelled = (await row_of(store, row.prediction_id))["ground_truth"]
    assert await store.join_waiting_outcomes(100) == 0
    assert labelled in (None, 1.0)


async def test_known_outcomes_are_told_apart(store: SqlStore) -> None:
    row = prediction()
    stored = [outcome_of(row, 1.0), outcome_of(None, "x", model="credit", request_id="r")]
    new = [outcome_of(row, 0.0), outcome_of(prediction(), 1.0)]
    await store.load(batch([row], (), stored))
    everything = [*stored, *new]
    ids = [outcome.outcome_id for outcome in everything]
    subjects = [outcome_subject(o.prediction_id, o.model, o.request_id) for o in everything]
    assert await store.outcomes_known(ids, subjects) == {outcome.outcome_id for outcome in stored}


def _ns(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1) * 1000


def _held(rows: list[OutcomeRow]) -> Outcome:
    """What the domain says holds of all these."""
    known = [
        Outcome(row.outcome_id, row.ground_truth, _ns(row.observed_at), _ns(row.received_at), row.source)
        for row in rows
    ]
    held = resolve(known, "multiclass").current
    assert held is not None
    return held


async def test_whatever_comes_in_whichever_batches_the_stored_label_is_the_one_that_holds(
    store: SqlStore,
) -> None:
    chance = random.Random(20261123)
    predictions = [prediction() for _ in range(40)]
    await store.load(batch(predictions[:30]))
    received = datetime.now(UTC)
    hours = chance.sample(
        range(1, 2000), 400
    )  # no two alike: of two observed at one time the last stored holds
    about: dict[str, list[OutcomeRow]] = {row.prediction_id: [] for row in predictions}
    everything = []
    for number in range(400):
        target = chance.choice(predictions)
        outcome = outcome_of(
            target,
            chance.choice(["a", "b", "c"]),
            T0 - hours[number] * HOUR,
            model=chance.choice([None, None, "credit"]),
            received=received + timedelta(milliseconds=number),
            source=chance.choice(["desk", "import"]),
        )
        about[target.prediction_id].append(outcome)
        everything.append(outcome)
    everything += chance.sample(everything, 60)  # sent again
    chance.shuffle(everything)
    late = predictions[30:]
    while everything:
        size = chance.choice([1, 2, 10, 60])
        some, everything = everything[:size], everything[size:]
        await store.load(batch(late if len(everything) < 200 else (), (), some))
        late = [] if len(everything) < 200 else late

    async def joined() -> object:
        await store.join_waiting_outcomes(1000)
        found = [await row_of(store, row.prediction_id) for row in predictions]
        return all(outcome["state"] == "joined" for row in found for outcome in row["outcomes"])

    await until(joined)
    labelled = 0
    for row in predictions:
        found = await row_of(store, row.prediction_id)
        distinct = {outcome.outcome_id: outcome for outcome in about[row.prediction_id]}
        assert len(found["outcomes"]) == len(distinct)
        if distinct:
            held = _held(list(distinct.values()))
            assert found["outcomes"][0]["outcome_id"] == held.outcome_id
            assert found["ground_truth"] == held.ground_truth
            labelled += 1
    assert await store.coverage("credit", None, None) == [
        {"model_version": "v1", "predictions": 40, "labelled": labelled}
    ]


async def test_the_same_outcomes_from_two_recorders_at_once_are_stored_once(
    store: SqlStore, store_url: str
) -> None:
    predictions = [prediction() for _ in range(300)]
    await store.load(batch(predictions))
    outcomes = [outcome_of(row, 1.0) for row in predictions]
    another = await open_store(store_url)
    try:
        await asyncio.gather(
            store.load(batch((), (), outcomes)), another.load(batch((), (), outcomes[100:] + outcomes[:100]))
        )
    finally:
        await another.close()
    assert await store.coverage("credit", None, None) == [
        {"model_version": "v1", "predictions": 300, "labelled": 300}
    ]
    for row in predictions[::30]:
        assert len((await row_of(store, row.prediction_id))["outcomes"]) == 1
