"""The recorder's accounts: `received = stored + pending + dropped`, in records, exact also while the store is away.

What a writer received and dropped stands in its own counters, what is stored in the positions. A writer that is dead and whose segments
are all stored is closed: its accounts go to the store for good, and its counters are deleted.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.control.ports import Ledger, Store, WriterCounts
from app.control.tailing import Progress, Tail
from app.errors import UnavailableError
from app.journal.reader import Journal, WriterFile

_NOTHING = Ledger(0, {}, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class WriterAccount:
    counts: WriterCounts
    progress: Progress

    @property
    def pending(self) -> int:
        return self.counts.received - sum(self.counts.dropped.values()) - self.progress.records


class Accounts:
    def __init__(self, journal: Journal, store: Store, tail: Tail, host: str) -> None:
        self._journal = journal
        self._store = store
        self._tail = tail
        self._host = host
        self._earlier: Ledger | None = None  # writers of which nothing is on disk any more
        self._noted: dict[str, WriterCounts] = {}

    def writers(self) -> list[WriterAccount]:
        """Of each writer that still has its counters on disk."""
        progress = self._tail.progress()
        unfinished = {segment.writer for segment in self._journal.segments()}
        return [
            self._account(file, progress.get(file.writer) or Progress(), file.writer not in unfinished)
            for file in self._journal.counts()
        ]

    def _account(self, file: WriterFile, progress: Progress, finished: bool) -> WriterAccount:
        dropped = {reason: count for reason, count in file.dropped.items() if count}
        if progress.torn:
            dropped["torn"] = progress.torn
        known = progress.records + sum(dropped.values())
        closed = file.closed and finished and self._tail.knows(file.writer)
        if closed and file.received > known:
            # Received, but the process was killed before it was written: no client saw that answer.
            dropped["interrupted"] = dropped.get("interrupted", 0) + file.received - known
        # Written, but killed before it was counted: what was read is what was received. The same for a torn record's remains.
        received = max(file.received, known)
        return WriterAccount(WriterCounts(self._host, file.writer, received, dropped, closed), progress)

    async def note(self) -> None:
        """Tell the store the writers' counters, and close those that are finished. `UnavailableError` leaves all as it was."""
        await self._learn()
        earlier = self._earlier or _NOTHING
        accounts = self.writers()
        changed = [one.counts for one in accounts if self._noted.get(one.counts.writer) != one.counts]
        await self._store.put_writer_counts(changed)
        for one in accounts:
            if one.counts.closed:
                earlier = self._earlier = _sum(earlier, one)
                self._journal.forget(one.counts.writer)
                self._tail.forget(one.counts.writer)
                self._noted.pop(one.counts.writer, None)
            else:
                self._noted[one.counts.writer] = one.counts

    async def report(self) -> dict[str, Any]:
        """The accounts of this host. Until the store has answered once, only of the writers on disk, all of it pending."""
        with contextlib.suppress(UnavailableError):
            await self._learn()
        return self._report(self._earlier or _NOTHING, self.writers())

    async def _learn(self) -> None:
        files = [file.writer for file in self._journal.counts()]
        await self._tail.learn(files)
        if self._earlier is None:
            earlier = await self._store.ledger(self._host, files)
            if self._earlier is None:  # still: another call may have been faster, and closed a writer since
                self._earlier = earlier

    @staticmethod
    def _report(earlier: Ledger, writers: Sequence[WriterAccount]) -> dict[str, Any]:
        total = earlier
        for one in writers:
            total = _sum(total, one)
        dropped = {reason: count for reason, count in sorted(total.dropped.items()) if count}
        return {
            "received": total.received,
            "stored": total.stored,
            "pending": sum(one.pending for one in writers),
            "dropped": dropped,
            "quarantined": total.quarantined,
        }

    def pending(self) -> int:
        """Records not stored yet: cheap enough for every scrape."""
        return sum(one.pending for one in self.writers())


def _sum(total: Ledger, one: WriterAccount) -> Ledger:
    dropped: Mapping[str, int] = Counter(total.dropped) + Counter(one.counts.dropped)
    return Ledger(
        total.received + one.counts.received,
        dict(dropped),
        total.stored + one.progress.stored,
        total.quarantined + one.progress.quarantined,
        total.torn + one.progress.torn,
    )
