"""The wall clock jumps under a whole gateway: ids stay unique and increasing, deadlines do not notice, every record lands."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from app.domain.prediction import parse_id, unix_ms_of
from tests.client import load, post
from tests.faults.traffic import Traffic, credit
from tests.misbehaving import MisbehavingUpstream
from tests.ports import free_port
from tests.system import running_gateway
from tests.worker import eventually

HOUR, DAY = 3600, 86_400
DEADLINE_S = 2.0


def turned(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """The file that holds by how many seconds the clock is off, and the environment of a gateway that believes it."""
    offset = tmp_path / "offset"
    offset.write_text("0")
    return offset, {
        "PYTHONPATH": str(Path(__file__).parent / "turned_clock"),
        "TURNED_CLOCK": str(offset),
    }


async def test_jumps_of_the_wall_clock_disturb_neither_ids_nor_deadlines(
    tmp_path: Path, v1: MisbehavingUpstream, record_property: Callable[[str, object], None]
) -> None:
    offset, environment = turned(tmp_path)
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


@pytest.mark.parametrize(
    "later_s", [pytest.param(3.0, id="shortly"), pytest.param(0.2, id="long", marks=pytest.mark.faults)]
)
async def test_a_deadline_that_runs_while_the_clock_jumps_ends_when_it_would_have(
    tmp_path: Path, v1: MisbehavingUpstream, later_s: float, record_property: Callable[[str, object], None]
) -> None:
    offset, environment = turned(tmp_path)
    models = credit(v1)
    models["credit"]["versions"]["v1"]["timeout_s"] = DEADLINE_S
    took = []
    with running_gateway(tmp_path, models, port=free_port(), environment=environment) as gateway:
        for number, seconds in enumerate((HOUR, -HOUR, DAY, -DAY, 0), 1):
            begun = time.monotonic()
            waiting = asyncio.create_task(load(gateway.port, [post("/models/credit/hang")]))
            await asyncio.to_thread(v1.wait_until, lambda server, wanted=number: server.count() == wanted)
            offset.write_text(str(seconds))
            (answer,) = await waiting
            took.append(time.monotonic() - begun)
            assert answer.status == 504
    assert min(took) > DEADLINE_S - 0.02
    assert max(took) < DEADLINE_S + later_s
    record_property(
        "figure", f"a deadline of {DEADLINE_S:g} s amid each: {min(took):.2f} to {max(took):.2f} s"
    )


@pytest.mark.parametrize("jump", [DAY, -DAY], ids=["forward", "backward"])
async def test_a_canary_that_turns_bad_after_a_jump_is_out_as_fast_as_ever(
    tmp_path: Path, v1: MisbehavingUpstream, v2: MisbehavingUpstream, jump: int
) -> None:
    """The windows of guard and evidence do not go by the wall clock; nor does the dwell time of a stage."""
    offset, environment = turned(tmp_path)
    # Without the control mirror: a comparison of latencies on a busy machine is not what this is about.
    canary = {"stages": [50, 100], "dwell_s": 600, "min_requests": 20, "control": {"sample": 0.0}}
    models = credit(v1, v2, canary=canary)
    with running_gateway(tmp_path, models, port=free_port(), environment=environment) as gateway:
        reply = await asyncio.to_thread(
            gateway.admin, "POST", "/admin/models/credit/rollouts", {"candidate": "v2", "reason": "test"}
        )
        assert reply.status_code == 201, reply.text
        rollout = f"/admin/models/credit/rollouts/{reply.json()['id']}"
        async with Traffic(gateway.port) as traffic:
            await asyncio.to_thread(v2.wait_until, lambda server: server.count() > 100, 30.0)
            offset.write_text(str(jump))
            await traffic.more(300)
            await asyncio.sleep(2.5)  # a few beats of the controller
            running = await asyncio.to_thread(gateway.get, rollout)
            assert (running["state"], running["stage_index"]) == ("canary", 0), running
            v2.default = "error_500"
            bad = v2.count()
            await asyncio.to_thread(
                eventually, lambda: gateway.get(rollout)["state"] == "rolled_back", 30.0, "the rollback"
            )
            assert v2.count() - bad < 100
        traffic.all_good()
        accounts = await asyncio.to_thread(gateway.settled)
        assert (accounts["dropped"], accounts["quarantined"]) == ({}, 0)
