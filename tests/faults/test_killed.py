"""`kill -9` of a worker or of everything, at random times under load, 200 times over: each answered id is stored, once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from app.domain.prediction import format_id
from app.journal.reader import Journal
from app.journal.records import PredictionRecord, decode
from tests.faults.traffic import Traffic, credit
from tests.misbehaving import MisbehavingUpstream
from tests.ports import free_port
from tests.system import RunningGateway, running_gateway


def stored(gateway: RunningGateway) -> Counter[str]:
    """The prediction ids in the SQLite file, with how often each is there."""
    file = f"file:{gateway.directory}/data/gateway.db?mode=ro"
    with contextlib.closing(sqlite3.connect(file, uri=True)) as database:
        return Counter(row[0] for row in database.execute("SELECT prediction_id FROM predictions"))


def workers(gateway: RunningGateway) -> list[int]:
    """The process ids of those that run now; a successor may still be on its way."""
    found = []
    for pid in gateway.children():
        with contextlib.suppress(OSError):
            if b"app.main\0worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


@pytest.mark.faults
async def test_two_hundred_kills_at_random_times_lose_nothing_that_was_answered(
    tmp_path: Path, v1: MisbehavingUpstream, record_property: Callable[[str, object], None]
) -> None:
    chance = random.Random(16)
    rounds, everything = 200, 0
    # Several workers: a killed one starts again after a growing pause, and the others serve meanwhile.
    with running_gateway(tmp_path, credit(v1), port=free_port(), server={"workers": 3}) as gateway:
        async with Traffic(gateway.port, clients=8, pause_s=0.002) as traffic:
            for number in range(rounds):
                await traffic.more(chance.randrange(1, 150), within_s=60.0)
                await asyncio.sleep(chance.random() * 0.02)
                if chance.random() < 0.25:
                    everything += 1
                    await asyncio.to_thread(gateway.kill_everything)
                    await asyncio.to_thread(gateway.start_again, control=number % 3 == 0)
                else:
                    for pid in chance.sample(alive := workers(gateway), min(1, len(alive))):
                        os.kill(pid, signal.SIGKILL)
            await traffic.more(50)
        await asyncio.to_thread(gateway.wait_until_up)
        accounts = await asyncio.to_thread(gateway.settled, 60.0)
        found = stored(gateway)
    answered = {answer.headers["x-prediction-id"] for answer in traffic.answers if answer.status == 200}
    assert {answer.status for answer in traffic.answers} == {200}
    assert [name for name, times in found.items() if times > 1] == []
    assert answered - set(found) == set()
    assert accounts["received"] == accounts["stored"] + sum(accounts["dropped"].values())
    record_property(
        "figure",
        f"{rounds} kills ({everything} of everything), {len(answered)} answered, 0 lost, 0 doubled, "
        f"{accounts['dropped'].get('interrupted', 0)} records cut before their answer left",
    )


async def test_a_journal_damaged_while_nobody_ran_costs_what_the_damage_covers(
    tmp_path: Path, v1: MisbehavingUpstream
) -> None:
    """A disk lost blocks when the machine went down: the rest is stored after the restart, and the accounts say what is missing."""
    with running_gateway(tmp_path, credit(v1), port=free_port()) as gateway:
        async with Traffic(gateway.port) as traffic:
            await traffic.more(100)
            os.kill(gateway.child("control"), signal.SIGSTOP)  # the recorder reads nothing more
            await traffic.more(400)
        traffic.all_good()
        await asyncio.to_thread(gateway.kill_everything)

        journal = Journal(tmp_path / "data" / "journal")
        (segment,) = [one for one in journal.segments() if one.writer.startswith("w")]
        entries = journal.read(segment, 0, 1 << 30).entries
        assert len(entries) >= 400
        flipped, zeroed = entries[-200], entries[-100]
        with segment.path.open("r+b") as file:
            file.seek(flipped.next_offset - 1)
            file.write(bytes((flipped.data[-1] ^ 1,)))
            file.seek(zeroed.offset)
            file.write(bytes(4096))
        taken = {
            format_id(record.prediction_id)
            for record in map(decode, [flipped.data, *(one.data for one in entries[-100:])])
            if isinstance(record, PredictionRecord)
        }
        assert len(taken) == 101

        await asyncio.to_thread(gateway.start_again)
        async with Traffic(gateway.port) as again:
            await again.more(50)
        again.all_good()
        accounts = await asyncio.to_thread(gateway.settled, 60.0)
        found = stored(gateway)
    assert set(found) == {*traffic.ids, *again.ids} - taken
    assert max(found.values()) == 1
    assert sum(accounts["dropped"].values()) == len(taken)
    assert accounts["received"] == accounts["stored"] + len(taken) == len(traffic.ids) + len(again.ids)
