"""The rows of a training set as they were known at a time, alike in SQLite and PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec.structs import replace

from app.adapters.sql_store import SqlStore
from app.control.ports import OutcomeRow, PredictionRow
from tests.conformance.test_samples import lease
from tests.store_rows import T0, batch, outcome_of, prediction

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
THEN = T0 + 10 * DAY


async def labels(store: SqlStore, as_of: datetime | None) -> dict[str, tuple[Any, datetime]]:
    found = {}
    async for chunk in store.training_rows("credit", None, None, None, as_of):
        for row in chunk:
            assert {"model", "request_id", "learned_later"}.isdisjoint(row)
            found[row["prediction_id"]] = (row["ground_truth"], row["ground_truth_timestamp"])
    return found


def received(row: PredictionRow, truth: float, observed: datetime, at: datetime) -> OutcomeRow:
    return outcome_of(row, truth, observed, received=at)


async def test_what_is_received_later_does_not_count_whatever_it_says_of_when_it_was_observed(
    store: SqlStore,
) -> None:
    settled, late, corrected, confirmed, outdated = (prediction(T0 + n * HOUR) for n in range(5))
    day = T0 + DAY
    first = [received(row, 1.0, day, day + HOUR) for row in (settled, corrected, confirmed, outdated)]
    await store.load(batch([settled, late, corrected, confirmed, outdated], (), first))
    before = await labels(store, THEN)
    assert before == {row.prediction_id: (1.0, day) for row in (settled, corrected, confirmed, outdated)}
    afterwards = [
        received(late, 0.0, day, THEN + HOUR),  # known long ago, sent only now
        received(corrected, 0.0, THEN + HOUR, THEN + HOUR),
        received(corrected, 1.0, THEN + 2 * HOUR, THEN + 3 * HOUR),
        received(confirmed, 0.0, T0 + HOUR, THEN + HOUR),  # observed before what holds
        received(outdated, 0.0, day + HOUR, THEN + HOUR),
    ]
    await store.load(batch((), (), afterwards))
    assert await labels(store, THEN) == before
    assert await labels(store, None) == {
        settled.prediction_id: (1.0, day),
        late.prediction_id: (0.0, day),
        corrected.prediction_id: (1.0, THEN + 2 * HOUR),
        confirmed.prediction_id: (1.0, day),
        outdated.prediction_id: (0.0, day + HOUR),
    }
    assert (await labels(store, THEN + 2 * HOUR))[corrected.prediction_id] == (0.0, THEN + HOUR)


async def test_of_the_labels_known_then_the_newest_observed_holds_and_then_the_last_received(
    store: SqlStore,
) -> None:
    row, tied = prediction(), prediction()
    day = T0 + DAY
    await store.load(
        batch(
            [row, tied],
            (),
            [
                received(row, 0.0, day + HOUR, day + 2 * HOUR),
                received(row, 1.0, day, day + 3 * HOUR),
                received(tied, 0.0, day, day + 2 * HOUR),
                received(tied, 1.0, day, day + 3 * HOUR),
            ],
        )
    )
    before = await labels(store, THEN)
    assert {name: truth for name, (truth, _) in before.items()} == {
        row.prediction_id: 0.0,
        tied.prediction_id: 1.0,
    }
    changed = [received(one, 5.0, THEN, THEN + HOUR) for one in (row, tied)]
    await store.load(batch((), (), changed))
    assert await labels(store, THEN) == before


async def test_a_later_label_is_found_by_whatever_its_sender_called_the_prediction(store: SqlStore) -> None:
    by_request, bare, first_row = prediction(request_id="r-1"), prediction(), prediction()
    of_several = [replace(first_row, prediction_id=f"{first_row.prediction_id}:{n}") for n in range(2)]
    rows = [by_request, bare, *of_several]
    known = [received(row, 1.0, T0 + DAY, T0 + DAY) for row in rows]
    await store.load(batch(rows, (), known))
    before = await labels(store, THEN)
    assert len(before) == 4
    later = THEN + HOUR
    await store.load(
        batch(
            (),
            (),
            [
                outcome_of(None, 0.0, later, model="credit", request_id="r-1", received=later),
                outcome_of(f"{bare.prediction_id}:0", 0.0, later, received=later),
                outcome_of(first_row.prediction_id, 0.0, later, received=later),
                outcome_of(of_several[1], 0.0, later, model="other", received=later),
            ],
        )
    )
    while await store.join_waiting_outcomes(10):
        pass
    assert {truth for truth, _ in (await labels(store, None)).values()} == {0.0, 1.0}
    assert await labels(store, THEN) == before


async def test_a_long_history_is_read_in_chunks_with_later_labels_anywhere_in_it(store: SqlStore) -> None:
    rows = [prediction(T0 + timedelta(seconds=number)) for number in range(2500)]
    await store.load(batch(rows, (), [received(row, 1.0, T0 + DAY, T0 + DAY) for row in rows[::2]]))
    later = [received(row, 0.0, T0 + HOUR, THEN + HOUR) for row in rows[1::2]]
    later += [received(row, 0.0, THEN, THEN + HOUR) for row in rows[::4]]
    await store.load(batch((), (), later))
    assert list(await labels(store, THEN)) == [row.prediction_id for row in rows[::2]]
    assert {truth for truth, _ in (await labels(store, THEN)).values()} == {1.0}
    assert len(await labels(store, None)) == 2500


async def test_whether_a_label_is_a_reviewers_alone_is_told_as_was_known_then(store: SqlStore) -> None:
    confirmed, reviewed_later = prediction(), prediction()
    now = datetime.now(UTC)
    by_review = [
        replace(received(row, 1.0, now - HOUR, now - HOUR), source="review")
        for row in (confirmed, reviewed_later)
    ]
    by_itself = received(confirmed, 1.0, T0, now + HOUR)
    await store.load(batch([confirmed, reviewed_later], (), [*by_review, by_itself]))
    for row, at in ((confirmed, now - HOUR), (reviewed_later, now + HOUR)):
        await store.put_reviews([lease(row.prediction_id, now + HOUR, 0.25)], now - 2 * HOUR)
        assert await store.finish_review(row.prediction_id, 1.0, "anna", at)
    ids = [confirmed.prediction_id, reviewed_later.prediction_id]
    assert await store.review_propensities("credit", ids, now) == {confirmed.prediction_id: 0.25}
    assert await store.review_propensities("credit", ids) == {reviewed_later.prediction_id: 0.25}


async def test_a_reading_that_broke_off_goes_on_behind_any_row(store: SqlStore) -> None:
    """Also between rows of the same time, of two versions, and at the edge of a span."""
    rows = [
        prediction(T0 + at * HOUR, model_version=version)
        for at in (0, 0, 0, 1, 30, 30)
        for version in ("v1", "v2")
    ]
    await store.load(batch(rows, (), [received(row, 1.0, T0 + DAY, T0 + DAY) for row in rows]))

    async def read(after: tuple[datetime, str] | None) -> list[tuple[datetime, str]]:
        chunks = store.training_rows("credit", None, None, None, THEN, after)
        return [(row["timestamp"], row["prediction_id"]) async for chunk in chunks for row in chunk]

    whole = await read(None)
    assert whole == sorted(whole)
    assert len(whole) == 12
    for place, one in enumerate(whole):
        assert await read(one) == whole[place + 1 :]
