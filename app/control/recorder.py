"""Moves records from the journal to the store, exactly once. Never on the path of a request: while the store is away, the journal holds.

A segment's position is written in the transaction that stores its rows, so a kill at any point resumes where the store says; a segment
is deleted only after its last record is committed. A row that the store refuses goes into quarantine alone. While the recorder is behind,
the next batch is read and extracted during the commit of the one before.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from app.control.accounts import Accounts
from app.control.clock import Clock
from app.control.extraction import Extractor
from app.control.intake import EntryIntake, Item, Row, prediction_of, rows_of
from app.control.ports import Batch, OutcomeRow, Position, PredictionRow, QuarantineRow, ShadowRow, Store
from app.control.tailing import Tail
from app.domain.model import Model
from app.domain.prediction import format_id, row_id
from app.errors import RefusedRowError, UnavailableError
from app.journal.reader import Journal
from app.journal.records import Record
from app.link.messages import Series

log = structlog.get_logger(__name__)

BATCH_BYTES = 8 * 1024 * 1024
SMALLEST, LARGEST = 250, 8000  # records of a batch: few while up to date, many while behind
IDLE_S = 0.1  # between two batches while up to date, less the larger they are
UPKEEP_S = 1.0
MAINTAIN_S = 3600.0
FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.2, 5.0
JOIN_AT_ONCE = 1000
_ROWS_AT_ONCE = 100


@dataclass(slots=True)
class Taken:
    """Read and extracted, not stored yet."""

    items: list[Item] = field(default_factory=list)
    positions: list[Position] = field(default_factory=list)
    full: bool = False  # there is more where this came from
    batch: Batch | None = None  # made of the items, without positions; None: to be made again


class Recorder:
    """`run` as a task; `step` moves one batch, also while `run` goes on. `host` names this journal in the ledger."""

    def __init__(
        self,
        journal: Journal,
        store: Store,
        models: Callable[[], Mapping[str, Model]],
        clock: Clock,
        host: str,
        secret: bytes = b"",
        heed: Callable[[Record], None] | None = None,
    ) -> None:
        """`secret` keys the hashes of `privacy`; `heed` is told of each record that is taken in, and must not block."""
        self._heed = heed
        self._store = store
        self._models = models
        self._clock = clock
        self._extractor = Extractor(models, secret)
        self._tail = Tail(journal, store)
        self._accounts = Accounts(journal, store, self._tail, host)
        self._taken: deque[Taken] = deque()
        self._limit = SMALLEST
        self._upkeep_at = 0.0
        self._maintain_at = 0.0
        self._lock = asyncio.Lock()
        self.recorded: Counter[str] = Counter()
        self.quarantined: Counter[str] = Counter()
        self.comparisons: Counter[tuple[str, str, str]] = Counter()

    # ---- the loop

    async def run(self) -> None:
        """Until cancelled. What the store or the disk does is survived, with ever longer pauses."""
        backoff = FIRST_BACKOFF_S
        while True:
            try:
                moved = await self.step()
                await self._upkeep()
            except (UnavailableError, OSError) as error:
                log.warning("the recorder waits", error=str(error), seconds=round(backoff, 1))
                await asyncio.sleep(backoff * random.uniform(0.8, 1.2))  # noqa: S311  # jitter
                backoff = min(LONGEST_BACKOFF_S, backoff * 2)
                continue
            backoff = FIRST_BACKOFF_S
            if not self._taken:
                await asyncio.sleep(IDLE_S * max(0.0, 1.0 - moved / LARGEST))

    async def step(self) -> int:
        """Move one batch; how many records it was. `UnavailableError` leaves everything as it was."""
        async with self._lock:
            if not self._taken:
                self._taken.append(await self._take())
            batch = self._taken[0]
            committing = asyncio.create_task(self._commit(batch), name="recorder-commit")
            try:
                if batch.full and len(self._taken) == 1:
                    self._taken.append(await self._take())
                await committing
            except (
                BaseException
            ):  # the batch stays: it is tried again, and the store ignores what it holds already
                committing.cancel()
                await asyncio.wait({committing})
                raise
            self._taken.popleft()
            return len(batch.items)

    # ---- reading

    async def _take(self) -> Taken:
        """The next batch: every record decoded and extracted, in slices that hold up nobody."""
        pieces = await self._tail.next(self._limit, BATCH_BYTES)
        intake = EntryIntake(self._extractor, self._heed)
        for piece in pieces:
            taken_in = 0
            while taken_in < len(piece.entries):
                taken_in = intake.take(piece.segment, piece.entries, taken_in)
                await asyncio.sleep(0)
        await self._remember(intake.unknown())
        while intake.take_later():  # noqa: ASYNC110  # it works meanwhile
            await asyncio.sleep(0)
        items = intake.items
        taken = Taken(items, [piece.position for piece in pieces], full=len(items) >= self._limit // 2)
        taken.batch = await self._batch(items)
        self._tail.read_until(pieces)
        self._limit = min(LARGEST, self._limit * 2) if taken.full else max(SMALLEST, self._limit // 2)
        return taken

    async def _remember(self, prediction_ids: set[bytes]) -> None:
        """Predictions that were stored before this process knew them."""
        if not prediction_ids:
            return
        names = {format_id(identity): identity for identity in prediction_ids}
        found = await self._store.predictions_brief([*names, *(row_id(name, 0) for name in names)])
        for name, identity in names.items():
            rows = [found[name]] if name in found else []
            if row_id(name, 0) in found:
                rows = await self._rows_of(name)
            if rows:
                self._extractor.remember(
                    identity, tuple((row["prediction"], row["confidence"]) for row in rows)
                )

    async def _rows_of(self, name: str) -> list[dict[str, Any]]:
        """The stored rows of an N-row answer, in order."""
        rows: list[dict[str, Any]] = []
        while len(rows) % _ROWS_AT_ONCE == 0:
            ids = [row_id(name, number) for number in range(len(rows), len(rows) + _ROWS_AT_ONCE)]
            found = await self._store.predictions_brief(ids)
            rows += [found[one] for one in ids if one in found]
            if not found:
                break
        return rows

    # ---- storing

    async def _commit(self, taken: Taken) -> None:
        """Store all, or all but what is refused, which goes into quarantine."""
        if not taken.items and not taken.positions:
            return
        while True:
            positions = self._final(taken)
            batch = taken.batch = taken.batch or await self._batch(taken.items)
            try:
                await self._store.load(replace(batch, positions=positions))
                break
            except RefusedRowError as error:
                taken.batch = None
                if not error.refusals and not any(item.rows for item in taken.items):
                    raise UnavailableError(f"the store refuses to keep what is refused: {error}") from error
                await self._quarantine(_rows(taken.items), error)
        self._tail.stored(positions)
        self._count(taken.items, batch)
        if batch.outcomes:
            self._upkeep_at = 0.0  # some may go by a request, or by another form of the id: they join at once

    def _final(self, taken: Taken) -> list[Position]:
        """A record in quarantine is in the store as well: it counts as stored, and once more by itself."""
        refused = Counter((item.segment.writer, item.segment.segment) for item in taken.items if item.refused)
        positions = []
        for position in taken.positions:
            key = (position.writer, position.segment)
            before = self._tail.committed(*key)
            quarantined = (before.quarantined if before is not None else 0) + refused[key]
            positions.append(replace(position, quarantined=quarantined))
        return positions

    async def _batch(self, items: Sequence[Item]) -> Batch:
        """Encoded, unless a row is refused: `load` will say so again."""
        predictions, shadows, outcomes = rows_of(items)
        now = self._clock.now()
        quarantine = [
            QuarantineRow(
                writer=item.segment.writer,
                segment=item.segment.segment,
                offset=item.entry.offset,
                kind=item.kind,
                reason=item.refused,
                record=item.entry.data,
                at=now,
                prediction_id=prediction_of(item.entry.data),
            )
            for item in items
            if item.refused
        ]
        batch = Batch(predictions, shadows, outcomes, quarantine, ())
        with contextlib.suppress(RefusedRowError):
            return await self._store.encode(batch)
        return batch

    async def _quarantine(self, owners: Sequence[tuple[Item, Row]], error: RefusedRowError) -> None:
        """Take the refused rows out: those that the store named, else those that are found by halving.

        What is stored on the way carries no position: it is there already when the whole batch is tried again.
        """
        if error.refusals:
            by_kind = _by_kind(owners)
            for refusal in error.refusals:
                _refuse(*by_kind[refusal.kind][refusal.index], refusal.reason)
        elif len(owners) == 1:
            _refuse(*owners[0], f"refused: {error}"[:300])
        else:
            middle = len(owners) // 2
            for half in (owners[:middle], owners[middle:]):
                try:
                    await self._store.load(_rows_only(half))
                except RefusedRowError as closer:
                    await self._quarantine(half, closer)

    def _count(self, items: Sequence[Item], batch: Batch) -> None:
        for item in items:
            if item.refused:
                self.quarantined[item.refused.partition(":")[0]] += 1
        self.recorded.update([item.kind for item in items if not item.refused])
        for row in batch.shadows:
            if row.role == "shadow":
                self.comparisons[row.model, row.model_version, _KNOWN[row.agreement]] += 1

    # ---- upkeep

    async def _upkeep(self) -> None:
        now = self._clock.monotonic()
        if now >= self._upkeep_at:
            self._upkeep_at = now + UPKEEP_S
            await self._store.join_waiting_outcomes(JOIN_AT_ONCE)
            await self._accounts.note()
        if now >= self._maintain_at:
            self._maintain_at = now + MAINTAIN_S
            days = {name: model.privacy.retention_days for name, model in self._models().items()}
            await self._store.maintain(self._clock.now(), days)

    async def accounting(self) -> dict[str, Any]:
        """`received = stored + pending + dropped`, in records of this host. Quarantined ones are stored too, and shown once more."""
        return await self._accounts.report()

    def series(self) -> Iterator[Series]:
        """For `/metrics`."""
        for kind, count in self.recorded.items():
            yield Series("gateway_recorded_total", (kind,), count)
        for names, count in self._extractor.unread.items():
            yield Series("gateway_unread_total", names, count)
        for reason, count in self.quarantined.items():
            yield Series("gateway_quarantined_total", (reason,), count)
        for labels, count in self.comparisons.items():
            yield Series("gateway_shadow_comparisons_total", labels, count)
        yield Series("gateway_journal_pending_records", (), self._accounts.pending())


def _rows(items: Sequence[Item]) -> list[tuple[Item, Row]]:
    return [(item, row) for item in items for row in item.rows]


def _by_kind(owners: Sequence[tuple[Item, Row]]) -> dict[str, list[tuple[Item, Row]]]:
    kinds: dict[str, list[tuple[Item, Row]]] = {"prediction": [], "shadow": [], "outcome": []}
    for owner in owners:
        kinds[_ROW_KINDS[type(owner[1])]].append(owner)
    return kinds


_KNOWN = {None: "unknown", True: "agree", False: "disagree"}
_ROW_KINDS: dict[type, str] = {PredictionRow: "prediction", ShadowRow: "shadow", OutcomeRow: "outcome"}


def _refuse(item: Item, row: Row, reason: str) -> None:
    """This row of the record is not stored; the record goes into quarantine, its other rows into the store."""
    item.rows = [other for other in item.rows if other is not row]
    item.refused = item.refused or reason


def _rows_only(owners: Sequence[tuple[Item, Row]]) -> Batch:
    rows = [row for _, row in owners]
    return Batch(
        predictions=[row for row in rows if isinstance(row, PredictionRow)],
        shadows=[row for row in rows if isinstance(row, ShadowRow)],
        outcomes=[row for row in rows if isinstance(row, OutcomeRow)],
        quarantine=(),
        positions=(),
    )
