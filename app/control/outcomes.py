"""Takes outcomes in: checks each, tells duplicates, and has them in the journal before anyone is told
"accepted".

The recorder joins them to their predictions later, so neither the prediction nor the store need be there yet.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import msgspec

from app.control.clock import Clock
from app.control.ports import Scalar, Store, outcome_subject
from app.control.registry import Registry
from app.domain.outcome import fault, outcome_id
from app.domain.prediction import split_row
from app.errors import JournalFullError, UnavailableError
from app.journal.records import OutcomeRecord

# outcome ids kept in memory, so that a retry is known before the recorder has stored the first
RECENT = 200_000
STORE_S = 2.0  # how long an answer waits for a silent store,
PATIENCE_S = 5.0  # which is then not asked again for so long
SLICE = 250  # outcomes in a row before others get their turn
MAX_REJECTED = 1000  # named in one answer; the others are only counted
MAX_TEXT = 200
_FIELDS = frozenset({"prediction_id", "ground_truth", "observed_at", "source", "model", "request_id"})
_EXACT = 2**53  # beyond it a double cannot hold every integer
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_AHEAD = timedelta(days=1)


class OutcomeJournal(Protocol):
    """The part of `app.journal.writer.Writer` that is needed here."""

    def append_or_raise(self, records: Iterable[OutcomeRecord], kind: str) -> None: ...
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


_Item = tuple[int, OutcomeRecord]  # with its place in the request


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
        now_ns = _ns(now)
        items: list[_Item] = []
        refused: list[tuple[int, str, str]] = []  # with its model and the reason
        for index, outcome in enumerate(outcomes, first_index):
            if (index - first_index) % SLICE == SLICE - 1:
                await asyncio.sleep(0)
            try:
                if isinstance(outcome, Exception):
                    raise _RefusedError(str(outcome))
                items.append((index, self._record(outcome, now, now_ns, actor)))
            except _RefusedError as error:
                refused.append((index, "", str(error)))
        models, stored = await self._known(items)
        taken: list[OutcomeRecord] = []
        accepted: Counter[str] = Counter()  # by model
        for index, record in items:
            if (index - first_index) % SLICE == SLICE - 1:
                await asyncio.sleep(0)
            model = models.get(record.prediction_id) or record.model
            reason = self._contradiction(record, model)
            if reason:
                refused.append((index, model, reason))
            elif record.outcome_id in stored or record.outcome_id in self._recent:
                receipt.duplicates += 1
                self.counts[model, "duplicate"] += 1
            else:
                taken.append(record)
                accepted[model] += 1
                self._remember(record.outcome_id)
        for index, model, reason in sorted(
            refused
        ):  # in the order they were sent, whatever was wrong with them
            self._reject(receipt, index, model, reason)
        if not taken:
            return
        try:
            self._journal.append_or_raise(taken, "outcome")
            await self._journal.durable()
        except JournalFullError:
            for record in taken:
                self._recent.pop(record.outcome_id, None)
            self._counted(accepted, "unavailable")
            raise
        self._counted(accepted, "accepted")
        receipt.accepted += len(taken)

    def _counted(self, by_model: Mapping[str, int], result: str) -> None:
        for model, count in by_model.items():
            self.counts[model, result] += count

    def _remember(self, outcome: str) -> None:
        self._recent[outcome] = None
        if len(self._recent) > RECENT:
            self._recent.popitem(last=False)

    def _reject(self, receipt: Receipt, index: int, model: str, reason: str) -> None:
        receipt.reject(index, reason)
        self.counts[model, "rejected"] += 1

    def _record(self, outcome: Any, now: datetime, now_ns: int, actor: str) -> OutcomeRecord:
        if type(outcome) is not dict:
            raise _RefusedError("an outcome is an object")
        if not _FIELDS.issuperset(outcome):
            raise _RefusedError(f"unknown field {min(set(outcome) - _FIELDS)[:50]!r}")
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
        prediction_id = prediction_id.lower()
        source = _text(outcome, "source") or "api"
        identity = outcome_id(prediction_id, model, request_id, truth, observed_ns, source)
        return OutcomeRecord(
            now_ns, prediction_id, model, request_id, truth, observed_ns, source, actor, identity
        )

    def _contradiction(self, record: OutcomeRecord, model: str) -> str | None:
        """Why this outcome cannot belong to the prediction, as far as that is known by now."""
        if record.model and model != record.model:
            return f"the prediction is of model {model!r}, not {record.model!r}"
        known = self._registry.get(model)
        return fault(record.ground_truth, known.task if known else "none")

    async def _known(self, items: Sequence[_Item]) -> tuple[dict[str, str], set[str]]:
        """The models of their predictions, as far as these are stored, and which of themselves are; nothing while the store is down or
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

    async def _predictions(self, items: Sequence[_Item]) -> dict[str, str]:
        ids = list({record.prediction_id for _, record in items if record.prediction_id})
        return await self._store.prediction_models(ids) if ids else {}

    async def _stored(self, items: Sequence[_Item]) -> set[str]:
        new = [record for _, record in items if record.outcome_id not in self._recent]
        ids = [record.outcome_id for record in new]
        subjects = [outcome_subject(r.prediction_id, r.model, r.request_id) for r in new]
        return await self._store.outcomes_known(ids, subjects) if ids else set()


def _text(outcome: Mapping[str, Any], name: str) -> str:
    if name not in outcome:
        return ""
    value = outcome[name]
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
