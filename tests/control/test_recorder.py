"""The recorder between a real journal and a real store: everything arrives once, whatever happens on the way."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from app.adapters.sql_store import SqlStore
from app.adapters.stores import open_store
from app.control import recorder as recorder_module
from app.control.clock import SystemClock
from app.control.ports import Batch
from app.control.recorder import Recorder
from app.domain.model import Model
from app.domain.policy import JournalPolicy
from app.domain.prediction import format_id
from app.errors import UnavailableError
from app.journal.format import ENTRY, MAGIC
from app.journal.reader import Journal
from app.journal.records import Record
from app.journal.writer import Writer
from tests.journal_records import copied, model, observed, predicted

KINDS = {"PredictionRecord": "prediction", "ShadowRecord": "shadow", "OutcomeRecord": "outcome"}


@dataclass
class Place:
    """A journal and a store of one host; recorders come and go."""

    directory: Path
    store: SqlStore
    models: tuple[Model, ...]
    recorder: Recorder = field(init=False)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """As after a kill: nothing in memory."""
        self.recorder = Recorder(
            Journal(self.directory / "journal"),
            self.store,
            lambda: {one.name: one for one in self.models},
            SystemClock(),
            "host-1",
        )

    def writer(self, slot: str = "w0", **policy: Any) -> Writer:
        return Writer(JournalPolicy(str(self.directory / "journal"), fsync="never", **policy), slot)

    async def drained(self) -> None:
        while await self.recorder.step():
            pass

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.directory / "store.db")) as database:
            return list(database.execute(query))

    def count(self, table: str) -> int:
        return int(self.rows(f"SELECT count(*) FROM {table}")[0][0])

    def segments(self) -> list[str]:
        return sorted(path.name for path in (self.directory / "journal").glob("*.seg"))


def append(writer: Writer, *records: Record) -> None:
    for record in records:
        assert writer.append(record, KINDS[type(record).__name__])


@asynccontextmanager
async def place_of(directory: Path, *models: Model) -> AsyncIterator[Place]:
    store = await open_store(f"sqlite:///{directory / 'store.db'}")
    try:
        yield Place(directory, store, models or (model(),))
    finally:
        await store.close()


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with place_of(tmp_path) as found:
        yield found


async def test_what_could_not_be_read_is_stored_with_its_reason_and_counted(place: Place) -> None:
    half, all_well = predicted({"age": 7}, response_body=b"<html>"), predicted()
    append(place.writer(), half, all_well)
    await place.drained()
    row = await place.store.prediction(format_id(half.prediction_id))
    assert row is not None
    assert (row["features"], row["prediction"], row["error"]) == ({"age": 7}, None, "invalid_json")
    assert row["facts"]["detail"].startswith("reply: ")
    counted = [one for one in place.recorder.series() if one.name == "gateway_unread_total"]
    assert [(one.labels, one.value) for one in counted] == [(("credit", "invalid_json"), 1)]


async def test_predictions_shadows_and_outcomes_arrive_once_each(place: Place) -> None:
    writer = place.writer()
    records = [predicted({"age": n}, {"prediction": n / 100, "confidence": 0.5}) for n in range(60)]
    append(writer, *records, *(copied(record, 0.1) for record in records))
    append(
        writer, *(observed(format_id(record.prediction_id), n % 2 == 0) for n, record in enumerate(records))
    )
    await place.drained()
    row = await place.store.prediction(format_id(records[7].prediction_id))
    assert row is not None
    assert (row["features"], row["prediction"], row["confidence"]) == ({"age": 7}, 0.07, 0.5)
    assert (row["latency_ms"], row["bucket"], row["routing_key"], row["reason"]) == (
        12.5,
        17,
        "user-1",
        "bucket 17 >= 5",
    )
    assert row["ground_truth"] is False
    (shadow,) = row["shadow"]
    assert shadow["difference"] == pytest.approx(0.03)
    assert shadow["agreement"] is True
    assert (place.count("predictions"), place.count("shadow_predictions"), place.count("outcomes")) == (
        60,
        60,
        60,
    )
    assert place.recorder.recorded == {"prediction": 60, "shadow": 60, "outcome": 60}
    assert await place.recorder.accounting() == {
        "received": 180, "stored": 180, "pending": 0, "dropped": {}, "quarantined": 0,
    }  # fmt: skip
    writer.close()


async def test_a_segment_is_deleted_only_when_it_is_finished_and_stored(place: Place) -> None:
    writer = place.writer(segment_bytes=2000)
    append(writer, *(predicted() for _ in range(40)))
    before = place.segments()
    assert len(before) > 4
    with pytest.MonkeyPatch.context() as patch:

        async def away(batch: Batch) -> None:
            raise UnavailableError("away")

        patch.setattr(place.store, "load", away)
        for _ in range(3):
            with pytest.raises(UnavailableError):
                await place.recorder.step()
        assert place.segments() == before
    await place.drained()
    assert place.segments() == before[-1:]  # its writer may go on
    append(writer, predicted())
    writer.close()
    await place.drained()
    assert place.segments() == []
    assert place.count("predictions") == 41


async def test_while_the_store_is_away_the_accounts_are_exact_and_later_everything_lands(
    place: Place,
) -> None:
    writer = place.writer()
    append(writer, *(predicted() for _ in range(10)))
    await place.drained()
    with pytest.MonkeyPatch.context() as patch:

        async def away(*_: Any, **__: Any) -> Any:
            raise UnavailableError("away")

        for name in ("load", "positions", "ledger", "put_writer_counts", "predictions_brief"):
            patch.setattr(place.store, name, away)
        append(writer, *(predicted() for _ in range(7)))
        for _ in range(3):
            with pytest.raises(UnavailableError):
                await place.recorder.step()
        assert await place.recorder.accounting() == {
            "received": 17, "stored": 10, "pending": 7, "dropped": {}, "quarantined": 0,
        }  # fmt: skip
        append(writer, predicted())
        assert (await place.recorder.accounting())["pending"] == 8
    await place.drained()
    assert (await place.recorder.accounting())["stored"] == 18
    assert place.count("predictions") == 18
    writer.close()


@pytest.mark.parametrize("committed", [False, True])
async def test_a_kill_around_any_commit_loses_and_doubles_nothing(
    place: Place, committed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before or after each commit, with all that is in memory gone."""
    monkeypatch.setattr(recorder_module, "SMALLEST", 16)
    writer = place.writer(segment_bytes=6000)
    records = [predicted() for _ in range(150)]
    append(writer, *records, *(copied(record) for record in records))
    append(writer, *(observed(format_id(record.prediction_id)) for record in records))
    real = place.store.load

    async def killed(batch: Batch) -> None:
        if committed:
            await real(batch)
        raise asyncio.CancelledError

    rounds = 0
    while True:
        place.restart()
        monkeypatch.setattr(place.store, "load", killed)
        with contextlib.suppress(asyncio.CancelledError):
            if not await place.recorder.step():
                break
        monkeypatch.setattr(place.store, "load", real)
        if not committed:
            place.restart()
            await place.recorder.step()
        rounds += 1
    assert rounds > 5
    writer.close()
    monkeypatch.setattr(place.store, "load", real)
    place.restart()
    await place.drained()
    assert [place.count(t) for t in ("predictions", "shadow_predictions", "outcomes")] == [150, 150, 150]
    assert place.rows("SELECT sum(stored), sum(labelled) FROM prediction_counts") == [(150, 150)]
    assert await place.recorder.accounting() == {
        "received": 450, "stored": 450, "pending": 0, "dropped": {}, "quarantined": 0,
    }  # fmt: skip
    assert place.segments() == []


async def test_a_kill_between_commit_and_delete_leaves_a_segment_that_is_only_deleted(place: Place) -> None:
    writer = place.writer()
    append(writer, *(predicted() for _ in range(5)))
    writer.close()
    with pytest.MonkeyPatch.context() as patch:

        def killed(*_: object) -> None:
            raise asyncio.CancelledError

        patch.setattr(Journal, "delete", killed)
        with pytest.raises(asyncio.CancelledError):
            await place.recorder.step()
    assert len(place.segments()) == 1
    place.restart()
    assert await place.recorder.step() == 0
    assert place.segments() == []
    assert place.count("predictions") == 5
    assert (await place.recorder.accounting())["stored"] == 5


# ---- quarantine


async def test_only_the_record_that_cannot_be_stored_goes_into_quarantine(place: Place) -> None:
    writer = place.writer()
    bad = predicted({"name": "a\0b"})
    surrogate = predicted(request_body=b'{"features": {"name": "\\ud800"}}')
    label = predicted(answer={"prediction": "\0", "confidence": 0.5})
    good = [predicted() for _ in range(20)]
    append(writer, *good[:10], bad, surrogate, *good[10:], label)
    await place.drained()
    assert place.count("predictions") == 20
    found = place.rows("SELECT kind, reason, record FROM quarantine ORDER BY byte_offset")
    assert [(kind, reason) for kind, reason, _ in found] == [
        ("prediction", "nul_character"), ("prediction", "lone_surrogate"), ("prediction", "nul_character"),
    ]  # fmt: skip
    assert b"a\\u0000b" in found[0][2]
    ids = [format_id(one.prediction_id) for one in (bad, surrogate, label)]
    assert place.rows("SELECT prediction_id FROM quarantine ORDER BY byte_offset") == [(one,) for one in ids]
    assert await place.store.quarantined(ids[1]) == "lone_surrogate"
    assert place.recorder.quarantined == {"nul_character": 2, "lone_surrogate": 1}
    assert await place.recorder.accounting() == {
        "received": 23, "stored": 23, "pending": 0, "dropped": {}, "quarantined": 3,
    }  # fmt: skip
    writer.close()


@pytest.mark.parametrize(
    "body", [b'{"features": {"x": NaN, "y": 1e999, "z": 1}}', b'{"features": {"x": Infinity, "z": 1}}']
)
async def test_numbers_that_json_does_not_know_are_nothing_and_noted(place: Place, body: bytes) -> None:
    writer = place.writer()
    record = predicted(request_body=body, response_body=b'{"prediction": NaN, "confidence": 0.5}')
    append(writer, record)
    await place.drained()
    row = await place.store.prediction(format_id(record.prediction_id))
    assert row is not None
    assert (row["features"]["x"], row["features"]["z"], row["prediction"]) == (None, 1, None)
    assert "x" in row["facts"]["nonfinite"]
    writer.close()


async def test_of_an_answer_with_many_rows_only_the_refused_row_is_missing(tmp_path: Path) -> None:
    rows = model("credit", protocol="tfserving", extract=(), task="multiclass")
    async with place_of(tmp_path, rows) as place:
        writer = place.writer()
        record = predicted(
            request_body=b'{"instances": [{"a": 1}, {"a": "\\u0000"}, {"a": 3}]}',
            response_body=b'{"predictions": [0.1, 0.2, 0.3]}',
            target="/v1/models/credit:predict",
        )
        append(writer, record, predicted(target="/v1/models/credit:predict"))
        await place.drained()
        name = format_id(record.prediction_id)
        assert place.rows(f"SELECT prediction_id FROM predictions WHERE prediction_id LIKE '{name}%' ORDER BY 1") == [
            (f"{name}:0",), (f"{name}:2",),
        ]  # fmt: skip
        assert place.rows("SELECT reason, prediction_id FROM quarantine") == [("nul_character", name)]
        assert (await place.recorder.accounting())["quarantined"] == 1
        writer.close()


async def test_what_the_database_refuses_for_reasons_of_its_own_is_found_by_halving(place: Place) -> None:
    await place.store.ping()
    with closing(sqlite3.connect(place.directory / "store.db")) as database:
        database.execute(
            "CREATE TRIGGER no_eights BEFORE INSERT ON predictions WHEN new.latency_ms = 8 "
            "BEGIN SELECT RAISE(ABORT, 'eight is refused'); END"
        )
        database.commit()
    writer = place.writer()
    records = [predicted(latency_us=8000 if n in (3, 50, 51) else 1000) for n in range(64)]
    append(writer, *records, *(observed(format_id(record.prediction_id)) for record in records))
    await place.drained()
    assert place.count("predictions") == 61
    reasons = place.rows("SELECT DISTINCT reason FROM quarantine")
    assert reasons == [("refused: eight is refused",)]
    assert place.rows("SELECT sum(stored), sum(labelled) FROM prediction_counts") == [(61, 61)]
    assert place.recorder.quarantined == {"refused": 3}
    assert (await place.recorder.accounting())["stored"] == 128
    writer.close()


async def test_an_entry_that_is_no_record_is_kept_with_its_bytes(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = place.writer()
    monkeypatch.setattr("app.journal.writer.encode", lambda record: b"\xc1 no msgpack")
    append(writer, predicted())
    monkeypatch.undo()
    append(writer, predicted())
    await place.drained()
    assert place.count("predictions") == 1
    ((kind, reason, record),) = place.rows("SELECT kind, reason, record FROM quarantine")
    assert (kind, record) == ("undecodable", b"\xc1 no msgpack")
    assert reason.startswith("undecodable: ")
    assert (await place.recorder.accounting())["quarantined"] == 1
    writer.close()


async def test_a_record_that_breaks_the_extraction_stops_no_other(place: Place) -> None:
    writer = place.writer()
    append(writer, predicted(), predicted(at_ns=2**62), predicted(at_ns=10**30 // 10**12), predicted())
    await place.drained()
    assert place.count("predictions") >= 2
    accounts = await place.recorder.accounting()
    assert (accounts["stored"], accounts["pending"]) == (4, 0)
    writer.close()


async def test_a_record_of_a_model_that_is_gone_keeps_what_needs_no_reader(place: Place) -> None:
    writer = place.writer()
    record = predicted(model="gone", version="v9")
    append(writer, record)
    await place.drained()
    row = await place.store.prediction(format_id(record.prediction_id))
    assert row is not None
    assert (row["model"], row["status"], row["features"], row["prediction"]) == ("gone", 200, None, None)
    writer.close()


# ---- shadows


async def test_a_copy_is_compared_wherever_in_the_batch_its_prediction_stands(place: Place) -> None:
    writer = place.writer()
    record = predicted()
    append(writer, copied(record, 0.9), record)
    await place.drained()
    row = await place.store.prediction(format_id(record.prediction_id))
    assert row is not None
    assert row["shadow"][0]["difference"] == pytest.approx(0.17)
    assert row["shadow"][0]["agreement"] is False
    assert place.recorder.comparisons == {("credit", "v2", "disagree"): 1}
    writer.close()


async def test_a_copy_is_compared_after_a_restart_in_between(place: Place) -> None:
    writer = place.writer()
    record = predicted()
    append(writer, record)
    await place.drained()
    place.restart()
    append(writer, copied(record, 0.73), copied(predicted(), 0.5))
    await place.drained()
    row = await place.store.prediction(format_id(record.prediction_id))
    assert row is not None
    assert (row["shadow"][0]["difference"], row["shadow"][0]["agreement"]) == (0.0, True)
    assert place.recorder.comparisons == {("credit", "v2", "agree"): 1, ("credit", "v2", "unknown"): 1}
    writer.close()


async def test_copies_of_answers_with_many_rows_are_compared_after_a_restart(tmp_path: Path) -> None:
    async with place_of(
        tmp_path, model("credit", protocol="tfserving", extract=(), task="regression")
    ) as place:
        writer = place.writer()
        count = 130
        request = b'{"instances": [%s]}' % b", ".join(b"[%d]" % n for n in range(count))
        answer = b'{"predictions": [%s]}' % b", ".join(b"%d.5" % n for n in range(count))
        record = predicted(request_body=request, response_body=answer, target="/v1/models/credit:predict")
        append(writer, record)
        await place.drained()
        place.restart()
        append(writer, copied(record, response_body=answer))
        await place.drained()
        assert place.rows("SELECT count(*), sum(agreement), max(difference) FROM shadow_predictions") == [
            (count, count, 0.0)
        ]
        writer.close()


# ---- writers and accounts


async def test_no_writer_waits_for_another_that_has_more(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "SMALLEST", 40)
    busy, calm = place.writer("w0"), place.writer("w1")
    append(busy, *(predicted() for _ in range(400)))
    append(calm, *(predicted(version="calm") for _ in range(10)))
    await place.recorder.step()
    assert place.rows("SELECT count(*) FROM predictions WHERE model_version = 'calm'") == [(10,)]
    busy.close()
    calm.close()


async def test_a_dead_writer_is_closed_and_its_accounts_stay(place: Place) -> None:
    writer = place.writer(max_bytes=2000, segment_bytes=1800)
    kept = sum(writer.append(predicted(), "prediction") for _ in range(10))
    assert 0 < kept < 10
    writer.close()
    expected = {
        "received": 10,
        "stored": kept,
        "pending": 0,
        "dropped": {"full": 10 - kept},
        "quarantined": 0,
    }
    await place.drained()
    assert await place.recorder.accounting() == expected
    await place.recorder._accounts.note()
    assert list((place.directory / "journal").iterdir()) == []
    assert await place.recorder.accounting() == expected
    place.restart()
    assert await place.recorder.accounting() == expected
    again = place.writer()
    append(again, predicted())
    await place.drained()
    assert (await place.recorder.accounting())["received"] == 11
    again.close()


async def test_what_a_killed_writer_only_began_is_interrupted(place: Place) -> None:
    writer = place.writer()
    append(writer, predicted(), predicted())
    writer.enqueue(predicted(), "prediction")  # received, and killed before it was written
    writer._counts.close()
    (segment,) = (place.directory / "journal").glob("*.seg")
    with segment.open("ab") as file:
        file.write(ENTRY.pack(5000, 0) + b"torn")
    await place.drained()
    accounts = await place.recorder.accounting()
    assert (accounts["received"], accounts["stored"], accounts["pending"]) == (3, 2, 0)
    assert accounts["dropped"] == {"torn": 1}
    writer._group.clear()


async def test_a_damaged_entry_is_dropped_alone_and_counted(place: Place) -> None:
    writer = place.writer()
    append(writer, *(predicted() for _ in range(3)))
    (segment,) = (place.directory / "journal").glob("*.seg")
    data = bytearray(segment.read_bytes())
    second = len(MAGIC) + ENTRY.size + ENTRY.unpack_from(data, len(MAGIC))[0]
    data[second + ENTRY.size + 20] ^= 0xFF
    segment.write_bytes(data)
    await place.drained()
    assert place.count("predictions") == 2
    assert await place.recorder.accounting() == {
        "received": 3, "stored": 2, "pending": 0, "dropped": {"torn": 1}, "quarantined": 0,
    }  # fmt: skip
    writer.close()


# ---- the loop


async def eventually(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


async def test_run_goes_on_when_the_store_comes_back(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "LONGEST_BACKOFF_S", 0.3)
    writer = place.writer()
    real, failures = place.store.load, 0

    async def away(batch: Batch) -> None:
        nonlocal failures
        failures += 1
        raise UnavailableError("away")

    monkeypatch.setattr(place.store, "load", away)
    running = asyncio.create_task(place.recorder.run())
    append(writer, *(predicted(request_id=f"r{n}") for n in range(5)))
    append(writer, observed("", model="credit", request_id="r3"))
    await eventually(lambda: failures >= 3)
    assert not running.done()
    monkeypatch.setattr(place.store, "load", real)
    await eventually(lambda: place.count("predictions") == 5)
    await eventually(
        lambda: place.rows("SELECT count(*) FROM predictions WHERE ground_truth = 1.0") == [(1,)]
    )
    writer.close()
    await eventually(lambda: list((place.directory / "journal").iterdir()) == [])
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    series = {(one.name, one.labels): one.value for one in place.recorder.series()}
    assert series[("gateway_recorded_total", ("prediction",))] == 5
    assert series[("gateway_journal_pending_records", ())] == 0


async def test_steps_beside_the_running_loop_double_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "SMALLEST", 20)
    writer = place.writer(segment_bytes=20_000)
    running = asyncio.create_task(place.recorder.run())
    for _ in range(10):
        append(writer, *(predicted() for _ in range(50)))
        await asyncio.gather(*(place.recorder.step() for _ in range(5)))
    writer.close()
    await eventually(lambda: place.count("predictions") == 500)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    assert await place.recorder.accounting() == {
        "received": 500, "stored": 500, "pending": 0, "dropped": {}, "quarantined": 0,
    }  # fmt: skip


async def test_a_batch_is_read_while_the_one_before_is_stored_and_they_land_in_order(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "SMALLEST", 50)
    writer = place.writer()
    append(writer, *(predicted() for _ in range(400)))
    real, offsets = place.store.load, list[int]()

    async def slow(batch: Batch) -> None:
        if not offsets:
            await eventually(lambda: len(place.recorder._taken) == 2)
        await real(batch)
        offsets.extend(position.offset for position in batch.positions)

    monkeypatch.setattr(place.store, "load", slow)
    await place.recorder.step()
    await place.recorder.step()
    assert offsets
    monkeypatch.setattr(place.store, "load", real)
    await place.drained()
    assert offsets == sorted(offsets)
    assert place.count("predictions") == 400
    writer.close()
