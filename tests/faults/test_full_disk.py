"""The disk under the journal is full while a worker serves: the declared policy, counted, and back to normal with the first free block."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from app.domain.model import Match, Model, Version
from app.domain.policy import JournalPolicy
from app.journal.reader import Journal
from tests.client import Answer, load, post
from tests.misbehaving import MisbehavingUpstream
from tests.worker import RunningWorker, eventually, running_worker

BODY = b'{"x": "' + b"y" * 4000 + b'"}'


def on_small_disk(directory: Path) -> tuple[str, ...]:
    """A command in front of the worker's: its journal lies on a tmpfs of 1 MiB in a mount namespace of its own."""
    (directory / "journal").mkdir()
    mount = f'mount -t tmpfs -o size=1m tmpfs {directory}/journal && exec "$@"'
    return ("unshare", "-m", "sh", "-c", mount, "sh")


@pytest.fixture(autouse=True)
def _can_mount(tmp_path: Path) -> None:
    probe = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False)
    if probe.returncode and os.geteuid() != 0:
        pytest.skip("only root can mount a file system of a limited size")


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
        # What was under way as the disk filled was already accepted, and again with each look at the disk: counted.
        lost = ids(answers) - recorded(worker)
        assert len(lost) == sum(dropped(journal).values())
        assert len(lost) <= 4 * 10
        assert upstream.count() == 600 - len(refused)
        make_room(journal)
        await asyncio.to_thread(eventually, lambda: _kept_again(worker), 10.0, "service on a disk with room")
        record_property(
            "figure",
            f"refuse: {len(refused)} of 600 refused with 503, {len(lost)} answered without a record (under way as it filled), counted",
        )
