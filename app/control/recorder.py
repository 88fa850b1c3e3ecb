"""Moves records from the journal to the store, exactly once. Never on the path of a request: while the store is away, the journal holds.

A segment's position is written in the transaction that stores its rows, so a kill at any point resumes where the store says; a segment
is deleted only after its last record is committed. A row that the store refuses goes into quarantine alone.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import structlog

from app.control.clock import Clock
from app.control.extraction import Extractor, outcome
from app.control.ports import (
    Batch,
    OutcomeRow,
    Position,
    PredictionRow,
    QuarantineRow,
    ShadowRow,
    Store,
    WriterCounts,
)
from app.domain.model import Model
from app.domain.prediction import format_id
from app.errors import RefusedRowError, UnavailableError
from app.journal.reader import Entry, Journal, SegmentInfo
from app.journal.records import OutcomeRecord, PredictionRecord, Record, ShadowRecord, decode
from app.link.messages import Series

log = structlog.get_logger(__name__)

BATCH_BYTES = 4 * 1024 * 1024
SMALLEST, LARGEST = 200, 2000  # records of a batch: few while up to date, many while behind
IDLE_S = 0.1
UPKEEP_S = 1.0
MAINTAIN_S = 3600.0
FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.2, 5.0
SLICE = 50  # records decoded before others get their turn
JOIN_AT_ONCE = 5000

Key = tuple[str, int]


@dataclass(slots=True)
class _Item:
    """A journal entry on its way: the rows it became, or why it became none."""

    segment: SegmentInfo
    entry: Entry
    kind: str = "undecodable"
    predictions: list[PredictionRow] = field(default_factory=list)
    shadows: list[ShadowRow] = field(default_factory=list)
    outcomes: list[OutcomeRow] = field(default_factory=list)
    refused: str | None = None


class Recorder:
    """`run` as a task, or `step` by step. `models` gives the current models; `host` names this journal in the ledger."""

    def __init__(
        self,
        journal: Journal,
        store: Store,
        models: Callable[[], Mapping[str, Model]],
        clock: Clock,
        host: str,
    ) -> None:
        self._journal = journal
        self._store = store
        self._models = models
        self._clock = clock
        self._host = host
        self._extractor = Extractor(models)
        self._positions: dict[Key, Position] = {}
        self._known_writers: set[str] = set()
        self._limit = SMALLEST
        self._upkeep_at = 0.0
        self._maintain_at = 0.0
        self._lock = asyncio.Lock()
        self.recorded: Counter[str] = Counter()
        self.quarantined: Counter[str] = Counter()
        self.comparisons: Counter[tuple[str, str, str]] = Counter()
        self._pending = 0

    # ---- the loop

    async def run(self) -> None:
        """Until cancelled. What the store or the disk does is survived, with ever longer pauses."""
        backoff = FIRST_BACKOFF_S
        while True:
            try:
                moved = await self.step()
                await self._upkeep()
                backoff = FIRST_BACKOFF_S
                if not moved:
                    await asyncio.sleep(IDLE_S)
            except (UnavailableError, OSError) as error:
                log.warning("the recorder waits", error=str(error), seconds=round(backoff, 1))
                await asyncio.sleep(backoff * random.uniform(0.8, 1.2))  # noqa: S311  # jitter
                backoff = min(LONGEST_BACKOFF_S, backoff * 2)

    async def step(self) -> int:
        """Move one batch; how many records it was. `UnavailableError` leaves everything as it was."""
        async with self._lock:
            segments = self._journal.segments()
            await self._learn_positions({segment.writer for segment in segments})
            items, positions = await self._gather(segments)
            if items or positions:
                await self._remember_for_shadows(items)
                await self._store_batch(items, positions)
            self._delete_finished(segments)
            self._limit = (
                min(LARGEST, self._limit * 2)
                if len(items) >= self._limit
                else max(SMALLEST, self._limit // 2)
            )
            return len(items)

    async def _learn_positions(self, writers: set[str]) -> None:
        new = writers - self._known_writers
        if new:
            for position in await self._store.positions(sorted(new)):
                self._positions[position.writer, position.segment] = position
            self._known_writers |= new

    def _position(self, segment: SegmentInfo) -> Position:
        return self._positions.get((segment.writer, segment.segment)) or Position(
            segment.writer, segment.segment, 0, 0, 0, 0, 0
        )

    async def _gather(self, segments: Sequence[SegmentInfo]) -> tuple[list[_Item], dict[Key, Position]]:
        """Decoded items up to the batch's bounds, and the positions behind them."""
        items: list[_Item] = []
        positions: dict[Key, Position] = {}
        size = 0
        for segment in segments:
            position = self._position(segment)
            if position.complete or len(items) >= self._limit or size >= BATCH_BYTES:
                continue
            result = self._journal.read(segment, position.offset, BATCH_BYTES - size)
            entries = result.entries[: self._limit - len(items)]
            whole = len(entries) == len(result.entries)
            for number, entry in enumerate(entries, 1):
                items.append(self._item(segment, entry))
                size += len(entry.data)
                if number % SLICE == 0:
                    await asyncio.sleep(0)
            next_offset = result.next_offset if whole else entries[-1].next_offset
            complete = whole and result.at_end and segment.closed
            if next_offset != position.offset or complete:
                positions[segment.writer, segment.segment] = replace(
                    position,
                    offset=next_offset,
                    records=position.records + len(entries),
                    torn=position.torn + (result.torn if whole else 0),
                    complete=complete,
                )
        return items, positions

    def _item(self, segment: SegmentInfo, entry: Entry) -> _Item:
        item = _Item(segment, entry)
        try:
            record: Record = decode(entry.data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            item.refused = f"undecodable: {error}"[:300]
            return item
        match record:
            case PredictionRecord():
                item.kind = "prediction"
                item.predictions = self._extractor.prediction(record)
            case ShadowRecord():
                item.kind = "shadow"
                if not self._extractor.knows(record.prediction_id):
                    item.shadows = []  # compared once the store was asked
                else:
                    item.shadows = self._extractor.shadow(record)
            case OutcomeRecord():
                item.kind = "outcome"
                item.outcomes = [outcome(record)]
        return item

    async def _remember_for_shadows(self, items: Sequence[_Item]) -> None:
        """Shadow answers whose predictions went to the store before this process knew them."""
        waiting = [item for item in items if item.kind == "shadow" and not item.shadows]
        if not waiting:
            return
        records = [(item, decode(item.entry.data)) for item in waiting]
        wanted = {
            r.prediction_id
            for _, r in records
            if isinstance(r, ShadowRecord) and not self._extractor.knows(r.prediction_id)
        }
        found = await self._store.predictions_brief([format_id(identity) for identity in wanted])
        for identity in wanted:
            row = found.get(format_id(identity))
            if row is not None:
                self._extractor.remember(identity, ((row["prediction"], row["confidence"]),))
        for item, record in records:
            if isinstance(record, ShadowRecord):
                item.shadows = self._extractor.shadow(record)

    # ---- storing

    async def _store_batch(self, items: list[_Item], positions: dict[Key, Position]) -> None:
        """Store all, or all but the refused ones, which go into quarantine."""
        while True:
            good = [item for item in items if item.refused is None]
            bad = [item for item in items if item.refused is not None]
            final = self._with_counts(positions, good, bad)
            try:
                await self._store.load(self._batch(good, bad, final))
                break
            except RefusedRowError as error:
                self._mark_refused(good, error) if error.refusals else await self._find_refused(good)
        self._positions.update({(p.writer, p.segment): p for p in final})
        for item in good:
            if item.kind == "outcome":
                self._upkeep_at = 0.0  # joined right away, not at the next second
            self.recorded[item.kind] += 1
            for shadow in item.shadows:
                if shadow.role == "shadow":
                    result = (
                        "unknown" if shadow.agreement is None else "agree" if shadow.agreement else "disagree"
                    )
                    self.comparisons[shadow.model, shadow.model_version, result] += 1
        for item in bad:
            self.quarantined[(item.refused or "").partition(":")[0]] += 1

    def _batch(self, good: Sequence[_Item], bad: Sequence[_Item], positions: Sequence[Position]) -> Batch:
        now = self._clock.now()
        return Batch(
            predictions=[row for item in good for row in item.predictions],
            shadows=[row for item in good for row in item.shadows],
            outcomes=[row for item in good for row in item.outcomes],
            quarantine=[
                QuarantineRow(
                    item.segment.writer,
                    item.segment.segment,
                    item.entry.offset,
                    item.kind,
                    item.refused or "",
                    item.entry.data,
                    now,
                )
                for item in bad
            ],
            positions=positions,
        )

    @staticmethod
    def _with_counts(
        positions: Mapping[Key, Position], good: Sequence[_Item], bad: Sequence[_Item]
    ) -> list[Position]:
        """A quarantined record is in the store as well: it counts as stored, and once more by itself."""
        stored = Counter((item.segment.writer, item.segment.segment) for item in (*good, *bad))
        quarantined = Counter((item.segment.writer, item.segment.segment) for item in bad)
        return [
            replace(
                position,
                stored=position.stored + stored[key],
                quarantined=position.quarantined + quarantined[key],
            )
            for key, position in positions.items()
        ]

    @staticmethod
    def _mark_refused(good: Sequence[_Item], error: RefusedRowError) -> None:
        """The store named the rows; find the records that they come from."""
        owners: dict[str, list[_Item]] = {"prediction": [], "shadow": [], "outcome": []}
        for item in good:
            owners["prediction"] += [item] * len(item.predictions)
            owners["shadow"] += [item] * len(item.shadows)
            owners["outcome"] += [item] * len(item.outcomes)
        for refusal in error.refusals:
            owners[refusal.kind][refusal.index].refused = refusal.reason

    async def _find_refused(self, items: Sequence[_Item]) -> None:
        """Halve until the refused ones stand alone. Halves that the store takes are stored without a position: they are
        ignored as already there when the whole batch is tried again.
        """
        if len(items) == 1:
            items[0].refused = "refused by the database"
            return
        middle = len(items) // 2
        for half in (items[:middle], items[middle:]):
            try:
                await self._store.load(self._batch(half, [], []))
            except RefusedRowError as error:
                if error.refusals:
                    self._mark_refused(half, error)
                elif len(half) == 1:
                    half[0].refused = f"refused: {error}"[:300]
                else:
                    await self._find_refused(half)

    def _delete_finished(self, segments: Sequence[SegmentInfo]) -> None:
        for segment in segments:
            if self._position(segment).complete:
                self._journal.delete(segment)

    # ---- upkeep

    async def _upkeep(self) -> None:
        now = self._clock.monotonic()
        if now >= self._upkeep_at:
            self._upkeep_at = now + UPKEEP_S
            await self._store.join_waiting_outcomes(JOIN_AT_ONCE)
            await self._note_writers()
        if now >= self._maintain_at:
            self._maintain_at = now + MAINTAIN_S
            days = {name: model.privacy.retention_days for name, model in self._models().items()}
            await self._store.maintain(self._clock.now(), days)

    async def _note_writers(self) -> None:
        """Put the writers' own counters into the ledger; forget a dead writer once nothing of it is left on disk."""
        async with self._lock:
            counts = await self._count_writers()
            if counts:
                await self._store.put_writer_counts(counts)
            for one in counts:
                if one.closed:
                    self._journal.forget(one.writer)
                    self._known_writers.discard(one.writer)
                    for key in [key for key in self._positions if key[0] == one.writer]:
                        del self._positions[key]

    async def _count_writers(self) -> list[WriterCounts]:
        left = {segment.writer for segment in self._journal.segments()}
        await self._learn_positions(left | {file.writer for file in self._journal.counts()})
        return self._writer_counts(left)

    def _writer_counts(self, left: set[str]) -> list[WriterCounts]:
        """What a dead writer received but nobody ever read was interrupted with its process: no client saw that answer."""
        result = []
        for file in self._journal.counts():
            dropped = {reason: count for reason, count in file.dropped.items() if count}
            closed = file.closed and file.writer not in left
            if closed:
                read = sum(p.records for key, p in self._positions.items() if key[0] == file.writer)
                rest = file.received - sum(dropped.values()) - read
                if rest > 0:
                    dropped["interrupted"] = rest
                # Written, and killed before it was counted: what was read is what was received.
                result.append(
                    WriterCounts(
                        self._host,
                        file.writer,
                        max(file.received, read + sum(dropped.values())),
                        dropped,
                        True,
                    )
                )
            else:
                result.append(WriterCounts(self._host, file.writer, file.received, dropped, False))
        return result

    async def accounting(self) -> dict[str, Any]:
        """`received = stored + pending + dropped`, in records. Quarantined ones are stored too, and shown once more.

        Pending are the records that lie in this host's journal and are not in the store yet, counted from the journal itself.
        """
        async with self._lock:
            counts = await self._count_writers()
            pending = await self._count_pending()
            await self._store.put_writer_counts(counts)
            ledger = await self._store.ledger(self._host)
        return {
            "received": ledger.received,
            "stored": ledger.stored,
            "pending": pending,
            "dropped": ledger.dropped,
            "quarantined": ledger.quarantined,
        }

    async def _count_pending(self) -> int:
        pending = 0
        segments = self._journal.segments()
        await self._learn_positions({segment.writer for segment in segments})
        for segment in segments:
            position = self._position(segment)
            offset, at_end = position.offset, position.complete
            while not at_end:
                result = self._journal.read(segment, offset, BATCH_BYTES)
                pending += len(result.entries)
                offset, at_end = result.next_offset, result.at_end
                await asyncio.sleep(0)
        self._pending = pending
        return pending

    def series(self) -> Iterator[Series]:
        """For `/metrics`."""
        for kind, count in self.recorded.items():
            yield Series("gateway_recorded_total", (kind,), count)
        for reason, count in self.quarantined.items():
            yield Series("gateway_quarantined_total", (reason,), count)
        for labels, count in self.comparisons.items():
            yield Series("gateway_shadow_comparisons_total", labels, count)
        yield Series("gateway_journal_pending_records", (), self._backlog())

    def _backlog(self) -> int:
        """Records not stored yet, from the writers' counters: cheap enough for every scrape."""
        received = {
            file.writer: file.received - sum(file.dropped.values()) for file in self._journal.counts()
        }
        read = Counter(dict.fromkeys(received, 0))
        for (writer, _), position in self._positions.items():
            if writer in received:
                read[writer] += position.records
        return max(0, sum(received.values()) - sum(read.values()))
