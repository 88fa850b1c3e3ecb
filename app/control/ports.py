"""What the control process needs from the outside, shaped by its use. `app.adapters` fulfils these; `app.main` wires them.

Every method may raise `app.errors.UnavailableError` when the dependency cannot be reached within its deadline.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import msgspec

from app.domain.flags import Flags
from app.domain.model import Version

Scalar = float | str | bool
Row = dict[str, Any]


class PredictionRow(msgspec.Struct, frozen=True, gc=False):
    """A row of `predictions`; times are UTC."""

    prediction_id: str  # canonical UUIDv7, `:row` appended for rows of an N-row body
    model: str
    model_version: str
    role: str
    timestamp: datetime
    features: str | None  # the text of a JSON object, NaN already replaced
    prediction: Scalar | None
    confidence: float | None
    latency_ms: float
    status: int
    request_id: str | None
    routing_key: str | None
    bucket: int | None
    canary_percent: float
    flags_revision: int
    rollout_id: str | None
    forced: bool
    propensity: float
    reason: str  # of the assignment
    ended: str
    error: str | None  # the gateway's own error, or why nothing could be extracted
    facts: dict[str, Any] = {}  # protocol facts: tokens, finish reason, …


class ShadowRow(msgspec.Struct, frozen=True, gc=False):
    """A row of `shadow_predictions`."""

    prediction_id: str
    model: str
    model_version: str
    role: str  # shadow | control | failed
    timestamp: datetime
    prediction: Scalar | None
    confidence: float | None
    latency_ms: float
    status: int
    difference: float | None
    agreement: bool | None
    error: str | None


class OutcomeRow(msgspec.Struct, frozen=True, gc=False):
    """A row of `outcomes`; joined to its prediction when (or as soon as) that is stored."""

    outcome_id: (
        str  # digest of prediction, ground truth, observed_at and source: the same outcome twice is one
    )
    prediction_id: str | None
    model: str | None
    request_id: str | None
    ground_truth: Scalar
    observed_at: datetime
    received_at: datetime
    source: str
    actor: str


@dataclass(frozen=True, slots=True)
class QuarantineRow:
    """A record the store refuses, or that cannot be decoded, kept whole with its reason."""

    writer: str
    segment: int
    offset: int
    kind: str
    reason: str
    record: bytes
    at: datetime
    prediction_id: str | None = None  # that it is about, as far as the record says so


@dataclass(frozen=True, slots=True)
class Position:
    """How far a segment is committed. Written in the same transaction as its rows: the resume point and the ledger."""

    writer: str
    segment: int
    offset: int  # bytes
    records: int  # read from this segment so far
    stored: int  # of these, in the store
    quarantined: int
    torn: int  # skipped because damaged
    complete: bool = False  # the segment is finished and may be deleted


@dataclass(frozen=True, slots=True)
class WriterCounts:
    """A journal writer's own counters, absolute: what it received and what it could not keep."""

    host: str
    writer: str
    received: int
    dropped: dict[str, int]
    closed: bool


@dataclass(frozen=True, slots=True)
class Batch:
    predictions: Sequence[PredictionRow]
    shadows: Sequence[ShadowRow]
    outcomes: Sequence[OutcomeRow]
    quarantine: Sequence[QuarantineRow]
    positions: Sequence[Position]
    encoded: object | None = None  # what `Store.encode` made of the rows


@dataclass(frozen=True, slots=True)
class Ledger:
    """Sums over the writers of one host."""

    received: int
    dropped: dict[str, int]
    stored: int
    quarantined: int
    torn: int


@dataclass(frozen=True, slots=True)
class AuditEntry:
    at: datetime
    actor: str
    origin: str  # address, or "controller", "guard"
    action: str  # flags.set, rollout.start, rollback, version.register, …
    model: str | None
    reason: str
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None


def outcome_subject(prediction_id: str | None, model: str | None, request_id: str | None) -> str:
    """What an outcome is about, as its sender named it."""
    return prediction_id or f"request:{model}:{request_id}"


class Store(Protocol):
    """SQLite or PostgreSQL."""

    async def close(self) -> None: ...
    async def ping(self) -> None: ...

    # recorder
    async def encode(self, batch: Batch) -> Batch:
        """The same with `encoded`: the part of `load` that needs no database, to be done while another batch is loaded.
        `RefusedRowError` names the rows that cannot be stored.
        """

    async def load(self, batch: Batch) -> None:
        """All of it or nothing. Rows already there are left as they are. `RefusedRowError` when a row is refused."""

    async def positions(self, writers: Sequence[str]) -> list[Position]: ...
    async def put_writer_counts(self, counts: Sequence[WriterCounts]) -> None: ...
    async def ledger(self, host: str, without: Sequence[str] = ()) -> Ledger:
        """Sums over the host's writers, but for those named."""

    async def quarantined(self, prediction_id: str) -> str | None:
        """Why the record of this prediction (not of a row of it) is in quarantine; None when it is not."""

    async def join_waiting_outcomes(self, limit: int) -> int:
        """Join outcomes that came before their prediction; returns how many were joined."""

    # reads of single records
    async def prediction(self, prediction_id: str) -> Row | None:
        """The `predictions` row with `shadow` (list) and `outcomes` (list, newest first); a bare id finds `id:0` too."""

    async def predictions_brief(self, ids: Sequence[str]) -> dict[str, Row]:
        """`{prediction_id: {model, model_version, prediction, confidence, features}}` of those that are stored."""

    async def prediction_models(self, prediction_ids: Sequence[str]) -> dict[str, str]:
        """The model of each of these that is stored."""

    async def outcomes_known(self, outcome_ids: Sequence[str], subjects: Sequence[str]) -> set[str]:
        """Which of these are stored. `subjects` are what they are about (`outcome_subject`), one each."""

    # flags, versions, audit
    async def flags(self) -> list[Flags]: ...
    async def put_flags(self, flags: Flags, expected_revision: int, audit: AuditEntry) -> Flags:
        """Compare-and-set; `flags.revision` must be expected + 1. Audited in the same transaction.

        `StaleRevisionError` when another was faster.
        """

    async def versions(self) -> list[tuple[str, Version]]:
        """Versions registered through the API: (model, version)."""

    async def version_times(self, model: str, version: str) -> dict[str, datetime | None]:
        """`promoted`: last, by a rollout that stands; `registered` through the API; `first_seen` among the stored predictions, to
        a quarter of an hour.
        """

    async def put_version(self, model: str, version: Version, audit: AuditEntry) -> None: ...
    async def delete_version(self, model: str, version: str, audit: AuditEntry) -> None: ...
    async def append_audit(self, entry: AuditEntry) -> None: ...
    async def audit(self, model: str | None, limit: int) -> list[Row]: ...

    # rollouts: the state is the domain's, as plain JSON
    async def open_rollouts(self) -> list[Row]: ...
    async def rollouts(self, model: str, limit: int) -> list[Row]: ...
    async def rollout(self, rollout_id: str) -> Row | None:
        """With `events`, oldest first."""

    async def save_rollout(self, rollout: Row, events: Sequence[Row]) -> None:
        """Insert or update by `id` and append events (`at`, `kind`, `reason`, `figures`).

        `ConflictError` for a second open rollout of the model.
        """

    # performance, shadow, training, review, drift
    async def labelled(
        self, model: str, version: str | None, since: datetime | None, until: datetime | None, limit: int
    ) -> list[Row]:
        """Newest first: prediction_id, model_version, timestamp, prediction, confidence, ground_truth,
        ground_truth_timestamp, propensity, latency_ms, features.
        """

    async def answers(
        self, model: str, version: str, since: datetime | None, until: datetime | None, limit: int
    ) -> list[Row]:
        """Rows as of `labelled`, those without a label too: all that can have one."""

    async def coverage(self, model: str, since: datetime | None, until: datetime | None) -> list[Row]:
        """By version: model_version, predictions, labelled."""

    async def shadow_pairs(self, model: str, version: str, since: datetime | None, limit: int) -> list[Row]:
        """Newest first: both predictions, confidences, latencies, statuses, difference, agreement, features, ground_truth."""

    async def rollout_pairs(
        self,
        rollout_id: str,
        model: str,
        version: str,
        since: datetime,
        until: datetime,
        limit: int,
        *,
        labelled: bool,
    ) -> list[Row]:
        """Requests of a rollout that `version` answered as a shadow or control mirror, newest first: prediction_id, role,
        production_version (who answered the client), latency_ms, status, shadow_status, both predictions and confidences,
        ground_truth. `labelled`: only those with one. No forced ones.
        """

    async def rollout_labels(
        self, rollout_id: str, model: str, since: datetime, until: datetime, limit: int
    ) -> list[Row]:
        """Labelled answers to clients under a rollout, newest first: prediction_id, model_version, role, timestamp,
        prediction, confidence, ground_truth, canary_percent. No forced ones, no fallbacks. Of more than `limit` the newest of
        all versions together: what is left of two versions was answered in the same time.
        """

    def training_rows(
        self,
        model: str,
        since: datetime | None,
        until: datetime | None,
        version: str | None,
        as_of: datetime | None = None,
        after: tuple[datetime, str] | None = None,
    ) -> AsyncIterator[list[Row]]:
        """Rows as of `labelled`, with `role`, in chunks, oldest first: constant memory. `as_of`: each with the label that held of those
        received by then; without those that had none. `after`: only what follows the row of this time and id, to go on where an earlier
        reading broke off.
        """

    async def recent(self, model: str, version: str | None, since: datetime | None, limit: int) -> list[Row]:
        """Newest first: prediction_id, model_version, timestamp, features, prediction, confidence."""

    async def sample(
        self, model: str, version: str, since: datetime, until: datetime, limit: int
    ) -> list[Row]:
        """Answers spread over the time they were given in, labelled or not, newest first: prediction_id, model,
        model_version, timestamp, prediction, confidence, ground_truth, ground_truth_timestamp, request_id.
        """

    async def arrivals(self, rows: Sequence[Row]) -> dict[str, datetime]:
        """When the first outcome of each row (with `prediction_id`, `model` and `request_id`) was received, if one was."""

    async def review_propensities(
        self, model: str, ids: Sequence[str], as_of: datetime | None = None
    ) -> dict[str, float]:
        """Of those whose labels came from reviewers alone: the probability with which each was picked for review. `as_of`: as was
        known then.
        """

    async def unlabelled(self, model: str, versions: Sequence[str], limit: int, at: datetime) -> list[Row]:
        """The newest answers that are neither labelled nor under review at that time: prediction_id, prediction, confidence."""

    async def offered(self, ids: Sequence[str]) -> list[Row]:
        """What a reviewer sees of these: prediction_id, model_version, timestamp, features, prediction, confidence; and facts."""

    async def put_reviews(self, rows: Sequence[Row], at: datetime) -> set[str]:
        """Leases: review of `prediction_id` with strategy, score, propensity, leased_until, leased_by. Returns the ids of those
        that nobody else holds at the time `at`.
        """

    async def reviews_taken(self, model: str, since: datetime, at: datetime) -> int:
        """How many labels reviewers gave after `since`, and how many items they hold at the time `at`."""

    async def finish_review(self, prediction_id: str, label: Scalar, actor: str, at: datetime) -> bool: ...
    async def put_baseline(self, model: str, baseline: Row, sample: Row | None = None) -> None:
        """`sample`: plain JSON, read by itself."""

    async def baseline(self, model: str) -> Row | None:
        """The newest one."""

    async def newest_baseline(self, model: str) -> int | None:
        """Its number: another one says that there is a newer baseline."""

    async def baseline_sample(self, number: int) -> Row | None: ...
    async def add_retraining_decision(self, decision: Row) -> None: ...
    async def retraining_decisions(self, model: str, limit: int) -> list[Row]: ...
    async def told_to_retrain(self, model: str) -> Row | None:
        """The newest decision that was told."""

    # upkeep
    async def maintain(self, now: datetime, retention_days: dict[str, int]) -> None:
        """Make partitions ahead, drop what is beyond retention."""

    async def erase(self, model: str, routing_keys: Sequence[str], audit: AuditEntry) -> int:
        """Remove features, prediction and key of the rows under any of these keys; returns how many. Audited once."""


class FlagsDistribution(Protocol):
    """Carries flags between the hosts. The store holds the truth; this only makes it travel."""

    async def publish(self, flags: Flags) -> None: ...
    async def correct(self, wrong: Flags, right: Flags) -> None:
        """Put `right` in the place of `wrong`, which the store never held, if it is still there."""

    def changes(self) -> AsyncIterator[Flags]:
        """Flags changed anywhere (also by ourselves, possibly repeated), by hint or by polling."""

    async def close(self) -> None: ...


class Lease(Protocol):
    """At most one holder; it lapses by itself."""

    async def acquire(self) -> bool:
        """Take or renew; True while held."""

    async def release(self) -> None: ...
