"""The wall clock jumps under a whole gateway: ids stay unique and increasing, deadlines do not notice, every record lands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from app.domain.prediction import parse_id, unix_ms_of
from tests.client import load, post
from tests.faults.traffic import credit
from tests.misbehaving import MisbehavingUpstream
from tests.ports import free_port
from tests.system import running_gateway

HOUR, DAY = 3600, 86_400


async def test_jumps_of_the_wall_clock_disturb_neither_ids_nor_deadlines(
    tmp_path: Path, v1: MisbehavingUpstream, record_property: Callable[[str, object], None]
) -> None:
    offset = tmp_path / "offset"
    offset.write_text("0")
    environment = {
        "PYTHONPATH": str(Path(__file__).parent / "turned_clock"),
        "TURNED_CLOCK": str(offset),
    }
    ids: list[bytes] = []
    with running_gateway(tmp_path, credit(v1), port=free_port(), environment=environment) as gateway:
        for seconds in (0, HOUR, -HOUR, DAY, -DAY, 0):
            # Under way while the clock jumps: longer than a moment, shorter than its deadline of 5 s.
            long = asyncio.create_task(load(gateway.port, [post("/models/credit/slow?delay=0.3")] * 4))
            wanted = len(ids) + 4
            await asyncio.to_thread(v1.wait_until, lambda server, wanted=wanted: server.count() >= wanted)
            offset.write_text(str(seconds))
            ids += [parse_id(a.headers["x-prediction-id"]) for a in await long if a.status == 200]
            answers = await load(gateway.port, [post("/models/credit/ok")] * 50, connections=1)
            assert {a.status for a in answers} == {200}
            ids += [parse_id(a.headers["x-prediction-id"]) for a in answers]
        assert len(ids) == len(set(ids)) == 6 * 54
        ordered = [name for start in range(0, len(ids), 54) for name in ids[start + 4 : start + 54]]
        assert all(earlier < later for earlier, later in pairwise(ordered))
        # The clock was really turned: the ids reach a day ahead of where they began.
        reach_s = (unix_ms_of(max(ids)) - unix_ms_of(min(ids))) / 1000
        assert reach_s > DAY - 60
        accounts = await asyncio.to_thread(gateway.settled)
        assert accounts["stored"] == len(ids)
        assert accounts["quarantined"] == 0
        record_property(
            "figure", f"jumps of ±1 h and ±1 day: {len(ids)} ids unique and increasing, all stored"
        )
