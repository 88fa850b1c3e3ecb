"""What the control plane and the monitor keep behaves alike in SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.adapters.sql_store import SqlStore
from app.control.ports import Ledger, Position, QuarantineRow, WriterCounts
from app.domain.flags import Flags
from app.domain.model import Version
from app.errors import ConflictError, StaleRevisionError
from app.journal.records import PredictionRecord, encode
from tests.store_rows import T0, audit, batch, outcome_of, prediction, shadow_of

HOUR = timedelta(hours=1)
FLAGS = Flags("credit", 1, "v1", "v2", 5.0, True, True, ("v3",), ("v0",), "salt", "rollout-1")


# ---- flags, versions, audit


async def test_flags_come_back_as_they_were_put(store: SqlStore) -> None:
    assert await store.flags() == []
    assert await store.put_flags(FLAGS, 0, audit("flags.set", before=None, after={"revision": 1})) == FLAGS
    changed = replace(FLAGS, revision=2, candidate=None, shadow_versions=())
    await store.put_flags(changed, 1, audit("flags.set"))
    assert await store.flags() == [changed]
    newest, first = await store.audit("credit", 10)
    assert (newest["action"], first["after"], first["at"], first["actor"]) == (
        "flags.set",
        {"revision": 1},
        T0,
        "ops",
    )


async def test_a_stale_change_of_flags_changes_nothing_and_names_the_current_revision(
    store: SqlStore,
) -> None:
    await store.put_flags(FLAGS, 0, audit())
    for expected in (0, 2):
        with pytest.raises(StaleRevisionError) as stale:
            await store.put_flags(
                replace(FLAGS, revision=expected + 1, canary_percent=50.0), expected, audit()
            )
        assert stale.value.current == 1
    assert await store.flags() == [FLAGS]
    assert len(await store.audit(None, 10)) == 1


async def test_of_many_changes_at_once_exactly_one_wins(store: SqlStore) -> None:
    await store.put_flags(FLAGS, 0, audit())
    changes = (
        store.put_flags(replace(FLAGS, revision=2, canary_percent=float(n)), 1, audit(reason=str(n)))
        for n in range(8)
    )
    results = await asyncio.gather(*changes, return_exceptions=True)
    winners = [result for result in results if isinstance(result, Flags)]
    assert len(winners) == 1
    assert all(isinstance(result, StaleRevisionError) for result in results if result not in winners)
    assert await store.flags() == winners
    assert len(await store.audit("credit", 100)) == 2


async def test_versions_are_registered_replaced_and_retired(store: SqlStore) -> None:
    version = Version("v2", ("http://a:1", "http://b:2"), 2.0, 0.25, (("commit", "abc"),))
    await store.put_version("credit", version, audit("version.register"))
    await store.put_version("credit", replace(version, urls=("http://c:3",)), audit("version.register"))
    assert await store.versions() == [("credit", replace(version, urls=("http://c:3",)))]
    await store.delete_version("credit", "v2", audit("version.retire"))
    assert await store.versions() == []
    assert [entry["action"] for entry in await store.audit("credit", 2)] == [
        "version.retire",
        "version.register",
    ]


async def test_the_audit_is_newest_first_and_of_one_model_when_asked(store: SqlStore) -> None:
    for number in range(4):
        await store.append_audit(audit(f"a{number}", "credit" if number % 2 else None))
    assert [entry["action"] for entry in await store.audit(None, 3)] == ["a3", "a2", "a1"]
    assert [entry["action"] for entry in await store.audit("credit", 10)] == ["a3", "a1"]


# ---- rollouts


def rollout(name: str = "r1", **fields: Any) -> dict[str, Any]:
    started = T0.timestamp()
    values = {"id": name, "model": "credit", "candidate": "v2", "state": "canary", "started_at": started, "ended_at": None,
              "stages": [5.0, 25.0], "evidence": {"log_e": 1.25}}  # fmt: skip
    return {**values, **fields}


async def test_a_rollout_comes_back_with_its_events_in_order(store: SqlStore) -> None:
    at = T0.timestamp() + 0.25
    await store.save_rollout(rollout(), [{"at": at, "kind": "started", "reason": "go", "figures": {"n": 1}}])
    later = {"at": at + 1, "kind": "advanced", "reason": "enough", "figures": {}}
    await store.save_rollout(rollout(state="watch"), [later, {**later, "kind": "done"}])
    found = await store.rollout("r1")
    assert found is not None
    assert [event["kind"] for event in found["events"]] == ["started", "advanced", "done"]
    assert found["events"][0] == {"at": at, "kind": "started", "reason": "go", "figures": {"n": 1}}
    del found["events"]
    assert found == rollout(state="watch")
    assert await store.open_rollouts() == [rollout(state="watch")]
    assert await store.rollout("unknown") is None


async def test_a_model_has_one_open_rollout(store: SqlStore) -> None:
    await store.save_rollout(rollout("r1"), [])
    with pytest.raises(ConflictError):
        await store.save_rollout(rollout("r2"), [])
    await store.save_rollout(rollout("other", model="other"), [])
    await store.save_rollout(rollout("r1", ended_at=T0.timestamp() + 9), [])
    await store.save_rollout(rollout("r2", started_at=T0.timestamp() + 10), [])
    assert [found["id"] for found in await store.rollouts("credit", 10)] == ["r2", "r1"]
    assert [found["id"] for found in await store.rollouts("credit", 1)] == ["r2"]


async def test_a_versions_times_are_those_of_its_standing_promotion_registration_and_first_answer(
    store: SqlStore,
) -> None:
    assert await store.version_times("credit", "v2") == {
        "promoted": None,
        "registered": None,
        "first_seen": None,
    }
    version = Version("v2", ("http://a:1",))
    await store.put_version("credit", version, audit("version.register", at=T0))
    answered = [prediction(T0 + timedelta(minutes=n), model_version="v2") for n in (50, 20)]
    await store.load(batch([*answered, prediction(T0, model_version="v1"), prediction(T0, model="other")]))

    async def promoted(name: str, hours: int, **fields: Any) -> None:
        at = T0.timestamp() + 3600 * hours
        event = {"at": at, "kind": "promote", "reason": "good", "figures": {}}
        closed = {**event, "kind": "close", "at": at + 60}
        done = rollout(name, ended_at=at + 90, **{"state": "promoted", "candidate": "v2", **fields})
        await store.save_rollout(done, [event, closed])

    await promoted("a", 2)
    await promoted("b", 1)
    await promoted("c", 5, state="rolled_back")
    await promoted("d", 6, candidate="v3")
    await promoted("e", 7, model="other")
    assert await store.version_times("credit", "v2") == {
        "promoted": T0 + timedelta(hours=2),
        "registered": T0,
        "first_seen": T0 + timedelta(minutes=15),
    }


# ---- learning


async def test_a_review_is_leased_finished_once_and_never_leased_again(store: SqlStore) -> None:
    name = prediction().prediction_id
    now = datetime.now(UTC)
    lease = {"prediction_id": name, "model": "credit", "strategy": "margin", "score": 0.1, "propensity": 0.5,
             "leased_until": now, "leased_by": "anna"}  # fmt: skip
    assert await store.put_reviews([], now) == set()
    assert await store.put_reviews([lease], now) == {name}
    assert await store.put_reviews([{**lease, "leased_by": "ben", "leased_until": now + HOUR}], now) == {name}
    assert await store.put_reviews([lease], now) == set(), "ben holds it"
    assert await store.reviews_taken("credit", now - HOUR, now) == 1
    assert await store.reviews_taken("credit", now - HOUR, now + HOUR) == 0, "his lease has run out"
    assert await store.finish_review(name, True, "ben", now)
    assert await store.reviews_taken("credit", now - HOUR, now) == 1
    assert await store.reviews_taken("credit", now, now) == 0, "given before"
    assert await store.reviews_taken("other", now - HOUR, now) == 0
    assert not await store.finish_review(name, False, "anna", now)
    assert await store.put_reviews([lease], now + 2 * HOUR) == set(), "it has its label"
    assert not await store.finish_review(name, False, "anna", now)
    assert not await store.finish_review("unknown", 1.0, "anna", now)


async def test_the_newest_baseline_counts(store: SqlStore) -> None:
    assert await store.baseline("credit") is None
    await store.put_baseline("credit", {"metric": 0.9, "features": {"age": [1, 2, None]}})
    await store.put_baseline("credit", {"metric": 0.91})
    await store.put_baseline("other", {"metric": 0.1})
    assert await store.baseline("credit") == {"metric": 0.91}


async def test_a_baselines_sample_is_read_by_itself(store: SqlStore) -> None:
    await store.put_baseline("credit", {"metric": 0.9}, {"rows": [{"age": 1.5, "name": None}]})
    first = await store.newest_baseline("credit")
    assert first is not None
    assert await store.baseline("credit") == {"metric": 0.9}
    assert await store.baseline_sample(first) == {"rows": [{"age": 1.5, "name": None}]}
    await store.put_baseline("credit", {"metric": 0.91})
    second = await store.newest_baseline("credit")
    assert second is not None
    assert await store.baseline_sample(second) is None
    assert await store.baseline_sample(second + 1) is None


async def test_a_newer_baseline_has_another_number(store: SqlStore) -> None:
    assert await store.newest_baseline("credit") is None
    await store.put_baseline("credit", {"metric": 0.9})
    first = await store.newest_baseline("credit")
    await store.put_baseline("other", {"metric": 0.1})
    assert await store.newest_baseline("credit") == first
    await store.put_baseline("credit", {"metric": 0.9})
    assert await store.newest_baseline("credit") not in (first, None)


async def test_retraining_decisions_come_newest_first(store: SqlStore) -> None:
    decision = {
        "model": "credit",
        "should_retrain": True,
        "reason": "drift",
        "urgency": "elevated",
        "inputs": {"psi": 0.3},
    }
    await store.add_retraining_decision({**decision, "at": T0})
    await store.add_retraining_decision({**decision, "should_retrain": False})
    newest, first = await store.retraining_decisions("credit", 10)
    assert (newest["should_retrain"], first["should_retrain"], first["inputs"]) == (False, True, {"psi": 0.3})
    assert first["at"] == T0
    assert len(await store.retraining_decisions("credit", 1)) == 1


async def test_the_last_call_to_retrain_that_was_told_is_found_among_the_others(store: SqlStore) -> None:
    assert await store.told_to_retrain("credit") is None
    call = {"model": "credit", "should_retrain": True, "reason": "a drop", "urgency": "elevated"}
    before = [
        {**call, "urgency": "routine"},  # as stored before it said whether it was told
        {**call, "told": True, "at": T0.timestamp() + 60},
        {**call, "told": False},
        {**call, "should_retrain": False, "told": False},
        {**call, "model": "other", "told": True},
    ]
    await store.add_retraining_decision(before[0])
    first = await store.told_to_retrain("credit")
    assert first is not None
    assert first["urgency"] == "routine"
    for decision in before[1:]:
        await store.add_retraining_decision(decision)
    told = await store.told_to_retrain("credit")
    assert told is not None
    assert (told["urgency"], told["at"]) == ("elevated", T0 + timedelta(seconds=60))


# ---- ledger


async def test_the_ledger_sums_one_hosts_writers(store: SqlStore) -> None:
    positions = [Position("w0-1-1", 0, 9, 10, 10, 1, 1, complete=True), Position("w0-1-1", 1, 9, 5, 5, 0, 0),
                 Position("w1-2-2", 0, 9, 7, 7, 2, 0), Position("x", 0, 9, 100, 100, 0, 0)]  # fmt: skip
    await store.load(batch(positions=positions))
    await store.put_writer_counts([WriterCounts("h", "w0-1-1", 1, {}, False)])
    await store.put_writer_counts(
        [
            WriterCounts("h", "w0-1-1", 20, {"full": 2, "torn": 1}, False),
            WriterCounts("h", "w1-2-2", 8, {"full": 1}, True),
            WriterCounts("other", "x", 100, {}, False),
        ]
    )
    assert await store.ledger("h") == Ledger(28, {"full": 3, "torn": 1}, 22, 3, 1)
    assert await store.ledger("h", without=["w0-1-1"]) == Ledger(8, {"full": 1}, 7, 2, 0)
    assert await store.ledger("nobody") == Ledger(0, {}, 0, 0, 0)


# ---- upkeep


async def test_rows_go_with_their_day_when_their_models_retention_is_over(store: SqlStore) -> None:
    now = T0 + timedelta(days=40)

    def aged(days: float, model: str = "credit") -> Any:
        return prediction(now - timedelta(days=days), model=model)

    kept = [aged(1), aged(9.4), aged(20, "long"), aged(20, "gone")]
    gone = [aged(11.6), aged(15), aged(31, "long"), aged(31.5, "gone"), aged(200)]
    rows = [*kept, *gone]
    await store.load(
        batch(rows, [shadow_of(row) for row in rows], [outcome_of(row, 1.0, now) for row in rows])
    )
    await store.maintain(now, {"credit": 10, "long": 30})
    for row in kept:
        found = await store.prediction(row.prediction_id)
        assert found is not None
        assert len(found["shadow"]) == 1
    for row in gone:
        assert await store.prediction(row.prediction_id) is None
    assert await store.coverage("credit", None, None) == [
        {"model_version": "v1", "predictions": 2, "labelled": 2}
    ]
    assert await store.coverage("gone", None, None) == [
        {"model_version": "v1", "predictions": 1, "labelled": 1}
    ]
    await store.maintain(now, {"credit": 10, "long": 30})
    late = aged(100)
    await store.load(batch([late]))
    assert await store.prediction(late.prediction_id) is not None


async def test_erasure_removes_what_belongs_to_a_key_and_keeps_the_rest(store: SqlStore) -> None:
    mine = [prediction(T0 + n * timedelta(days=1), routing_key="user-7") for n in range(3)]
    other = prediction(routing_key="user-8")
    foreign = prediction(routing_key="user-7", model="other")

    def quarantined(record: bytes, offset: int) -> QuarantineRow:
        return QuarantineRow("w0-1-1", 0, offset, "prediction", "nul_character", record, T0)

    def record_of(key: str, model: str = "credit") -> bytes:
        return encode(
            PredictionRecord(
                bytes(16),
                1,
                model,
                "v1",
                "production",
                200,
                1,
                "",
                1,
                0.0,
                1,
                "",
                False,
                key,
                None,
                "POST",
                "/",
                "",
                "",
                1,
                b"secret",
                "",
                "",
                1,
                b"x",
                "complete",
            )
        )

    bad = [
        quarantined(record_of("user-7"), 8),
        quarantined(record_of("user-8"), 9),
        quarantined(record_of("user-7", "other"), 10),
    ]
    await store.load(batch([*mine, other, foreign], [shadow_of(mine[0])], (), bad))
    assert await store.erase("credit", ("user-7", "its-hash"), audit("erase")) == 3
    for row in mine:
        found = await store.prediction(row.prediction_id)
        assert found is not None
        assert [found[name] for name in ("features", "prediction", "routing_key", "facts")] == [None] * 4
        assert found["status"] == 200
        assert all(shadow["prediction"] is None for shadow in found["shadow"])
    for row in (other, foreign):
        found = await store.prediction(row.prediction_id)
        assert found is not None
        assert found["prediction"] == 0.73
    assert await store.erase("credit", ("user-7", "its-hash"), audit("erase")) == 0
    assert [entry["action"] for entry in await store.audit("credit", 5)] == ["erase", "erase"]


async def test_a_ping_answers(store: SqlStore) -> None:
    await store.ping()
