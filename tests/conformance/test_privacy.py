"""Erasure and retention leave nothing behind, in SQLite and PostgreSQL: what is looked for afterwards is looked for in every table."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from app.adapters.schema import metadata
from app.adapters.sql_store import SqlStore
from app.adapters.stores import open_store
from app.control.ports import QuarantineRow
from app.domain.prediction import format_id, parse_id
from app.errors import RefusedRowError
from app.journal.records import Record, encode
from tests.journal_records import copied, observed, predicted
from tests.store_rows import T0, audit, batch, outcome_of, prediction, shadow_of

DAY = timedelta(days=1)
HERS, HIS = "erika-secret", "other-user"


async def everything(store: SqlStore) -> str:
    """The text of all rows of all tables."""
    texts = []
    async with store.read() as connection:
        for table in metadata.sorted_tables:
            rows = (await connection.execute(sa.select(table))).all()
            texts += [f"{table.name}: {row!r}" for row in rows]
    return "\n".join(texts)


async def count(store: SqlStore, table: str) -> int:
    async with store.read() as connection:
        query = sa.select(sa.func.count()).select_from(metadata.tables[table])
        return int((await connection.execute(query)).scalar_one())


def quarantined(records: Sequence[Record | bytes], at: datetime = T0, first: int = 8) -> list[QuarantineRow]:
    return [
        QuarantineRow(
            "w0-1-1",
            0,
            offset,
            "prediction",
            "nul_character",
            record if isinstance(record, bytes) else encode(record),
            at,
        )
        for offset, record in enumerate(records, first)
    ]


async def review(
    store: SqlStore, prediction_id: str, label: str, at: datetime = T0, model: str = "credit"
) -> None:
    lease = {"prediction_id": prediction_id, "model": model, "strategy": "random", "leased_by": "eva"}
    await store.put_reviews([lease], at)
    await store.finish_review(prediction_id, label, "eva", at)


async def test_erasure_leaves_nothing_of_what_was_known_of_a_key(store: SqlStore) -> None:
    hers = prediction(
        routing_key=HERS,
        request_id="secret-request",
        prediction="secret-answer",
        features={"name": "secret-feature"},
        facts={"detail": "secret-fact"},
        bucket=4711,
        reason="bucket 4711 < 5000",
        confidence=0.123456,
    )
    base = prediction(routing_key=HERS).prediction_id
    rows = [
        prediction(
            prediction_id=f"{base}:{n}", routing_key=HERS, features={"name": "secret"}, prediction="secret"
        )
        for n in range(3)
    ]
    his = prediction(routing_key=HIS, request_id="his-request")
    shadows = [
        shadow_of(hers, prediction="secret-shadow", confidence=0.987654, difference=0.246, agreement=True),
        shadow_of(
            hers, prediction_id=f"{hers.prediction_id}:1", prediction="secret-shadow"
        ),  # answered two rows
        shadow_of(rows[0], prediction_id=base, prediction="secret-shadow", role="control"),
        shadow_of(his),
    ]
    outcomes = [
        outcome_of(hers, "secret-truth"),
        outcome_of(None, "secret-truth", model="credit", request_id="secret-request"),
        outcome_of(f"{hers.prediction_id}:0", "secret-truth"),
        outcome_of(f"{base}:1", "secret-truth"),
        outcome_of(base, "secret-truth"),
        outcome_of(f"{base}:7", "secret-truth"),  # of a row that there never was
        outcome_of(his, "his-truth"),
    ]
    await store.load(batch([hers, *rows, his], shadows, outcomes))
    await store.join_waiting_outcomes(100)
    await review(store, hers.prediction_id, "secret-label")
    await review(store, f"{base}:2", "secret-label")
    await review(store, his.prediction_id, "his-label")
    before = await everything(store)
    for known in (
        HERS,
        "secret-truth",
        "secret-label",
        "secret-request",
        "4711",
        "0.123456",
        "0.987654",
        "0.246",
    ):
        assert known in before

    assert await store.erase("credit", [HERS], audit("privacy.erase")) == 4
    left = await everything(store)
    for gone in ("secret", "4711", "0.123456", "0.987654", "0.246"):
        assert gone not in left, left
    for kept in (HIS, "his-request", "his-truth", "his-label"):
        assert kept in left
    for identifier in (hers.prediction_id, *(row.prediction_id for row in rows)):
        found = await store.prediction(identifier)
        assert found is not None
        named = ("features", "prediction", "confidence", "ground_truth", "ground_truth_timestamp", "request_id",
                 "routing_key", "bucket", "facts")  # fmt: skip
        assert [found[name] for name in named] == [None] * len(named)
        assert (found["status"], found["reason"], found["outcomes"]) == (200, "erased", [])
    # The requests still count, their labels do not: by the quarter of an hour and row by row.
    expected = [{"model_version": "v1", "predictions": 5, "labelled": 1}]
    assert await store.coverage("credit", None, None) == expected
    assert await store.coverage("credit", T0 - timedelta(minutes=1), T0 + timedelta(minutes=1)) == expected


async def test_what_is_erased_is_in_no_file_of_an_embedded_store(tmp_path: Path) -> None:
    """After what docs/security.md tells to do: until then rests of rows stay in pages and in the write-ahead log, as in every database."""
    store = await open_store(f"sqlite:///{tmp_path}/store.db")

    def files() -> bytes:
        return b"".join(path.read_bytes() for path in tmp_path.iterdir())

    hers = [prediction(routing_key=HERS, features={"name": f"secret-{n}" * 50}) for n in range(200)]
    await store.load(
        batch(hers, outcomes=[outcome_of(row, f"secret-truth-{n}") for n, row in enumerate(hers)])
    )
    assert b"secret" in files()
    assert await store.erase("credit", [HERS], audit()) == 200
    with contextlib.closing(sqlite3.connect(tmp_path / "store.db")) as shell:
        shell.executescript("VACUUM; PRAGMA wal_checkpoint(TRUNCATE)")
    assert b"secret" not in files()
    await store.close()


async def test_what_a_database_says_of_a_row_repeats_none_of_it(store: SqlStore) -> None:
    """Such a text goes into logs and answers."""
    audit_log = metadata.tables["audit_log"]
    values = {"at": T0, "actor": "ops", "origin": "", "action": None, "reason": "secret-value"}
    with pytest.raises(RefusedRowError) as raised:
        async with store.write() as connection:
            await connection.execute(sa.insert(audit_log), values)
    assert "secret" not in str(raised.value)


async def test_what_arrives_after_an_erasure_goes_with_the_next_one(store: SqlStore) -> None:
    """It was still in a journal then: that is what `pending` in the answer tells, and why the call is to be repeated."""
    hers = prediction(routing_key=HERS)
    await store.load(batch([hers]))
    assert await store.erase("credit", [HERS], audit()) == 1
    shadow = shadow_of(hers, prediction="secret-shadow")
    await store.load(
        batch([], [shadow], [outcome_of(hers, "secret-truth")], quarantined([b"\xff" + HERS.encode()]))
    )
    assert "secret" in await everything(store)
    assert await store.erase("credit", [HERS], audit()) == 0
    assert "secret" not in await everything(store)
    assert await store.coverage("credit", None, None) == [
        {"model_version": "v1", "predictions": 1, "labelled": 0}
    ]


async def test_erasure_finds_in_quarantine_what_belongs_to_the_keys_predictions(store: SqlStore) -> None:
    stored = prediction(routing_key=HERS, request_id="her-request")
    stored_record = predicted(prediction_id=parse_id(stored.prediction_id), routing_key=HIS)
    lost = predicted(routing_key=HERS, request_id="her-lost-request")  # is in quarantine itself
    his = predicted(routing_key=HIS, request_id="his-request")
    foreign = predicted(routing_key=HERS, model="other")
    gone: list[Record | bytes] = [
        lost,
        copied(lost),
        copied(stored_record),
        observed(stored.prediction_id),
        observed(f"{stored.prediction_id}:3"),
        observed("", model="credit", request_id="her-request"),
        observed("", model="credit", request_id="her-lost-request"),
        b"damaged \xc4\x10" + lost.prediction_id,
        b"damaged " + stored.prediction_id.encode(),
        b"damaged " + HERS.encode(),
    ]
    kept: list[Record | bytes] = [
        his,
        copied(his),
        observed("", model="credit", request_id="his-request"),
        observed("", model="other", request_id="her-request"),
        foreign,
        b"damaged \xc4\x10" + his.prediction_id,
    ]
    await store.load(batch([stored], quarantine=quarantined([*kept, *gone])))
    # What a shadow answered to a prediction that is in quarantine itself, and what was said of it.
    lost_row = prediction(prediction_id=format_id(lost.prediction_id))
    await store.load(
        batch([], [shadow_of(lost_row, prediction="secret-shadow")], [outcome_of(lost_row, "secret-truth")])
    )
    assert await store.erase("credit", [HERS], audit()) == 1
    async with store.read() as connection:
        table = metadata.tables["quarantine"]
        left = (
            (await connection.execute(sa.select(table.c.record).order_by(table.c.byte_offset)))
            .scalars()
            .all()
        )
    assert left == [record if isinstance(record, bytes) else encode(record) for record in kept]
    assert "secret-" not in await everything(store)


async def test_an_outcome_of_another_keys_prediction_stays_when_a_client_used_a_request_id_twice(
    store: SqlStore,
) -> None:
    his, hers = (prediction(routing_key=key, request_id="42") for key in (HIS, HERS))
    await store.load(batch([his, hers]))
    await store.load(batch(outcomes=[outcome_of(None, "his-truth", model="credit", request_id="42")]))
    await store.join_waiting_outcomes(10)
    assert await store.erase("credit", [HERS], audit()) == 1
    found = await store.prediction(his.prediction_id)
    assert found is not None
    assert found["ground_truth"] == "his-truth"
    assert len(found["outcomes"]) == 1


async def test_a_quarantined_record_goes_when_its_own_models_retention_is_over(store: SqlStore) -> None:
    now = T0 + timedelta(days=40)
    ages = (0.5, 3.0, 20.0, 45.0)
    records: list[QuarantineRow] = []
    for age in ages:
        brief, lasting, gone = (predicted(model=name) for name in ("brief", "lasting", "gone"))
        one: list[Record | bytes] = [
            brief, copied(brief), lasting, copied(lasting), gone, observed("", model="brief", request_id="r"),
            observed("01900000-0000-7000-8000-000000000000"), b"damaged",
        ]  # fmt: skip
        records += quarantined(one, now - age * DAY, len(records))
    await store.load(batch(quarantine=records))
    await store.maintain(now, {"brief": 1, "lasting": 30})
    # Of the last day all; what `lasting` keeps, and no longer; what is no model's any more as long as the longest.
    assert await count(store, "quarantine") == 8 + 3 + 3
    await store.load(batch(quarantine=quarantined([predicted(model="brief")], now - 0.6 * DAY, len(records))))
    await store.maintain(now, {"brief": 1, "lasting": 30})
    assert await count(store, "quarantine") == 15
    await store.maintain(now + 2 * DAY, {"brief": 1, "lasting": 30})
    assert await count(store, "quarantine") == 3 + 3 + 3
    await store.maintain(now + 3 * DAY, {"brief": 1, "lasting": 2})  # shortened
    assert await count(store, "quarantine") == 0


async def test_outcomes_and_reviews_go_with_their_own_models_predictions(store: SqlStore) -> None:
    now = T0 + timedelta(days=40)
    old = [prediction(now - 3 * DAY, model=name, request_id=f"{name}-1") for name in ("brief", "lasting")]
    new = [prediction(now - 0.4 * DAY, model=name, request_id=f"{name}-2") for name in ("brief", "lasting")]
    rows = [*old, *new]
    outcomes = []
    for row in rows:
        outcomes += [
            outcome_of(row, f"unnamed {row.request_id}", row.timestamp, received=now),
            outcome_of(row, f"named {row.request_id}", row.timestamp, model=row.model, received=now),
            outcome_of(None, f"request {row.request_id}", row.timestamp, model=row.model, request_id=row.request_id,
                       received=now),
        ]  # fmt: skip
    late = prediction(now - 5 * DAY, model="brief")  # its prediction is gone already
    waiting = [
        outcome_of(late, "late brief", now, model="brief", received=now),
        outcome_of(late, "late lasting", now, model="lasting", received=now),
        outcome_of(
            None, "unknown brief", now - 3 * DAY, model="brief", request_id="x", received=now - 3 * DAY
        ),
        outcome_of(
            None, "unknown lasting", now - 3 * DAY, model="lasting", request_id="x", received=now - 3 * DAY
        ),
    ]
    await store.load(batch(rows, [], [*outcomes, *waiting]))
    await store.join_waiting_outcomes(100)
    for row in rows:
        await review(store, row.prediction_id, f"review {row.request_id}", row.timestamp, row.model)
    await store.maintain(now, {"brief": 1, "lasting": 30})
    left = await everything(store)
    for gone in ("unnamed", "named", "request", "review"):
        assert f"'{gone} brief-1'" not in left
        for kept in ("brief-2", "lasting-1", "lasting-2"):
            assert f"'{gone} {kept}'" in left
    assert ("late brief" in left, "late lasting" in left) == (False, True)
    assert ("unknown brief" in left, "unknown lasting" in left) == (False, True)
    assert await store.prediction(rows[0].prediction_id) is None
    await store.maintain(now + 40 * DAY, {"brief": 1, "lasting": 30})
    for table in (
        "predictions",
        "shadow_predictions",
        "outcomes",
        "reviews",
        "quarantine",
        "prediction_counts",
    ):
        assert await count(store, table) == 0
