"""Takes outcomes in: checks each, tells duplicates, and has them in the journal before anyone is told
"accepted".

The recorder joins them to their predictions later, so neither the prediction nor the store need be there yet.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import msgspec

from app.control.clock import Clock
from app.control.ports import Row, Scalar, Store, outcome_subject
from app.control.registry import Registry
from app.domain.outcome import fault, outcome_id
from app.domain.prediction import split_row
from app.errors import JournalFullError, UnavailableError
from app.journal.records import OutcomeRecord

# outcome ids kept in memory, so that a retry is known before the recorder has stored the first
RECENT = 200_000
STORE_S = 2.0  # how long an answer waits for a silent store,
PATIENCE_S = 5.0  # which is then not asked again for so long
MAX_REJECTED = 1000  # named in one answer; the others are only counted
MAX_TEXT = 200
_FIELDS = frozenset({"prediction_id", "ground_truth", "observed_at", "source", "model", "request_id"})
_EXACT = 2**53  # beyond it a double cannot hold every integer
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_AHEAD = timedelta(days=1)


class OutcomeJournal(Protocol):
    """The part of `app.journal.writer.Writer` that is needed here."""

    def append_or_raise(self, record: OutcomeRecord, kind: str) -> None: ...
    async def durable(self) -> None: ...


@dataclass(slots=True)
class Receipt:
    """What became of the outcomes of one request. `rejected` holds the first of them, `unnamed` counts the
    others.
    """

    accepted: int = 0
    duplicates: int = 0
    rejected: list[dict[str, Any]] = field(default_factory=list)
    unnamed: int = 0

    def reject(self, index: int, reason: str) -> None:
        if len(self.rejected) < MAX_REJECTED:
            self.rejected.append({"index": index, "reason": reason})
        else:
            self.unnamed += 1


class _RefusedError(Exception):
    """The outcome cannot be accepted, for this reason."""


@dataclass(frozen=True, slots=True)
class _Item:
    index: int
    id: str
    record: OutcomeRecord


class OutcomeIntake:
    """`take` may be called many times for one request, a bounded batch each."""

    def __init__(self, journal: OutcomeJournal, registry: Registry, store: Store, clock: Clock) -> None:
        self._journal = journal
        self._registry = registry
        self._store = store
        self._clock = clock
        self._recent: OrderedDict[str, None] = OrderedDict()
        self._ask_again_at = 0.0
        self.counts: Counter[tuple[str, str]] = Counter()  # (model or "", result)

    async def take(self, outcomes: Sequence[Any], first_index: int, actor: str, receipt: Receipt) -> None:
        """Add to `receipt` what became of these outcomes. An outcome that is an exception is rejected with
        its text.

        `JournalFullError` when they cannot be kept; those counted before stay accepted.
        """
        now = self._clock.now()
        items = []
        for index, outcome in enumerate(outcomes, first_index):
            try:
                if isinstance(outcome, Exception):
                    raise _RefusedError(str(outcome))
                items.append(self._item(index, outcome, now, actor))
            except _RefusedError as refused:
                self._reject(receipt, index, "", str(refused))
        predictions, stored = await self._known(items)
        taken: list[_Item] = []
        for item in items:
            prediction = predictions.get(item.record.prediction_id)
            model = str(prediction["model"]) if prediction else item.record.model
            reason = self._contradiction(item.record, model)
            if reason:
                self._reject(receipt, item.index, model, reason)
            elif item.id in stored or item.id in self._recent:
                receipt.duplicates += 1
                self.counts[model, "duplicate"] += 1
            else:
                self._append(item, model)
                taken.append(item)
                self._remember(item.id)
        if taken:
            await self._journal.durable()
        receipt.accepted += len(taken)

    def _append(self, item: _Item, model: str) -> None:
        try:
            self._journal.append_or_raise(item.record, "outcome")
        except JournalFullError:
            self.counts[model, "unavailable"] += 1
            raise
        self.counts[model, "accepted"] += 1

    def _remember(self, outcome: str) -> None:
        self._recent[outcome] = None
        if len(self._recent) > RECENT:
            self._recent.popitem(last=False)

    def _reject(self, receipt: Receipt, index: int, model: str, reason: str) -> None:
        receipt.reject(index, reason)
        self.counts[model, "rejected"] += 1

    def _item(self, index: int, outcome: Any, now: datetime, actor: str) -> _Item:
        if not isinstance(outcome, Mapping):
            raise _RefusedError("an outcome is an object")
        if unknown := sorted(set(outcome) - _FIELDS):
            raise _RefusedError(f"unknown field {unknown[0][:50]!r}")
        model = _text(outcome, "model")
        request_id = _text(outcome, "request_id")
        prediction_id = _text(outcome, "prediction_id")
        if model and self._registry.get(model) is None:
            raise _RefusedError(f"there is no model {model!r}")
        if prediction_id and request_id:
            raise _RefusedError("give prediction_id, or model and request_id, not both")
        if prediction_id:
            try:
                split_row(prediction_id)
            except ValueError as error:
                raise _RefusedError(f"prediction_id: {error}") from None
        elif not (model and request_id):
            raise _RefusedError("prediction_id is missing (or model and request_id)")
        truth = _ground_truth(outcome)
        observed_ns = _observed_ns(outcome, now)
        record = OutcomeRecord(
            received_ns=_ns(now),
            prediction_id=prediction_id.lower(),
            model=model,
            request_id=request_id,
            ground_truth=truth,
            observed_ns=observed_ns,
            source=_text(outcome, "source") or "api",
            actor=actor,
        )
        identity = outcome_id(record.prediction_id, model, request_id, truth, observed_ns, record.source)
        return _Item(index, identity, record)

    def _contradiction(self, record: OutcomeRecord, model: str) -> str | None:
        """Why this outcome cannot belong to the prediction, as far as that is known by now."""
        if record.model and model != record.model:
            return f"the prediction is of model {model!r}, not {record.model!r}"
        known = self._registry.get(model)
        return fault(record.ground_truth, known.task if known else "none")

    async def _known(self, items: Sequence[_Item]) -> tuple[dict[str, Row], set[str]]:
        """What is stored of their predictions, and which of themselves; nothing while the store is down or
        silent. Then contradictions are found, and duplicates left out, by the recorder.
        """
        if self._clock.monotonic() < self._ask_again_at:
            return {}, set()
        try:
            async with asyncio.timeout(STORE_S):
                return await self._predictions(items), await self._stored(items)
        except UnavailableError:
            return {}, set()
        except TimeoutError:
            self._ask_again_at = self._clock.monotonic() + PATIENCE_S
            return {}, set()

    async def _predictions(self, items: Sequence[_Item]) -> dict[str, Row]:
        ids = list({item.record.prediction_id for item in items if item.record.prediction_id})
        return await self._store.predictions_brief(ids) if ids else {}

    async def _stored(self, items: Sequence[_Item]) -> set[str]:
        new = [item for item in items if item.id not in self._recent]
        ids = [item.id for item in new]
        records = [item.record for item in new]
        subjects = [outcome_subject(r.prediction_id, r.model, r.request_id) for r in records]
        return await self._store.outcomes_known(ids, subjects) if ids else set()


def _text(outcome: Mapping[str, Any], name: str) -> str:
    value = outcome.get(name)
    if value is None and name not in outcome:
        return ""
    if not isinstance(value, str) or not value:
        raise _RefusedError(f"{name}: a text that is not empty")
    if len(value) > MAX_TEXT or "\0" in value:
        raise _RefusedError(f"{name}: at most {MAX_TEXT} characters, none of them NUL")
    return value


def _ground_truth(outcome: Mapping[str, Any]) -> Scalar:
    value = outcome.get("ground_truth")
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(outcome, "ground_truth")
    if isinstance(value, int) and abs(value) > _EXACT:
        raise _RefusedError("ground_truth: an integer this large loses digits; send it as text")
    if isinstance(value, (int, float)):
        return float(value)
    raise _RefusedError("ground_truth: a number, a text, true or false")


def _observed_ns(outcome: Mapping[str, Any], now: datetime) -> int:
    """Nanoseconds since the epoch; 0 when it was not given."""
    if "observed_at" not in outcome:
        return 0
    try:
        at = msgspec.convert(outcome["observed_at"], datetime)
        if at.tzinfo is None:
            raise ValueError
        at = at.astimezone(UTC)
    except (msgspec.ValidationError, ValueError, OverflowError):
        raise _RefusedError("observed_at: a time as in RFC 3339, such as 2026-01-31T12:00:00Z") from None
    if not _EPOCH < at <= now + _AHEAD:
        raise _RefusedError("observed_at: not between 1970 and now")
    return _ns(at)


def _ns(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1) * 1000
