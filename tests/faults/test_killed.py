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
