"""Appends records to this process's own segments. One write a group of records; never blocks on anything but that write.

What cannot be kept is counted with its reason and, by policy, either refused beforehand (`refuse`) or let go (`serve`). A failing disk
never raises into the caller's path unless it asked for that (`append_or_raise`).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import mmap
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from app.domain.policy import JournalPolicy
from app.errors import JournalFullError
from app.journal.format import (
    APPENDED,
    COUNTER,
    COUNTS_SIZE,
    DROP_REASONS,
    DROPPED,
    MAGIC,
    MAX_PAYLOAD,
    RECEIVED,
    counts_name,
    entry,
    segment_name,
    writer_name,
)
from app.journal.records import Record, encode

_RETRY_S = 0.25  # how long a full journal stays full before the disk is asked again


class Counts:
    """The writer's counters, in a mapped page; in memory only while there is no room for even that page.

    The page is locked before it has its name: whoever finds it without a lock may rely on the writer being dead.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self._map: mmap.mmap | bytearray = bytearray(COUNTS_SIZE)
        self.ensure()

    def ensure(self) -> bool:
        """Put the counters on disk unless they are there; False when that fails."""
        if self._file is not None:
            return True
        new = self._path.with_suffix(".new")
        file = -1
        try:
            file = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # written, not sparse: a mapped hole on a full disk would kill us
            if os.pwrite(file, bytes(self._map), 0) != COUNTS_SIZE:
                raise OSError("no room for the counters")
            mapped = mmap.mmap(file, COUNTS_SIZE)
            new.rename(self._path)
        except OSError:
            if file >= 0:
                os.close(file)
                with contextlib.suppress(OSError):
                    new.unlink()
            return False
        self._file, self._map = file, mapped
        return True

    def add(self, place: int, count: int = 1) -> None:
        value = COUNTER.unpack_from(self._map, place)[0]
        COUNTER.pack_into(self._map, place, value + count)

    def get(self, place: int) -> int:
        return int(COUNTER.unpack_from(self._map, place)[0])

    def close(self) -> None:
        if isinstance(self._map, mmap.mmap):
            self._map.close()
        if self._file is not None:
            os.close(
                self._file
            )  # gives the lock back: whoever reads the journal now knows that no more will come


class Writer:
    """`append` keeps a record; `when_durable` calls back once all that was appended is as safe as the policy asks.

    Not safe for several threads: each process has its own writer, used from its event loop.
    """

    def __init__(self, policy: JournalPolicy, slot: str, *, fsync: Callable[[int], None] = os.fsync) -> None:
        self._policy = policy
        self._directory = Path(policy.directory)
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.name = writer_name(slot, time.time_ns(), os.getpid())
        self._counts = Counts(self._directory / counts_name(self.name))
        self._segment = -1
        self._file = -1
        self._size = 0
        self._full_until = 0.0
        self._fsync = fsync
        self._syncer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal-fsync")
        self._group: list[bytes] = []  # enqueued, not written yet
        self._group_size = 0
        self._dirty = False
        self._suspect = False  # an fsync failed: what is in this segment may be gone
        self._waiting: list[Callable[[bool], None]] = []
        self._syncing = False
        self._told_errors = 0  # of `fsync_errors`, those that a group commit has told of
        self.records = dict.fromkeys(("prediction", "shadow", "outcome"), 0)
        self.fsync_errors = 0
        self.always = policy.fsync == "always"
        self.refusing = policy.on_full == "refuse"

    # ---- writing

    @property
    def full(self) -> bool:
        """True while a record would be dropped, or its segment cannot be trusted.

        With `on_full: refuse` the caller answers 503 before doing any work.
        """
        if self._suspect:
            self._suspect = False
            self._close_file()
            self._full_until = time.monotonic() + _RETRY_S if self.refusing else 0.0
        if self._full_until and time.monotonic() >= self._full_until:
            self._full_until = 0.0
            self._roll()
        return self._full_until > 0.0

    @property
    def refuses(self) -> bool:
        return self.refusing and self.full

    def enqueue(self, record: Record, kind: str) -> None:
        """Take the record for the next `flush`: whoever answers a client does so only after that."""
        self._counts.add(RECEIVED)
        payload = encode(record)
        if len(payload) > MAX_PAYLOAD:
            self._drop("too_large", 1)
            return
        data = entry(payload)
        self._group.append(data)
        self._group_size += len(data)
        self.records[kind] += 1

    def flush(self) -> bool:
        """Write what was enqueued, all with one call; False when it had to be dropped (and counted)."""
        group = self._group
        if not group:
            return True
        count, size = len(group), self._group_size
        data = group[0] if count == 1 else b"".join(group)
        group.clear()
        self._group_size = 0
        if (
            self._suspect
            or self._file < 0
            or (self._size + size > self._policy.segment_bytes and self._size > len(MAGIC))
        ):
            if self.full:
                return self._drop("full", count)
            if self._file < 0 or self._size + size > self._policy.segment_bytes:
                self._roll()
            if self._file < 0:
                return self._drop("full", count)
        try:
            written = os.write(self._file, data)
        except OSError:
            written = 0
        if written != size:
            return self._undo(written, count)
        self._size += written
        self._dirty = True
        self._counts.add(APPENDED, count)
        return True

    def append(self, record: Record, kind: str) -> bool:
        """Enqueue and flush at once; False when the record had to be dropped (and counted)."""
        before = self._counts.get(APPENDED) + len(self._group)
        self.enqueue(record, kind)
        return self.flush() and self._counts.get(APPENDED) > before

    def append_or_raise(self, records: Iterable[Record], kind: str) -> None:
        """All with one write, for a caller that may answer "try again": `JournalFullError` when one could not be kept."""
        before = self._counts.get(APPENDED) + len(self._group)
        count = 0
        for record in records:
            self.enqueue(record, kind)
            count += 1
        if not self.flush() or self._counts.get(APPENDED) < before + count:
            raise JournalFullError(
                "the journal cannot take another record; free disk space or raise journal.max_bytes"
            )

    def _undo(self, written: int, count: int) -> bool:
        """The disk took only a part: cut it off, so that the next entry begins where a reader expects it."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._file, self._size)
        self._close_file()
        self._full_until = time.monotonic() + _RETRY_S
        return self._drop("full" if written else "io_error", count)

    def _drop(self, reason: str, count: int) -> bool:
        self._counts.add(DROPPED[reason], count)
        return False

    def _close_file(self) -> None:
        if self._file >= 0:
            with contextlib.suppress(OSError):
                os.close(self._file)
            self._file = -1

    def _roll(self) -> None:
        """Start the next segment. On failure `full` holds for a short while."""
        if self._file >= 0 and self._dirty and self._policy.fsync != "never":
            # Not here, since a slow disk would hold up every client. What is synced later waits behind it: there is one such thread.
            self._syncer.submit(self._sync_and_close, self._file)
            self._file = -1
            self._dirty = False
        self._close_file()
        try:
            if self._bytes_on_disk() + self._policy.segment_bytes > self._policy.max_bytes:
                raise OSError("journal.max_bytes reached")
            if not self._counts.ensure():  # a segment without the lock beside it looks like a dead writer's
                raise OSError("no room for the counters")
            name = segment_name(self.name, self._segment + 1)
            self._file = os.open(
                self._directory / name,
                os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC,
                0o600,
            )
            self._segment += 1
            if os.write(self._file, MAGIC) != len(MAGIC):
                raise OSError("no room for a segment header")
            self._size = len(MAGIC)
            self._full_until = 0.0
        except OSError:
            self._close_file()
            self._full_until = time.monotonic() + _RETRY_S

    def _bytes_on_disk(self) -> int:
        with os.scandir(self._directory) as entries:
            return sum(entry.stat().st_size for entry in entries if entry.name.endswith(".seg"))

    # ---- durability

    def when_durable(self, callback: Callable[[bool], None]) -> None:
        """Call back at once, or with `fsync: always` after the next group commit, with whether all is on the disk: False when the disk
        said that it failed. Needs a running event loop for that.
        """
        if not self.always:
            callback(True)
            return
        self._waiting.append(callback)
        if not self._syncing:
            self._start_group_commit()

    async def durable(self) -> None:
        """Wait until what was appended is as safe as the policy asks; `JournalFullError` when the disk failed at it."""
        if self.always:
            done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            self.when_durable(lambda safe: None if done.done() else done.set_result(safe))
            if not await done:
                raise JournalFullError("the journal's disk failed to sync what was written; look at the disk")

    def _start_group_commit(self) -> None:
        self._syncing = True
        group, self._waiting = self._waiting, []
        file = -1
        if self._file >= 0:
            try:
                file = os.dup(self._file)  # a roll may close the segment meanwhile
            except OSError:  # no descriptor left
                self.fsync_errors += 1
        commit = asyncio.get_running_loop().run_in_executor(self._syncer, self._sync_and_close, file)
        commit.add_done_callback(lambda _: self._committed(group))

    def _committed(self, group: list[Callable[[bool], None]]) -> None:
        self._syncing = False
        safe = self.fsync_errors == self._told_errors
        self._told_errors = self.fsync_errors
        for callback in group:
            callback(safe)
        if self._waiting and not self._syncing:
            self._start_group_commit()

    def _sync_and_close(self, file: int) -> None:
        """In the syncing thread; the descriptor is its own."""
        if file >= 0:
            self._sync_now(file)
            os.close(file)

    def _sync_now(self, file: int) -> None:
        self._dirty = False
        try:
            if file >= 0:
                self._fsync(file)
        except OSError:
            # The kernel may have thrown the pages away (and says so once). What follows goes to a new segment.
            self.fsync_errors += 1
            self._suspect = True

    async def sync_forever(self) -> None:
        """The owner runs this as a task: fsync each interval while something was written (`fsync: interval`)."""
        if self._policy.fsync != "interval":
            return
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._policy.fsync_interval_ms / 1000)
            if self._dirty and self._file >= 0:
                try:
                    file = os.dup(self._file)  # a roll may close the segment meanwhile
                except OSError:  # no descriptor left: still dirty, so tried again
                    continue
                await loop.run_in_executor(self._syncer, self._sync_and_close, file)

    # ---- reading and closing

    @property
    def dropped(self) -> dict[str, int]:
        return {reason: self._counts.get(DROPPED[reason]) for reason in DROP_REASONS}

    @property
    def received(self) -> int:
        return self._counts.get(RECEIVED)

    def close(self) -> None:
        """Make safe what was written and give the lock back. The recorder may now finish these segments."""
        self.flush()
        self._syncer.shutdown(wait=True)
        if self._file >= 0 and self._dirty and self._policy.fsync != "never":
            self._sync_now(self._file)
        self._close_file()
        self._counts.close()
