"""Predictions, shadows and outcomes behave alike in SQLite and PostgreSQL."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec import structs

from app.adapters.sql_store import SqlStore
from app.adapters.stores import open_store
from app.control.ports import Position, QuarantineRow
from app.errors import RefusedRowError
from tests.store_rows import T0, batch, outcome_of, prediction, shadow_of

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


async def row_of(store: SqlStore, name: str) -> dict[str, Any]:
    row = await store.prediction(name)
    assert row is not None, name
    return row


async def test_a_prediction_comes_back_as_it_was_stored(store: SqlStore) -> None:
    row = prediction(request_id="r-1", rollout_id="rollout-1")
    await store.load(batch([row], [shadow_of(row)]))
    found = await row_of(store, row.prediction_id)
    for name in row.__slots__:
        value = getattr(row, name)
        assert found[name] == (json.loads(value) if name == "features" else value), name
    assert found["timestamp"].tzinfo is not None
    assert found["ground_truth"] is None
    assert found["outcomes"] == []
    (shadow,) = found["shadow"]
    assert (shadow["model_version"], shadow["prediction"], shadow["difference"], shadow["agreement"]) == (
        "v2", 0.75, 0.02, True,
    )  # fmt: skip


@pytest.mark.parametrize("value", [0.0, -1.5, 3.0, 1e300, True, False, "spam", "1", "", "ünï", None])
async def test_numbers_labels_and_truth_values_stay_apart(store: SqlStore, value: Any) -> None:
    row = prediction(prediction=value)
    await store.load(batch([row]))
    found = (await row_of(store, row.prediction_id))["prediction"]
    assert (type(found), found) == (type(value), value)


async def test_an_integer_is_a_number(store: SqlStore) -> None:
    row = prediction(prediction=3)
    await store.load(batch([row], (), [outcome_of(row, 7)]))
    found = await row_of(store, row.prediction_id)
    assert (found["prediction"], type(found["prediction"])) == (3.0, float)
    assert (found["ground_truth"], type(found["ground_truth"])) == (7.0, float)


async def test_what_many_rows_of_a_batch_have_alike_stays_each_rows_own(store: SqlStore) -> None:
    """Of each field: the same in all rows, in all but one, in all of some hundreds, or of every kind in turn."""
    chance = random.Random(5)
    choices: dict[str, list[Any]] = {
        "model_version": ["v1", "v2"], "role": ["production", "canary"], "status": [200, 500], "request_id": [None, "r"],
        "canary_percent": [5.0, 0.0], "flags_revision": [3, 4], "rollout_id": [None, "rollout-1"], "forced": [False, True],
        "reason": ["default", "forced"], "ended": ["complete", "aborted"], "error": [None, "timeout"],
        "facts": [{"tokens": 7}, {"tokens": 8}], "prediction": [1.0, True, "1", 0.0, False, None], "confidence": [0.5, None],
        "bucket": [17, None], "routing_key": [None, "u"],
    }  # fmt: skip
    at = {
        "all": lambda number, some: some[0],
        "one": lambda number, some: some[number == 431],
        "some": lambda number, some: some[300 <= number < 600],
        "each": lambda number, some: some[number % len(some)],
    }
    ways = {name: at[chance.choice(sorted(at))] for name in choices}
    rows = [
        prediction(
            T0 + number * timedelta(seconds=1),
            **{name: ways[name](number, some) for name, some in choices.items()},
        )
        for number in range(1000)
    ]
    shadows = [
        shadow_of(
            row,
            agreement=[True, False, None][number % 3] if number < 300 else True,
            error="timeout" if number == 777 else None,
        )
        for number, row in enumerate(rows)
    ]
    await store.load(batch(rows, shadows))
    for number in [0, 299, 300, 431, 599, 600, 777, 999, *chance.sample(range(1000), 40)]:
        row, found = rows[number], await row_of(store, rows[number].prediction_id)
        for name in (*choices, "model", "timestamp", "latency_ms"):
            wanted = getattr(row, name)
            assert (type(found[name]), found[name]) == (type(wanted), wanted), (number, name)
        (shadow,) = found["shadow"]
        assert (shadow["agreement"], shadow["error"]) == (shadows[number].agreement, shadows[number].error)


async def test_nothing_extracted_is_stored_all_the_same(store: SqlStore) -> None:
    row = prediction(features=None, prediction=None, confidence=None, status=502, ended="error",
                     error="upstream_unreachable", facts={}, routing_key=None, bucket=None)  # fmt: skip
    await store.load(batch([row]))
    found = await row_of(store, row.prediction_id)
    assert (found["features"], found["prediction"], found["error"]) == (None, None, "upstream_unreachable")


async def test_rows_already_there_are_left_as_they_are(store: SqlStore) -> None:
    one, two = prediction(), prediction()
    await store.load(batch([one], [shadow_of(one)]))
    again = structs.replace(one, prediction=0.1)
    await store.load(
        batch([again, two, two], [shadow_of(one, prediction=0.2), shadow_of(two), shadow_of(two)])
    )
    assert (await row_of(store, one.prediction_id))["prediction"] == 0.73
    assert (await row_of(store, one.prediction_id))["shadow"][0]["prediction"] == 0.75
    assert len((await row_of(store, two.prediction_id))["shadow"]) == 1
    assert await store.coverage("credit", None, None) == [
        {"model_version": "v1", "predictions": 2, "labelled": 0}
    ]


async def test_an_unknown_prediction_is_none(store: SqlStore) -> None:
    assert await store.prediction(prediction().prediction_id) is None


async def test_a_bare_id_finds_row_0_and_row_0_a_single_row(store: SqlStore) -> None:
    name = prediction().prediction_id
    several = [prediction(prediction_id=f"{name}:{number}") for number in range(3)]
    single = prediction()
    await store.load(batch([*several, single]))
    assert (await row_of(store, name))["prediction_id"] == f"{name}:0"
    assert (await row_of(store, f"{name}:2"))["prediction_id"] == f"{name}:2"
    assert (await row_of(store, f"{single.prediction_id}:0"))["prediction_id"] == single.prediction_id
    assert await store.prediction(f"{single.prediction_id}:1") is None


async def test_many_predictions_are_found_in_brief(store: SqlStore) -> None:
    rows = [
        prediction(T0 + number * timedelta(seconds=1), prediction=float(number)) for number in range(1203)
    ]
    await store.load(batch(rows))
    assert await store.prediction_models([row.prediction_id for row in rows] + ["unknown"]) == {
        row.prediction_id: row.model for row in rows
    }
    assert await store.prediction_models([]) == {}
    found = await store.predictions_brief([row.prediction_id for row in rows] + ["unknown"])
    assert {name: row["prediction"] for name, row in found.items()} == {
        r.prediction_id: r.prediction for r in rows
    }
    assert found[rows[0].prediction_id] == {
        "model": "credit", "model_version": "v1", "prediction": 0.0, "confidence": 0.9, "features": json.loads(rows[0].features or ""),
    }  # fmt: skip


# ---- refusals


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"features": {"a": "x\0y"}}, "nul_character"),
        ({"features": {"a\0": 1}}, "nul_character"),
        ({"features": {"a": ["\ud800"]}}, "lone_surrogate"),
        ({"prediction": float("nan")}, "not_finite"),
        ({"prediction": float("inf")}, "not_finite"),
        ({"prediction": "a\0"}, "nul_character"),
        ({"confidence": float("nan")}, "not_finite"),
        ({"routing_key": "\0"}, "nul_character"),
        ({"routing_key": "\udc80"}, "lone_surrogate"),
        ({"request_id": "r\0"}, "nul_character"),
    ],
)
async def test_a_row_that_no_store_can_hold_is_named_and_nothing_is_stored(
    store: SqlStore, fields: dict[str, Any], reason: str
) -> None:
    good, bad = prediction(), prediction(**fields)
    with pytest.raises(RefusedRowError) as refused:
        await store.load(batch([good, bad], [shadow_of(good)]))
    assert [(r.kind, r.index, r.reason) for r in refused.value.refusals] == [("prediction", 1, reason)]
    assert await store.prediction(good.prediction_id) is None


async def test_a_backslash_before_u0000_is_ordinary_text(store: SqlStore) -> None:
    row = prediction(features={"path": "C:\\u0000"})
    await store.load(batch([row]))
    assert (await row_of(store, row.prediction_id))["features"] == {"path": "C:\\u0000"}


async def test_refusals_of_every_kind_are_named_at_once(store: SqlStore) -> None:
    row = prediction()
    with pytest.raises(RefusedRowError) as refused:
        await store.load(
            batch(
                [row, prediction(prediction="\0")], [shadow_of(row, error="\0")], [outcome_of(row, "\ud800")]
            )
        )
    assert [(r.kind, r.index) for r in refused.value.refusals] == [
        ("prediction", 1),
        ("shadow", 0),
        ("outcome", 0),
    ]


# ---- coverage and lists


async def test_coverage_counts_exactly_between_any_two_times(store: SqlStore) -> None:
    at = T0 + timedelta(minutes=3)
    rows = [
        prediction(at + number * timedelta(minutes=7), model_version="v1" if number % 3 else "v2", status=200 if number % 5 else 500)
        for number in range(40)
    ]  # fmt: skip
    await store.load(batch(rows, (), [outcome_of(row, 1.0) for row in rows[::2]]))
    await store.load(batch([prediction(model="other")]))

    def expected(since: datetime | None, until: datetime | None) -> list[dict[str, Any]]:
        inside = [
            (number, row)
            for number, row in enumerate(rows)
            if row.status == 200
            and (since is None or row.timestamp >= since)
            and (until is None or row.timestamp < until)
        ]
        versions = sorted({row.model_version for _, row in inside})
        return [
            {
                "model_version": version,
                "predictions": sum(row.model_version == version for _, row in inside),
                "labelled": sum(row.model_version == version and number % 2 == 0 for number, row in inside),
            }
            for version in versions
        ]

    for since, upto in [
        (None, None),
        (at + 20 * timedelta(minutes=1), None),
        (None, at + 100 * timedelta(minutes=1)),
        (at + timedelta(minutes=21), at + timedelta(minutes=200)),
        (at + timedelta(minutes=20, seconds=1), at + timedelta(minutes=25)),
        (at + timedelta(days=9), None),
        (T0 + timedelta(minutes=15), T0 + timedelta(minutes=45)),
    ]:
        assert await store.coverage("credit", since, upto) == expected(since, upto), (since, upto)


async def test_labelled_rows_come_newest_first_over_months_and_versions(store: SqlStore) -> None:
    now = datetime.now(UTC)
    ages = [timedelta(days=days) for days in (0, 0.5, 1, 3, 7.9, 8.1, 40, 64, 64.5, 200)]
    rows = [prediction(now - age, model_version=f"v{number % 2 + 1}") for number, age in enumerate(ages)]
    await store.load(batch([*rows, prediction(now)], (), [outcome_of(row, 1.0, now) for row in rows]))
    by_age = [row.prediction_id for row in rows]

    async def ids(*asked: Any) -> list[str]:
        return [row["prediction_id"] for row in await store.labelled("credit", *asked)]

    assert await ids(None, None, None, 100) == by_age
    assert await ids(None, None, None, 6) == by_age[:6]
    assert await ids("v1", None, None, 3) == by_age[::2][:3]
    assert await ids(None, now - timedelta(days=10), now - timedelta(days=2), 100) == by_age[3:6]
    assert await ids(None, None, now - timedelta(days=9), 3) == by_age[6:9]
    assert await ids("v3", None, None, 3) == []
    assert set((await store.labelled("credit", None, None, None, 1))[0]) == {
        "prediction_id", "model_version", "timestamp", "prediction", "confidence", "ground_truth",
        "ground_truth_timestamp", "propensity", "latency_ms", "features",
    }  # fmt: skip


async def test_recent_rows_come_newest_first_with_and_without_label(store: SqlStore) -> None:
    now = datetime.now(UTC)
    rows = [prediction(now - number * HOUR) for number in range(30)]
    await store.load(batch(rows, (), [outcome_of(rows[3], 1.0, now)]))
    found = await store.recent("credit", None, now - 10 * HOUR - timedelta(minutes=1), 5)
    assert [row["prediction_id"] for row in found] == [row.prediction_id for row in rows[:5]]
    assert len(await store.recent("credit", "v1", now - 10 * HOUR - timedelta(minutes=1), 500)) == 11
    assert await store.recent("other", None, None, 5) == []


async def test_shadow_pairs_hold_both_sides(store: SqlStore) -> None:
    now = datetime.now(UTC)
    rows = [prediction(now - number * HOUR) for number in range(3)]
    shadows = [shadow_of(row) for row in rows]
    failed = shadow_of(rows[0], role="failed", status=0)
    await store.load(batch(rows, [*shadows, failed], [outcome_of(rows[0], 1.0, now)]))
    await store.load(batch((), [shadow_of(prediction(now))]))  # its prediction is not stored
    pairs = await store.shadow_pairs("credit", "v2", None, 10)
    assert [pair["prediction_id"] for pair in pairs] == [row.prediction_id for row in rows]
    pair = pairs[0]
    assert (pair["prediction"], pair["shadow_prediction"], pair["agreement"]) == (0.73, 0.75, True)
    assert (pair["latency_ms"], pair["shadow_latency_ms"], pair["ground_truth"]) == (12.5, 20.0, 1.0)
    assert len(await store.shadow_pairs("credit", "v2", now - HOUR - timedelta(minutes=1), 10)) == 2


async def test_a_training_set_streams_every_labelled_row_once_oldest_first(store: SqlStore) -> None:
    rows = [
        prediction(T0 + (number // 3) * timedelta(seconds=70), model_version=f"v{number % 2}")
        for number in range(2600)
    ]
    for start in range(0, len(rows), 1300):
        some = rows[start : start + 1300]
        await store.load(
            batch(some, (), [outcome_of(row, 1.0) for row in some if row.model_version == "v0" or row.bucket])
        )

    async def ids(*asked: Any) -> list[str]:
        found: list[str] = []
        async for chunk in store.training_rows("credit", *asked):
            assert 0 < len(chunk) <= 1000
            found += [row["prediction_id"] for row in chunk]
        return found

    assert await ids(None, None, None) == [row.prediction_id for row in rows]
    since, until_at = T0 + timedelta(hours=1), T0 + timedelta(hours=3)
    assert await ids(since, until_at, "v1") == [
        row.prediction_id for row in rows if since <= row.timestamp < until_at and row.model_version == "v1"
    ]
    assert await ids(T0 + 9 * DAY, None, None) == []


# ---- the recorder's book-keeping


async def test_positions_and_rows_are_stored_together_or_not_at_all(store: SqlStore) -> None:
    position = Position("w0-1-2", 0, 100, 3, 3, 0, 0)
    with pytest.raises(RefusedRowError):
        await store.load(batch([prediction(), prediction(prediction=float("nan"))], positions=[position]))
    assert await store.positions(["w0-1-2"]) == []
    bad = QuarantineRow("w0-1-2", 0, 8, "prediction", "nul\0character", b"\x00\xff", T0)
    await store.load(batch([prediction()], quarantine=[bad, bad], positions=[position]))
    await store.load(batch(quarantine=[bad]))
    assert await store.positions(["w0-1-2", "other"]) == [position]


async def test_a_record_in_quarantine_is_found_by_its_prediction(store: SqlStore) -> None:
    about, other = prediction().prediction_id, prediction().prediction_id
    rows = [
        QuarantineRow("w0-1-2", 0, 8, "prediction", "nul_character", b"x", T0, about),
        QuarantineRow("w0-1-2", 0, 9, "outcome", "refused: it", b"x", T0, other),
        QuarantineRow("w0-1-2", 0, 10, "undecodable", "undecodable: it", b"x", T0),
    ]
    await store.load(batch(quarantine=rows))
    assert await store.quarantined(about) == "nul_character"
    assert await store.quarantined(other) is None  # only something about it, it may yet come


async def test_a_position_never_goes_back(store: SqlStore) -> None:
    ahead = Position("w0-1-2", 4, 200, 6, 5, 1, 1, complete=True)
    await store.load(batch(positions=[ahead]))
    await store.load(batch(positions=[replace(ahead, offset=100, records=3, complete=False)]))
    assert await store.positions(["w0-1-2"]) == [ahead]


async def test_a_store_opened_again_holds_what_was_stored(store: SqlStore, store_url: str) -> None:
    row = prediction()
    await store.load(batch([row]))
    await store.close()
    again = await open_store(store_url)
    try:
        assert await again.prediction(row.prediction_id) is not None
    finally:
        await again.close()
