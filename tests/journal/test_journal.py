"""The journal on real files: what is appended is read, what is damaged is skipped and counted, what does not fit is dropped and counted."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from app.domain.policy import JournalPolicy
from app.errors import JournalFullError
from app.journal.format import ENTRY, MAGIC, entry
from app.journal.reader import Entry, Journal, SegmentInfo
from app.journal.records import OutcomeRecord, decode
from app.journal.writer import Writer


def outcome(number: int, size: int = 10) -> OutcomeRecord:
    return OutcomeRecord(number, f"{number}", "m", "", "x" * size, number, "test", "ops")


def entries(journal: Journal) -> tuple[list[Entry], int]:
    """All whole entries, and how many were torn."""
    found: list[Entry] = []
    torn = 0
    for segment in journal.segments():
        offset, at_end = 0, False
        while not at_end:
            result = journal.read(segment, offset, 4096)
            found += result.entries
            torn += result.torn
            offset, at_end = result.next_offset, result.at_end
    return found, torn


def numbers(journal: Journal) -> list[int]:
    records = [decode(entry.data) for entry in entries(journal)[0]]
    return [record.received_ns for record in records if isinstance(record, OutcomeRecord)]


def only_segment(journal: Journal) -> SegmentInfo:
    (segment,) = journal.segments()
    return segment


def test_what_is_appended_is_read_in_order_over_many_segments(tmp_path: Path) -> None:
    writer = Writer(JournalPolicy(str(tmp_path), segment_bytes=2000), "w0")
    for number in range(200):
        assert writer.append(outcome(number), "outcome")
    journal = Journal(tmp_path)
    assert numbers(journal) == list(range(200))
    segments = journal.segments()
    assert len(segments) > 3
    assert [s.closed for s in segments] == [True] * (len(segments) - 1) + [False]
    (counts,) = journal.counts()
    assert (counts.received, counts.appended, counts.closed) == (200, 200, False)
    writer.close()
    assert all(segment.closed for segment in Journal(tmp_path).segments())


@pytest.mark.parametrize("cut", [1, 5, ENTRY.size, ENTRY.size + 3])
def test_a_torn_tail_is_waited_for_while_the_writer_lives_and_skipped_when_it_is_dead(
    tmp_path: Path, cut: int
) -> None:
    writer = Writer(JournalPolicy(str(tmp_path)), "w0")
    for number in range(3):
        writer.append(outcome(number), "outcome")
    path = only_segment(Journal(tmp_path)).path
    whole = path.read_bytes()
    path.write_bytes(whole + whole[len(MAGIC) : len(MAGIC) + cut])
    found, torn = entries(Journal(tmp_path))
    assert (len(found), torn) == (3, 0)
    writer.close()
    found, torn = entries(Journal(tmp_path))
    assert (len(found), torn) == (3, 1)


def test_a_damaged_entry_is_skipped_alone(tmp_path: Path) -> None:
    writer = Writer(JournalPolicy(str(tmp_path)), "w0")
    for number in range(5):
        writer.append(outcome(number), "outcome")
    writer.close()
    journal = Journal(tmp_path)
    third = entries(journal)[0][2]
    path = only_segment(journal).path
    data = bytearray(path.read_bytes())
    data[third.next_offset - 1] ^= 0xFF
    path.write_bytes(data)
    assert numbers(Journal(tmp_path)) == [0, 1, 3, 4]
    assert entries(Journal(tmp_path))[1] == 1


def test_a_bound_on_bytes_drops_and_counts_and_takes_records_again_once_there_is_room(tmp_path: Path) -> None:
    writer = Writer(JournalPolicy(str(tmp_path), segment_bytes=10_000, max_bytes=30_000), "w0")
    kept = sum(writer.append(outcome(number, 500), "outcome") for number in range(200))
    assert 0 < kept < 200
    assert writer.dropped["full"] == 200 - kept
    assert writer.received == 200
    with pytest.raises(JournalFullError, match="free disk space"):
        writer.append_or_raise([outcome(0)], "outcome")
    journal = Journal(tmp_path)
    for segment in journal.segments():
        if segment.closed:
            journal.delete(segment)
    end = time.monotonic() + 10
    while writer.full:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert writer.append(outcome(1000), "outcome")
    writer.close()


def test_a_full_disk_is_counted_and_leaves_whole_entries_only(tmp_path: Path) -> None:
    """A size-limited tmpfs in a mount namespace of its own, filled up."""
    script = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from app.domain.policy import JournalPolicy
from app.journal.reader import Journal
from app.journal.writer import Writer
from tests.journal.test_journal import numbers, outcome
from pathlib import Path
writer = Writer(JournalPolicy({str(tmp_path)!r}, segment_bytes=1 << 20), "w0")
kept = [n for n in range(3000) if writer.append(outcome(n, 1000), "outcome")]
assert 0 < len(kept) < 3000, len(kept)
assert sum(writer.dropped.values()) == 3000 - len(kept), writer.dropped
assert numbers(Journal(Path({str(tmp_path)!r}))) == kept
print("kept", len(kept))
"""
    mount = f"mount -t tmpfs -o size=1m tmpfs {tmp_path} && exec {sys.executable} -c '{script.replace(chr(39), chr(34))}'"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount], capture_output=True, text=True, timeout=60, check=False
    )
    if "Operation not permitted" in done.stderr and os.geteuid() != 0:
        pytest.skip("only root can mount a file system of a limited size")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("kept ")


async def test_fsync_always_answers_a_group_after_one_fsync(tmp_path: Path) -> None:
    synced: list[int] = []

    def slow_fsync(file: int) -> None:
        synced.append(file)
        time.sleep(0.02)

    writer = Writer(JournalPolicy(str(tmp_path), fsync="always"), "w0", fsync=slow_fsync)
    answered: list[int] = []
    for number in range(100):
        writer.append(outcome(number), "outcome")
        writer.when_durable(lambda safe, number=number: answered.append(number) if safe else None)  # type: ignore[misc]
    assert answered == []
    await writer.durable()
    assert answered == list(range(100))
    assert len(synced) <= 3  # the first alone, the others together
    writer.close()


async def test_an_fsync_that_fails_is_counted_and_told_and_nobody_waits_for_ever(tmp_path: Path) -> None:
    def failing_fsync(file: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    writer = Writer(JournalPolicy(str(tmp_path), fsync="always"), "w0", fsync=failing_fsync)
    writer.append(outcome(1), "outcome")
    async with asyncio.timeout(5):
        with pytest.raises(JournalFullError):
            await writer.durable()
    assert writer.fsync_errors == 1
    assert writer.append(outcome(2), "outcome")
    assert len(Journal(tmp_path).segments()) == 2  # what follows is not mixed with what may be gone
    assert numbers(Journal(tmp_path)) == [1, 2]
    writer.close()


async def test_with_refuse_a_failing_fsync_refuses_until_the_disk_is_tried_again(tmp_path: Path) -> None:
    failing = [True]

    def fsync(file: int) -> None:
        if failing[0]:
            raise OSError(errno.EIO, "Input/output error")

    writer = Writer(JournalPolicy(str(tmp_path), fsync="always", on_full="refuse"), "w0", fsync=fsync)
    assert not writer.refuses
    writer.append(outcome(1), "outcome")
    with pytest.raises(JournalFullError):
        await writer.durable()
    assert writer.refuses
    failing[0] = False
    async with asyncio.timeout(5):
        while writer.refuses:  # a disk has no event
            await asyncio.sleep(0.01)
    assert writer.append(outcome(2), "outcome")
    writer.close()


def test_a_killed_writer_loses_nothing_it_appended(tmp_path: Path) -> None:
    script = f"""
import sys
import threading
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from app.domain.policy import JournalPolicy
from app.journal.writer import Writer
from tests.journal.test_journal import outcome
writer = Writer(JournalPolicy({str(tmp_path)!r}, segment_bytes=50_000), "w0")
for number in range(10**9):
    writer.append(outcome(number), "outcome")
    sys.stdout.write(f"{{number}}\\n")
    sys.stdout.flush()
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert process.stdout is not None
    seen = -1
    for line in process.stdout:
        seen = int(line)
        if seen >= 5000:
            process.send_signal(signal.SIGKILL)
            break
    for line in process.stdout.read().splitlines():
        seen = int(line or seen)
    process.wait()
    process.stdout.close()
    journal = Journal(tmp_path)
    found = numbers(journal)
    assert found == list(range(len(found)))
    assert len(found) - 1 >= seen
    (counts,) = journal.counts()
    assert counts.closed
    assert 0 <= counts.received - len(found) <= 1


def test_a_writers_counters_are_never_seen_without_its_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that looks between any two steps of a starting writer must not take it for dead: it would finish its segments."""
    journal = Journal(tmp_path)
    real = os.open

    def looked_at(*arguments: object, **options: object) -> int:
        file: int = real(*arguments, **options)  # type: ignore[arg-type]
        with monkeypatch.context() as looking:
            looking.setattr(os, "open", real)
            assert all(not counts.closed for counts in Journal(tmp_path).counts())
        return file

    monkeypatch.setattr(os, "open", looked_at)
    writer = Writer(JournalPolicy(str(tmp_path)), "w0")
    assert writer.append(outcome(1), "outcome")
    assert not only_segment(journal).closed
    writer.close()


def test_without_room_for_the_counters_there_is_no_segment_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A segment beside which no lock lies looks like a dead writer's, and would be finished while it still grows."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    writer = Writer(JournalPolicy(str(tmp_path)), "w0")
    assert not writer.append(outcome(1), "outcome")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    end = time.monotonic() + 10
    while not writer.append(outcome(2), "outcome"):
        assert time.monotonic() < end
    journal = Journal(tmp_path)
    assert numbers(journal) == [2]
    assert not only_segment(journal).closed
    (counts,) = journal.counts()
    assert counts.received == 1 + sum(writer.dropped.values())
    writer.close()


async def test_syncing_leaves_no_file_open(tmp_path: Path) -> None:
    writer = Writer(JournalPolicy(str(tmp_path), fsync_interval_ms=1), "w0")
    writer.append(outcome(0), "outcome")
    before = len(os.listdir("/proc/self/fd"))
    syncing = asyncio.create_task(writer.sync_forever())
    for number in range(60):
        writer.append(outcome(number), "outcome")
        await asyncio.sleep(0.002)
    assert len(os.listdir("/proc/self/fd")) <= before + 2
    syncing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await syncing
    writer.close()


def test_a_damaged_stretch_in_the_middle_ends_its_segment_and_no_other(tmp_path: Path) -> None:
    """A power cut may leave blocks of zeros. Nothing behind them in the segment can be found; what follows in the next one can."""
    for first in (0, 100):
        writer = Writer(JournalPolicy(str(tmp_path)), "w0")
        for number in range(first, first + 100):
            writer.append(outcome(number), "outcome")
        writer.close()
    damaged, whole = Journal(tmp_path).segments()
    with damaged.path.open("r+b") as file:
        file.seek(0, os.SEEK_END)
        file.write(bytes(2_000_000))
        file.write(entry(b"nobody finds this"))
    journal = Journal(tmp_path)
    for segment, torn in ((damaged, 1), (whole, 0)):
        found, offset, skipped = 0, 0, 0
        for _ in range(1_000):  # an end must come, whatever is read at once
            result = journal.read(segment, offset, 4_096)
            found, offset, skipped = found + len(result.entries), result.next_offset, skipped + result.torn
            if result.at_end:
                break
        assert (result.at_end, found, skipped) == (True, 100, torn)


async def test_a_segment_that_was_full_is_synced_before_what_follows_is_called_durable(
    tmp_path: Path,
) -> None:
    """And not from the event loop, which a slow disk would hold up."""
    synced: list[tuple[int, str]] = []

    def fsync(file: int) -> None:
        synced.append((os.fstat(file).st_ino, threading.current_thread().name))

    policy = JournalPolicy(str(tmp_path), fsync="always", segment_bytes=4_096)
    writer = Writer(policy, "w0", fsync=fsync)
    for number in range(1_000):
        writer.append(outcome(number), "outcome")
    await writer.durable()
    segments = Journal(tmp_path).segments()
    assert len(segments) > 3
    assert {inode for inode, _ in synced} == {segment.path.stat().st_ino for segment in segments}
    assert all(thread.startswith("journal-fsync") for _, thread in synced)
    writer.close()
