"""From the recorder's values to what the drivers take, refusing beforehand what no store can hold. On the path of every record.

A refusal names the row, so that it alone goes to quarantine and the others are not tried one by one. What PostgreSQL refuses
(U+0000 in text and jsonb, unpaired surrogates, NaN and infinities as JSON numbers), SQLite refuses as well: the same rows
get through wherever the data lies. Source: PostgreSQL manual, 8.3 Character Types and 8.14 JSON Types.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import msgspec

from app.adapters.schema import plain_scalar, sqlite_time
from app.control.ports import Batch, OutcomeRow, PredictionRow, Scalar, ShadowRow, outcome_subject
from app.errors import Refusal, RefusedRowError

T = TypeVar("T")
Values = tuple[Any, ...]

json_bytes = msgspec.json.Encoder().encode
json_value = msgspec.json.Decoder().decode

PREDICTION_COLUMNS = (
    "prediction_id", "model", "model_version", "role", "timestamp", "features", "prediction", "confidence", "latency_ms",
    "status", "request_id", "routing_key", "bucket", "canary_percent", "flags_revision", "rollout_id", "forced",
    "propensity", "reason", "ended", "error", "facts",
)  # fmt: skip
SHADOW_COLUMNS = (
    "prediction_id", "model", "model_version", "role", "timestamp", "prediction", "confidence", "latency_ms", "status",
    "difference", "agreement", "error",
)  # fmt: skip
OUTCOME_COLUMNS = (
    "subject", "outcome_id", "prediction_id", "model", "request_id", "ground_truth", "observed_at", "received_at", "source",
    "actor", "state", "due_at",
)  # fmt: skip


class _Refused(Exception):
    """This row cannot be stored, for this reason."""


class Encoding:
    """How one driver takes times, JSON and scalars; everything else is the same for both."""

    __slots__ = ("scalar", "time")

    def __init__(self, time: Callable[[datetime], Any], scalar: Callable[[Any], Any]) -> None:
        self.time = time
        self.scalar = scalar

    def prediction(self, row: PredictionRow) -> Values:
        """Values in the order of `PREDICTION_COLUMNS`."""
        return (
            row.prediction_id,
            row.model,
            row.model_version,
            row.role,
            self.time(row.timestamp),
            None if row.features is None else _document(row.features),
            self._scalar(row.prediction),
            _finite(row.confidence),
            _finite(row.latency_ms),
            row.status,
            _text(row.request_id),
            _text(row.routing_key),
            row.bucket,
            row.canary_percent,
            row.flags_revision,
            row.rollout_id,
            row.forced,
            row.propensity,
            row.reason,
            row.ended,
            _text(row.error),
            _document(row.facts) if row.facts else None,
        )

    def shadow(self, row: ShadowRow) -> Values:
        """Values in the order of `SHADOW_COLUMNS`."""
        return (
            row.prediction_id,
            row.model,
            row.model_version,
            row.role,
            self.time(row.timestamp),
            self._scalar(row.prediction),
            _finite(row.confidence),
            _finite(row.latency_ms),
            row.status,
            _finite(row.difference),
            row.agreement,
            _text(row.error),
        )

    def outcome(self, row: OutcomeRow) -> Values:
        """Values in the order of `OUTCOME_COLUMNS`, less state and due time, which only the store knows."""
        return (
            outcome_subject(row.prediction_id, row.model, row.request_id),
            row.outcome_id,
            _text(row.prediction_id),
            _text(row.model),
            _text(row.request_id),
            self._scalar(row.ground_truth),
            self.time(row.observed_at),
            self.time(row.received_at),
            _text(row.source),
            _text(row.actor),
        )

    def _scalar(self, value: Scalar | None) -> Any:
        if value is None:
            return None
        if type(value) is str:
            _text(value)
        elif value - value != 0:  # type: ignore[operator]  # a number here: NaN and infinities differ from themselves
            raise _Refused("not_finite")
        return self.scalar(value)


def _document(value: object) -> str:
    try:
        text = json_bytes(value).decode()
    except UnicodeEncodeError:
        raise _Refused("lone_surrogate") from None
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise _Refused(f"no JSON: {error}") from None
    if "\\u0000" in text and _holds_nul(value):
        raise _Refused("nul_character")
    return text


def _holds_nul(value: object) -> bool:
    """Look for U+0000 itself: the encoded text also shows `\\u0000` for a backslash followed by u0000."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            if "\0" in item:
                return True
        elif isinstance(item, dict):
            pending.extend(item.keys())
            pending.extend(item.values())
        elif isinstance(item, (list, tuple)):
            pending.extend(item)
    return False


def _text(value: str | None) -> str | None:
    if value is None:
        return None
    if "\0" in value:
        raise _Refused("nul_character")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _Refused("lone_surrogate") from None
    return value


def _finite(value: float | None) -> float | None:
    if value is not None and value - value != 0:
        raise _Refused("not_finite")
    return value


def _jsonb_scalar(value: Any) -> str:
    return json_bytes(value if type(value) is bool or type(value) is str else float(value)).decode()


SQLITE = Encoding(sqlite_time, plain_scalar)
POSTGRES = Encoding(lambda at: at, _jsonb_scalar)


def encoded(
    rows: Sequence[T], encode: Callable[[T], Values], kind: str, refusals: list[Refusal]
) -> list[Values]:
    """All rows encoded; those that cannot be are added to `refusals`."""
    done: list[Values] = []
    for index, row in enumerate(rows):
        try:
            done.append(encode(row))
        except _Refused as refused:
            refusals.append(Refusal(kind, index, str(refused)))
    return done


def encode_batch(batch: Batch, encoding: Encoding) -> tuple[list[Values], list[Values], list[Values]]:
    """Predictions, shadows and outcomes for the driver; `RefusedRowError` that names every row which cannot be stored."""
    refusals: list[Refusal] = []
    predictions = encoded(batch.predictions, encoding.prediction, "prediction", refusals)
    shadows = encoded(batch.shadows, encoding.shadow, "shadow", refusals)
    outcomes = encoded(batch.outcomes, encoding.outcome, "outcome", refusals)
    if refusals:
        raise RefusedRowError(f"{len(refusals)} rows cannot be stored", tuple(refusals))
    return predictions, shadows, outcomes


def id_floor(at: datetime) -> str:
    """The smallest id of a prediction made at `at` or later: where a day's partition begins."""
    ms = max(0, int((at - _EPOCH) / _MILLISECOND))
    digits = f"{ms:012x}"
    return f"{digits[:8]}-{digits[8:]}"


def day_of(prediction_id: str) -> int:
    """Days since the epoch of the time in an id; `ValueError` for what is no id."""
    return int(prediction_id[:8] + prediction_id[9:13], 16) // _MS_OF_DAY


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_MS_OF_DAY = 86_400_000
