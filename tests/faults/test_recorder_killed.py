"""The recorder is killed between reading, committing and deleting a segment, again and again: each record is stored once."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from app.adapters.stores import open_store
from app.domain.policy import JournalPolicy
from app.domain.prediction import format_id, uuid7
from app.journal.format import entry
from app.journal.reader import Journal
from app.journal.records import PredictionRecord, decode, encode
from app.journal.writer import Writer
from tests.faults.dying_recorder import POINTS

RECORDS = 3000


def record(number: int) -> PredictionRecord:
    now = time.time_ns()
    return PredictionRecord(
        prediction_id=uuid7(now // 10**6, (number << 8).to_bytes(10, "big")).bytes,
        at_ns=now,
        model="credit",
        version="v1",
        role="production",
        status=200,
        latency_us=1000,
        reason="no candidate",
        bucket=-1,
        canary_percent=0.0,
        flags_revision=0,
        rollout_id="",
        forced=False,
        routing_key=None,
        request_id=None,
        method="POST",
        target="/predict",
        request_type="application/json",
        request_encoding="",
        request_size=30,
        request_body=b'{"features": {"income": 41.5}}',
        response_type="application/json",
        response_encoding="",
        response_size=37,
        response_body=b'{"prediction": 1, "confidence": 0.75}',
        ended="complete",
    )


def written(directory: Path) -> list[str]:
    """A dead writer's journal of several segments; the last record is torn off in its middle."""
    writer = Writer(JournalPolicy(str(directory), segment_bytes=50_000, fsync="never"), "w0")
    records = [record(number) for number in range(RECORDS)]
    for one in records:
        assert writer.append(one, "prediction")
    writer.close()
    last = Journal(directory).segments()[-1]
    torn = entry(encode(record(RECORDS)))
    with last.path.open("ab") as file:
        file.write(torn[: len(torn) // 2])
    assert last.segment > 3
    return [format_id(one.prediction_id) for one in records]


def spoilt(directory: Path) -> set[str]:
    """Damages four segments in their middle, as a failing disk or a lost block does; the records that this takes."""
    segments = Journal(directory).segments()[1:5]
    taken: set[str] = set()
    for kind, segment in zip(("a bit", "zeros", "noise", "an end"), segments, strict=True):
        found = Journal(directory).read(segment, 0, 1 << 30).entries
        place = len(found) // 3
        here = found[place]
        with segment.path.open("r+b") as file:
            match kind:
                case "a bit":  # of a payload: its entry alone
                    file.seek(here.next_offset - 1)
                    file.write(bytes((here.data[-1] ^ 1,)))
                case "zeros":
                    file.seek(here.offset)
                    file.write(bytes(1024))
                case "noise":  # where a length should be
                    file.seek(here.offset)
                    file.write(b"\xff" * 512)
                case _:
                    file.truncate(here.offset + 3)
        gone = found[place : place + 1] if kind == "a bit" else found[place:]
        for one in gone:
            record = decode(one.data)
            assert isinstance(record, PredictionRecord)
            taken.add(format_id(record.prediction_id))
    return taken


class Recorders:
    """One after the other, on the same journal; for as long as the block lasts."""

    def __init__(self, url: str, directory: Path) -> None:
        command = [sys.executable, "-m", "tests.faults.dying_recorder", url, str(directory)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Recorders:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=120)

    def run(self, point: str, number: int = 0) -> int:
        """How it ended: the exit status, negative for a signal."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{number} {point}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@pytest.fixture(params=["sqlite", "postgres"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.mark.parametrize(
    "rounds", [pytest.param(1, id="shortly"), pytest.param(15, id="long", marks=pytest.mark.faults)]
)
async def test_a_recorder_killed_at_every_point_stores_each_record_once(
    tmp_path: Path, store_url: str, rounds: int
) -> None:
    chance = random.Random(7)
    directory = tmp_path / "journal"
    expected = written(directory)
    deaths = 0
    with Recorders(store_url, directory) as recorders:
        for _ in range(rounds):
            for point in POINTS:
                status = await asyncio.to_thread(recorders.run, point, chance.randint(1, 3))
                deaths += status == -signal.SIGKILL
            expected += written(directory)
        assert await asyncio.to_thread(recorders.run, "never") == 0
    assert deaths >= 4 * rounds
    store = await open_store(store_url)
    try:
        found = [row["prediction_id"] for row in await store.recent("credit", "v1", None, 10**6)]
        coverage = await store.coverage("credit", None, None)
        ledger = await store.ledger("test-host")
    finally:
        await store.close()
    assert sorted(found) == sorted(expected)
    assert coverage == [{"model_version": "v1", "predictions": len(expected), "labelled": 0}]
    assert ledger.stored == len(expected)
    assert ledger.received == ledger.stored + sum(ledger.dropped.values())
    assert sum(ledger.dropped.values()) == rounds + 1, (
        ledger
    )  # the torn ones, of which no client saw an answer
    assert not any(name.endswith(".seg") for name in os.listdir(directory))
    print(f"{deaths} deaths, {len(expected)} records")


async def test_damage_in_the_middle_costs_what_it_covers_and_the_accounts_add_up(
    tmp_path: Path, store_url: str, record_property: Callable[[str, object], None]
) -> None:
    directory = tmp_path / "journal"
    written_ids = written(directory)
    taken = spoilt(directory)
    assert 4 < len(taken) < RECORDS // 4
    with Recorders(store_url, directory) as recorders:
        for point in POINTS:
            await asyncio.to_thread(recorders.run, point, 2)
        assert await asyncio.to_thread(recorders.run, "never") == 0
    store = await open_store(store_url)
    try:
        found = [row["prediction_id"] for row in await store.recent("credit", "v1", None, 10**6)]
        ledger = await store.ledger("test-host")
    finally:
        await store.close()
    # Whatever can be read is stored, in damaged segments up to the damage and in all others; and once.
    assert sorted(found) == sorted(set(written_ids) - taken)
    assert ledger.stored == len(found)
    # Five places where reading went wrong, of which one, the torn tail, was never counted as received; the rest was and never came.
    assert ledger.dropped == {"torn": 5, "interrupted": len(taken) - 5}
    assert ledger.received == ledger.stored + sum(ledger.dropped.values()) == RECORDS
    assert not any(name.endswith(".seg") for name in os.listdir(directory))
    record_property(
        "figure",
        f"4 segments damaged in the middle: {len(found)} of {RECORDS} stored, {len(taken)} told as lost",
    )
