"""What the recorder makes of journal entries, one after the other. Compiled, since it is on the path of every record.

An entry is decoded, extracted and let go of at once, while it is in the processor's cache; what stays are the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter

import msgspec

from app.control.extraction import Extractor, outcome
from app.control.ports import OutcomeRow, PredictionRow, ShadowRow
from app.domain.prediction import format_id, split_row
from app.journal.reader import Entry, SegmentInfo
from app.journal.records import OutcomeRecord, PredictionRecord, Record, ShadowRecord, decode

SLICE_S = 0.005  # of work before others get their turn

Row = PredictionRow | ShadowRow | OutcomeRow


class Item:
    """A journal entry on its way: its kind, the rows it became, and why it, or a row of it, goes into quarantine."""

    __slots__ = ("entry", "kind", "refused", "rows", "segment")

    def __init__(self, segment: SegmentInfo, entry: Entry, kind: str, refused: str | None = None) -> None:
        self.segment = segment
        self.entry = entry
        self.kind = kind  # prediction, shadow, outcome or undecodable
        self.rows: Sequence[Row] = ()
        self.refused = refused


class EntryIntake:
    """Of one batch. `heed` is told of each record, and must not block."""

    __slots__ = ("_extractor", "_heed", "_later", "items")

    def __init__(self, extractor: Extractor, heed: Callable[[Record], None] | None = None) -> None:
        self.items: list[Item] = []
        self._extractor = extractor
        self._heed = heed
        # Copies whose prediction is not known yet: it stands behind them, or is stored already.
        self._later: list[tuple[Item, ShadowRecord]] = []

    def take(self, segment: SegmentInfo, entries: Sequence[Entry], first: int) -> int:
        """Take in the entries from `first` on, for a few milliseconds; the number of the next one."""
        until = perf_counter() + SLICE_S
        number = first
        while number < len(entries):
            self._one(segment, entries[number])
            number += 1
            if perf_counter() > until:
                break
        return number

    def _one(self, segment: SegmentInfo, entry: Entry) -> None:
        try:
            record = decode(entry.data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self.items.append(Item(segment, entry, "undecodable", f"undecodable: {error}"[:300]))
            return
        if type(record) is ShadowRecord:
            item = Item(segment, entry, "shadow")
            if self._extractor.knows(record.prediction_id):
                self._extract(item, record)
            else:
                self._later.append((item, record))
        else:
            item = Item(segment, entry, "prediction" if type(record) is PredictionRecord else "outcome")
            self._extract(item, record)
        self.items.append(item)

    def _extract(self, item: Item, record: Record) -> None:
        if self._heed is not None:
            self._heed(record)
        try:
            if isinstance(record, PredictionRecord):
                item.rows = self._extractor.prediction(record)
            elif isinstance(record, ShadowRecord):
                item.rows = self._extractor.shadow(record)
            elif isinstance(record, OutcomeRecord):
                item.rows = (outcome(record),)
        except Exception as fault:  # whatever a record provokes is that record's reason, and stops no other
            item.refused = f"unreadable: {type(fault).__name__}: {fault}"[:300]

    def unknown(self) -> set[bytes]:
        """The predictions whose copies wait, as far as none of the entries was theirs."""
        named = {record.prediction_id for _, record in self._later}
        return {identity for identity in named if not self._extractor.knows(identity)}

    def take_later(self) -> bool:
        """The copies that waited, for a few milliseconds; whether some are left."""
        until = perf_counter() + SLICE_S
        while self._later:
            item, record = self._later.pop()
            self._extract(item, record)
            if perf_counter() > until:
                break
        return bool(self._later)


def prediction_of(data: bytes) -> str | None:
    """The id of the prediction that a record is about, as it names it; None when it names none, or cannot be decoded."""
    try:
        named = decode(data).prediction_id
        text = named if isinstance(named, str) else format_id(named)
        split_row(text)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError):
        return None
    return text


def rows_of(items: Sequence[Item]) -> tuple[list[PredictionRow], list[ShadowRow], list[OutcomeRow]]:
    """All of them, by kind."""
    predictions: list[PredictionRow] = []
    shadows: list[ShadowRow] = []
    outcomes: list[OutcomeRow] = []
    for item in items:
        for row in item.rows:
            if isinstance(row, PredictionRow):
                predictions.append(row)
            elif isinstance(row, ShadowRow):
                shadows.append(row)
            else:
                outcomes.append(row)
    return predictions, shadows, outcomes
