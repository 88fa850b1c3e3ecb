"""Follows the journal of one host: which bytes come next, how far each segment is read and how far it is stored, what may be deleted.

Reads ahead of what is stored by as much as the recorder asks for; `stored` says that a read was committed, in the order of the reads.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import structlog

from app.control.ports import Position, Store
from app.journal.reader import Entry, Journal, ReadResult, SegmentInfo

log = structlog.get_logger(__name__)

_FIRST_GUESS = 2048  # bytes of a record, before any was seen


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive entries of a segment, and the position behind them."""

    segment: SegmentInfo
    entries: Sequence[Entry]
    position: Position


@dataclass(slots=True)
class Progress:
    """What was read of a writer's segments, in records."""

    records: int = 0
    stored: int = 0
    quarantined: int = 0
    torn: int = 0

    def add(self, position: Position, sign: int = 1) -> None:
        self.records += sign * position.records
        self.stored += sign * position.stored
        self.quarantined += sign * position.quarantined
        self.torn += sign * position.torn


Key = tuple[str, int]


@dataclass(slots=True)
class Tail:
    journal: Journal
    store: Store
    _stored: dict[Key, Position] = field(
        default_factory=dict
    )  # as committed, of segments that are still on disk
    _read: dict[Key, Position] = field(default_factory=dict)  # as read, ahead of what is stored
    _finished: dict[str, Progress] = field(
        default_factory=lambda: defaultdict(Progress)
    )  # deleted segments, by writer
    _known: set[str] = field(default_factory=set)
    _learning: asyncio.Lock = field(default_factory=asyncio.Lock)
    _segments: Sequence[SegmentInfo] = ()  # as last seen
    _bytes_each: float = _FIRST_GUESS
    _turn: int = 0

    async def learn(self, writers: Iterable[str]) -> None:
        """Ask the store, once for each writer, how far its segments are stored."""
        wanted = set(writers)
        if wanted <= self._known:
            return
        async with self._learning:
            new = sorted(wanted - self._known)
            positions = await self.store.positions(new) if new else []
            on_disk = {(segment.writer, segment.segment) for segment in self.journal.segments()}
            for position in positions:
                key = (position.writer, position.segment)
                if key in on_disk:
                    self._stored[key] = self._read[key] = position
                else:
                    self._finished[position.writer].add(position)
            self._known.update(new)

    def knows(self, writer: str) -> bool:
        return writer in self._known

    async def next(self, records: int, limit_bytes: int) -> list[Piece]:
        """Up to about as many records and bytes, from every writer that has some; each time another writer comes first."""
        segments = self.journal.segments()
        await self.learn(segment.writer for segment in segments)
        segments = self._segments = self._without_stored(segments)
        by_writer: dict[str, list[SegmentInfo]] = {}
        for segment in segments:
            if not self._position(segment).complete:
                by_writer.setdefault(segment.writer, []).append(segment)
        writers = sorted(by_writer)
        self._turn += 1
        pieces: list[Piece] = []
        for place in range(len(writers)):
            share = -(-records // (len(writers) - place))
            for segment in by_writer[writers[(place + self._turn) % len(writers)]]:
                if share <= 0 or limit_bytes <= 0:
                    break
                try:
                    piece, size = await self._piece(segment, share, limit_bytes)
                except OSError as error:  # the others go on
                    log.warning(
                        "a journal segment cannot be read", segment=str(segment.path), error=str(error)
                    )
                    break
                pieces.append(piece)
                share -= len(piece.entries)
                records -= len(piece.entries)
                limit_bytes -= size
                if not piece.position.complete:
                    break  # what follows in later segments comes after what is left here
        return [piece for piece in pieces if piece.position != self._position(piece.segment)]

    async def _piece(self, segment: SegmentInfo, records: int, limit_bytes: int) -> tuple[Piece, int]:
        position = self._position(segment)
        wanted = min(limit_bytes, int(records * self._bytes_each))
        result: ReadResult = await asyncio.to_thread(self.journal.read, segment, position.offset, wanted)
        # A little more than was asked for is taken as it is, since it is read already; what was skipped is counted with the whole.
        whole = len(result.entries) <= 2 * records or result.torn > 0
        entries = result.entries if whole else result.entries[:records]
        size = sum(len(entry.data) for entry in entries)
        if entries:
            self._bytes_each += 0.2 * (size / len(entries) - self._bytes_each)
        behind = replace(
            position,
            offset=result.next_offset if whole else entries[-1].next_offset,
            records=position.records + len(entries),
            stored=position.stored + len(entries),
            torn=position.torn + result.torn,
            complete=whole and result.at_end and segment.closed,
        )
        return Piece(segment, entries, behind), size

    def read_until(self, pieces: Iterable[Piece]) -> None:
        """Go on behind these."""
        for piece in pieces:
            self._read[piece.segment.writer, piece.segment.segment] = piece.position

    def stored(self, positions: Iterable[Position]) -> None:
        """These are committed, with as many quarantined as they say. What is finished is deleted."""
        for position in positions:
            self._stored[position.writer, position.segment] = position
        with contextlib.suppress(OSError):  # tried again at the next look
            self._without_stored(self._segments)

    def committed(self, writer: str, segment: int) -> Position | None:
        return self._stored.get((writer, segment))

    def _position(self, segment: SegmentInfo) -> Position:
        found = self._read.get((segment.writer, segment.segment))
        return found or Position(segment.writer, segment.segment, 0, 0, 0, 0, 0)

    def _without_stored(self, segments: Sequence[SegmentInfo]) -> list[SegmentInfo]:
        """Delete the segments that are stored to their end; the others."""
        left = []
        for segment in segments:
            key = (segment.writer, segment.segment)
            position = self._stored.get(key)
            if position is not None and position.complete:
                self.journal.delete(segment)
                del self._stored[key]
                self._read.pop(key, None)
                self._finished[segment.writer].add(position)
            else:
                left.append(segment)
        return left

    def progress(self) -> dict[str, Progress]:
        """By writer, what is stored by now."""
        sums: dict[str, Progress] = defaultdict(Progress)
        for writer, finished in self._finished.items():
            sums[writer] = replace(finished)
        for position in self._stored.values():
            sums[position.writer].add(position)
        return sums

    def forget(self, writer: str) -> None:
        """Nothing of this writer is on disk any more."""
        self._known.discard(writer)
        self._finished.pop(writer, None)
