"""A disk is full, or fails: under the journal the declared policy, counted, and back to normal with the first free block; under PostgreSQL
nothing that a client could notice, and every record lands once there is room.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from app.domain.model import Match, Model, Version
from app.domain.policy import JournalPolicy
from app.journal.reader import Journal
from tests.client import Answer, load, post
from tests.faults.small_disk import cramped_postgres, skip_unless_mountable
from tests.faults.traffic import Database, Traffic, accounted, credit, predict
from tests.misbehaving import MisbehavingUpstream
from tests.ports import free_port
from tests.system import RunningGateway, running_gateway
from tests.worker import RunningWorker, eventually, running_worker

BODY = b'{"x": "' + b"y" * 4000 + b'"}'


def on_small_disk(directory: Path) -> tuple[str, ...]:
    """A command in front of the worker's: its journal lies on a tmpfs of 1 MiB in a mount namespace of its own."""
    (directory / "journal").mkdir()
    mount = f'mount -t tmpfs -o size=1m tmpfs {directory}/journal && exec "$@"'
    return ("unshare", "-m", "sh", "-c", mount, "sh")


@pytest.fixture
def _can_mount() -> None:
    skip_unless_mountable()


def in_namespace(worker: RunningWorker) -> Journal:
    """The journal as the worker sees it."""
    worker.journal_directory = Path(f"/proc/{worker.process.pid}/root{worker.journal_directory}")
    return Journal(worker.journal_directory)


def model(upstream: MisbehavingUpstream) -> Model:
    return Model("m", "v1", (Version("v1", (upstream.url,)),), match=Match("/m", strip=True))


def ids(answers: list[Answer]) -> set[str]:
    return {a.headers["x-prediction-id"] for a in answers if a.status == 200}


def recorded(worker: RunningWorker) -> set[str]:
    return {
        "-".join((h[:8], h[8:12], h[12:16], h[16:20], h[20:]))
        for h in (r.prediction_id.hex() for r in worker.predictions("m"))
    }


def make_room(journal: Journal) -> None:
    """As the recorder does once a segment is stored."""
    for segment in journal.segments():
        if segment.closed:
            journal.delete(segment)


def dropped(journal: Journal) -> dict[str, int]:
    totals: dict[str, int] = {}
    for writer in journal.counts():
        for reason, count in writer.dropped.items():
            totals[reason] = totals.get(reason, 0) + count
    return totals


@pytest.mark.usefixtures("_can_mount")
async def test_with_policy_serve_every_request_is_answered_and_each_lost_record_counted(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    policy = JournalPolicy("", on_full="serve", segment_bytes=200_000)
    with (
        MisbehavingUpstream() as upstream,
        running_worker(
            [model(upstream)], journal=policy, directory=tmp_path, before=on_small_disk(tmp_path)
        ) as worker,
    ):
        journal = in_namespace(worker)
        answers = await load(worker.port, [post("/m/ok", BODY)] * 600, connections=4)
        assert {a.status for a in answers} == {200}
        kept = recorded(worker)
        assert kept < ids(answers)
        lost = dropped(journal)
        assert len(kept) + sum(lost.values()) == 600
        assert {reason for reason, count in lost.items() if count} <= {"full", "io_error"}
        make_room(journal)
        await asyncio.to_thread(eventually, lambda: _kept_again(worker), 10.0, "records on a disk with room")
        assert worker.process.poll() is None
        record_property(
            "figure",
            f"serve: 600 of 600 answered, {len(kept)} kept, {sum(lost.values())} dropped and counted",
        )


def _kept_again(worker: RunningWorker) -> bool:
    before = len(worker.predictions("m"))
    (answer,) = asyncio.run(load(worker.port, [post("/m/ok")]))
    return answer.status == 200 and len(worker.predictions("m")) == before + 1


@pytest.mark.usefixtures("_can_mount")
async def test_with_policy_refuse_a_full_journal_is_503_and_what_is_answered_is_kept(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    policy = JournalPolicy("", on_full="refuse", segment_bytes=200_000)
    with (
        MisbehavingUpstream() as upstream,
        running_worker(
            [model(upstream)], journal=policy, directory=tmp_path, before=on_small_disk(tmp_path)
        ) as worker,
    ):
        journal = in_namespace(worker)
        answers = await load(worker.port, [post("/m/ok", BODY)] * 600, connections=4)
        refused = [a for a in answers if a.status == 503]
        assert {a.status for a in answers} == {200, 503}
        assert {(a.headers["x-gateway-error"], a.headers["retry-after"]) for a in refused} == {
            ("overloaded", "1")
        }
        # What was under way as the disk filled, and with each look at the disk, was made and is refused as well: its record is counted as
        # dropped, and no client has an answer without one.
        assert ids(answers) <= recorded(worker)
        dropped_records = sum(dropped(journal).values())
        assert dropped_records <= 4 * 10
        assert upstream.count() == 600 - len(refused) + dropped_records
        make_room(journal)
        await asyncio.to_thread(eventually, lambda: _kept_again(worker), 10.0, "service on a disk with room")
        record_property(
            "figure",
            f"refuse: {len(refused)} of 600 refused with 503, {dropped_records} of them with a record that was counted as dropped",
        )


# ---- fsync fails


def metric(gateway: RunningGateway, name: str) -> float:
    """The sum of all its series."""
    lines = gateway.admin("GET", "/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if re.split("[{ ]", line)[0] == name)


def of_outcome(gateway: RunningGateway, prediction_id: str) -> int:
    return gateway.admin("POST", "/feedback", {"prediction_id": prediction_id, "ground_truth": 1}).status_code


@pytest.mark.parametrize("on_full", ["serve", "refuse"])
async def test_a_disk_that_fails_to_sync_is_told_by_policy_and_works_again_when_it_does(
    tmp_path: Path, v1: MisbehavingUpstream, on_full: str, record_property: Callable[[str, object], None]
) -> None:
    failing = tmp_path / "failing"
    environment = {
        "PYTHONPATH": str(Path(__file__).parent / "failing_fsync"),
        "FAILING_FSYNC": str(failing),
    }
    journal = {"fsync": "always", "on_full": on_full}
    with running_gateway(
        tmp_path, credit(v1), port=free_port(), environment=environment, journal=journal
    ) as gateway:
        children = set(gateway.children())
        before = await load(gateway.port, [predict("u")] * 20, connections=4)
        assert {a.status for a in before} == {200}
        known = before[0].headers["x-prediction-id"]
        assert await asyncio.to_thread(of_outcome, gateway, known) == 202

        failing.touch()
        meanwhile = await load(gateway.port, [predict("u")] * 200, connections=4)
        seen = await asyncio.to_thread(metric, gateway, "gateway_journal_fsync_errors_total")
        told = [
            await asyncio.to_thread(of_outcome, gateway, a.headers["x-prediction-id"]) for a in before[1:6]
        ]
        refused = [a for a in meanwhile if a.status == 503]
        answered = [a for a in meanwhile if a.status == 200]
        # An outcome is acknowledged once it is safe, by either policy.
        assert set(told) == {503}
        if on_full == "serve":
            assert len(answered) == 200
        else:  # not one answer without a safe record
            assert len(refused) == 200
            assert {a.headers["x-gateway-error"] for a in refused} == {"overloaded"}
        errors = await asyncio.to_thread(metric, gateway, "gateway_journal_fsync_errors_total")
        assert seen > 0
        assert errors > seen  # outcomes are in a journal of the control process's own

        failing.unlink()
        await asyncio.to_thread(eventually, lambda: _served_again(gateway), 10.0, "service on a sound disk")
        after = await load(gateway.port, [predict("u")] * 20, connections=4)
        assert {a.status for a in after} == {200}
        assert await asyncio.to_thread(of_outcome, gateway, known) == 202
        accounts = await asyncio.to_thread(gateway.settled)
        assert accounts["received"] == accounts["stored"] + sum(accounts["dropped"].values())
        assert set(gateway.children()) == children  # nobody fell and was started again
        record_property(
            "figure",
            f"fsync fails, {on_full}: of 200 requests {len(answered)} answered, {len(refused)} refused with 503; feedback 503; "
            f"{errors:.0f} errors counted",
        )


def _served_again(gateway: RunningGateway) -> bool:
    (answer,) = asyncio.run(load(gateway.port, [predict("u")]))
    return answer.status == 200


# ---- PostgreSQL's disk is full


@pytest.mark.parametrize("log_too", [False, True], ids=["tables", "tables and log"])
async def test_a_full_disk_under_postgres_delays_only_the_records(
    tmp_path: Path, v1: MisbehavingUpstream, log_too: bool, record_property: Callable[[str, object], None]
) -> None:
    skip_unless_mountable()
    with cramped_postgres(160, log_too=log_too) as server:
        database = await Database.made(server)
        with running_gateway(tmp_path, credit(v1), port=free_port(), store={"url": database.url}) as gateway:
            children = set(gateway.children())
            async with Traffic(gateway.port) as traffic:
                await traffic.more(100)
                began = len(traffic.answers)
                async with asyncio.timeout(60):
                    # What the server still frees is filled as well, until it takes nothing any more.
                    while (accounts := await asyncio.to_thread(gateway.accounting))["pending"] < 300:
                        await asyncio.to_thread(server.disk.fill)
                        await asyncio.sleep(0.1)
                assert server.disk.free == 0
                outcome = {"prediction_id": traffic.ids[0], "ground_truth": 1}
                receipt = await asyncio.to_thread(gateway.admin, "POST", "/feedback", outcome)
                assert (receipt.status_code, receipt.json()["accepted"]) == (202, 1)
                await traffic.more(200)
                full = len(traffic.answers) - began
                begun = time.monotonic()
                server.disk.make_room()
                if server.process is not None and server.process.poll() is not None:
                    await asyncio.to_thread(server.start)  # it may have given up
                await traffic.more(100)
            traffic.all_good()
            assert accounts["dropped"] == {}
            accounts = await accounted(gateway, database, traffic.ids)
            took = time.monotonic() - begun
            assert accounts["received"] == accounts["stored"] == len(traffic.ids) + 1
            assert (accounts["dropped"], accounts["quarantined"]) == ({}, 0)
            assert len(await database.stored()) == len(traffic.ids)
            assert set(gateway.children()) == children
            record_property(
                "figure",
                f"PostgreSQL's disk full ({'tables and log' if log_too else 'tables'}): {full} answers meanwhile, the slowest in "
                f"{traffic.slowest_ms():.0f} ms, none failed; all stored {took:.1f} s after there was room",
            )
