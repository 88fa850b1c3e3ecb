"""Reads the segments of all writers of a host, and says which are finished. Changes nothing but what it is told to delete."""

from __future__ import annotations

import contextlib
import fcntl
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from app.journal.format import (
    APPENDED,
    COUNTER,
    COUNTS_SIZE,
    DROPPED,
    ENTRY,
    MAGIC,
    MAX_PAYLOAD,
    RECEIVED,
    counts_name,
    parse_counts_name,
    parse_segment_name,
)


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    writer: str
    segment: int
    path: Path
    closed: bool  # nothing more will be appended: its writer went on to a later segment, or is dead


class Entry(msgspec.Struct, frozen=True, gc=False):
    offset: int
    next_offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class ReadResult:
    entries: tuple[Entry, ...]
    next_offset: int  # where to go on
    torn: int  # damaged entries skipped on the way (a torn tail counts as one)
    at_end: bool  # nothing more is there now; with a closed segment: nothing more will be


@dataclass(frozen=True, slots=True)
class WriterFile:
    """A writer's counters as they stand in its counts file.

    A writer killed between counting a record and writing it leaves `received` one too high (no client saw that answer), and one killed
    between writing and counting leaves `appended` one too low. So for a dead writer all of whose segments are read, the recorder
    books `received - sum(dropped) - records read` as dropped with reason `interrupted`.
    """

    writer: str
    received: int
    appended: int
    dropped: dict[str, int]
    closed: bool  # the writer is dead


class Journal:
    """The directory of segments. Cheap to ask again and again: a writer once found dead is remembered."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._dead: set[str] = set()

    def segments(self) -> list[SegmentInfo]:
        """Oldest first within each writer."""
        found: dict[str, list[int]] = {}
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self.directory):
                parsed = parse_segment_name(name)
                if parsed:
                    found.setdefault(parsed[0], []).append(parsed[1])
        result = []
        for writer, numbers in sorted(found.items()):
            alive = self.alive(writer)
            numbers.sort()
            result += [
                SegmentInfo(
                    writer,
                    number,
                    self.directory / f"{writer}-{number:08d}.seg",
                    closed=not alive or number < numbers[-1],
                )
                for number in numbers
            ]
        return result

    def alive(self, writer: str) -> bool:
        """Whether the writer's process still holds its lock."""
        if writer in self._dead:
            return False
        try:
            file = os.open(self.directory / counts_name(writer), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            self._dead.add(writer)
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            self._dead.add(writer)
            return False
        finally:
            os.close(file)

    def read(self, info: SegmentInfo, offset: int, limit_bytes: int) -> ReadResult:
        """Whole entries from `offset` on (0: the beginning), up to about `limit_bytes` but at least one if there is one."""
        with open(info.path, "rb") as file:
            offset = max(offset, len(MAGIC))
            size = os.fstat(file.fileno()).st_size
            file.seek(offset)
            data = file.read(min(max(limit_bytes, ENTRY.size), size - offset)) if size > offset else b""
            if len(data) >= ENTRY.size:
                needed = ENTRY.size + ENTRY.unpack_from(data)[0]
                if len(data) < needed <= size - offset:
                    data += file.read(needed - len(data))
        return self._cut(data, offset, size, closed=info.closed)

    @staticmethod
    def _cut(data: bytes, offset: int, size: int, *, closed: bool) -> ReadResult:
        entries: list[Entry] = []
        torn = 0
        place = 0
        broken = False
        head = ENTRY.size
        unpack = ENTRY.unpack_from
        while place + head <= len(data):
            length, checksum = unpack(data, place)
            end = place + head + length
            if length == 0 or length > MAX_PAYLOAD or offset + end > size:
                broken = True
                break  # a torn tail, or an entry that is still being written
            if end > len(data):
                return ReadResult(tuple(entries), offset + place, torn, at_end=False)
            payload = data[place + head : end]
            if zlib.crc32(payload) != checksum:
                if not closed and offset + end == size:
                    break  # may still be under way
                torn += 1
            else:
                entries.append(Entry(offset + place, offset + end, payload))
            place = end
        rest = size - (offset + place)
        at_end = offset + len(data) >= size
        if closed and rest > 0 and (at_end or broken):  # nothing behind it can be found again
            return ReadResult(tuple(entries), size, torn + 1, at_end=True)
        return ReadResult(tuple(entries), offset + place, torn, at_end)

    def counts(self) -> list[WriterFile]:
        """The counters of all writers that still have a file."""
        result = []
        names: list[str] = []
        with contextlib.suppress(FileNotFoundError):
            names = sorted(os.listdir(self.directory))
        for name in names:
            writer = parse_counts_name(name)
            if writer is None:
                continue
            closed = not self.alive(writer)
            with contextlib.suppress(FileNotFoundError), open(self.directory / name, "rb") as file:
                page = file.read(COUNTS_SIZE).ljust(COUNTS_SIZE, b"\0")
                received = COUNTER.unpack_from(page, RECEIVED)[0]
                appended = COUNTER.unpack_from(page, APPENDED)[0]
                dropped = {reason: COUNTER.unpack_from(page, place)[0] for reason, place in DROPPED.items()}
                result.append(WriterFile(writer, received, appended, dropped, closed))
        return result

    def delete(self, info: SegmentInfo) -> None:
        """Remove a segment whose records are all in the store."""
        info.path.unlink(missing_ok=True)

    def forget(self, writer: str) -> None:
        """Remove a dead writer's counts once the store holds them and no segment of it is left."""
        (self.directory / counts_name(writer)).unlink(missing_ok=True)
        self._dead.discard(writer)
