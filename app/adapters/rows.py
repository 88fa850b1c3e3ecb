"""From the recorder's values to what the drivers take, refusing beforehand what no store can hold. On the path of every record.

A refusal names the row, so that it alone goes to quarantine and the others are not tried one by one. What PostgreSQL refuses
(U+0000 in text and jsonb, unpaired surrogates, NaN and infinities as JSON numbers), SQLite refuses as well: the same rows
get through wherever the data lies. Source: PostgreSQL manual, 8.3 Character Types and 8.14 JSON Types.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import msgspec
from msgspec.structs import astuple

from app.control.ports import OutcomeRow, PredictionRow, Scalar, ShadowRow, outcome_subject
from app.errors import Refusal

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


_TIME_WIDTH = len("2026-01-31T12:00:00.000000Z")


class _Refused(Exception):
    """This row cannot be stored, for this reason."""


class Encoding:
    """How one driver takes times, JSON and scalars; everything else is the same for both."""

    __slots__ = ("scalar", "time")

    def __init__(self, time: Callable[[datetime], Any], scalar: Callable[[Any], Any]) -> None:
        self.time = time
        self.scalar = scalar

    def prediction(self, row: PredictionRow) -> Values:
        """Values in the order of `PREDICTION_COLUMNS`, which is that of the row's fields."""
        (
            prediction_id, model, version, role, timestamp, features, prediction, confidence, latency_ms, status,
            request_id, routing_key, bucket, canary_percent, flags_revision, rollout_id, forced, propensity, reason,
            ended, error, facts,
        ) = astuple(row)  # half the cost of asking for each  # fmt: skip
        return (
            prediction_id,
            model,
            version,
            role,
            self.time(timestamp),
            None if features is None else _sound(features),
            self._scalar(prediction),
            _finite(confidence),
            _finite(latency_ms),
            status,
            _text(request_id),
            _text(routing_key),
            bucket,
            canary_percent,
            flags_revision,
            rollout_id,
            forced,
            propensity,
            reason,
            ended,
            _text(error),
            _document(facts) if facts else None,
        )

    def shadow(self, row: ShadowRow) -> Values:
        """Values in the order of `SHADOW_COLUMNS`, which is that of the row's fields."""
        (
            prediction_id, model, version, role, timestamp, prediction, confidence, latency_ms, status, difference,
            agreement, error,
        ) = astuple(row)  # fmt: skip
        return (
            prediction_id,
            model,
            version,
            role,
            self.time(timestamp),
            self._scalar(prediction),
            _finite(confidence),
            _finite(latency_ms),
            status,
            _finite(difference),
            agreement,
            _text(error),
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
        return _sound(json_bytes(value).decode())
    except UnicodeEncodeError:
        raise _Refused("lone_surrogate") from None
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise _Refused(f"no JSON: {error}") from None


def _sound(document: str) -> str:
    """JSON text, if databases take all that is written in it."""
    if "\\" in document and "\\u" in document:  # to look for one character is much faster
        _check_texts(json.loads(document))
    return document


def _check_texts(value: object) -> None:
    """Look at the texts themselves: the document also shows `\\u0000` for a backslash followed by u0000."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            _text(item)
        elif isinstance(item, dict):
            pending.extend(item.keys())
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)


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


def sqlite_time(at: datetime) -> str:
    """`2026-01-31T12:00:00.000000Z`: one width, so that text order is time order and SQLite's date functions read it."""
    text: str = msgspec.to_builtins(
        at if at.tzinfo is UTC else at.astimezone(UTC)
    )  # much faster than isoformat
    return text if len(text) == _TIME_WIDTH else text[:-1] + ".000000Z"  # it leaves out a zero


def plain_scalar(value: Any) -> Any:
    """REAL, TEXT or INTEGER for a number, label or truth value."""
    return value if value is None or type(value) is bool or type(value) is str else float(value)


def _jsonb_scalar(value: Any) -> str:
    return json_bytes(value if type(value) is bool or type(value) is str else float(value)).decode()


SQLITE = Encoding(sqlite_time, plain_scalar)
POSTGRES = Encoding(lambda at: at, _jsonb_scalar)


def encoded(
    rows: Sequence[T], encode: Callable[[T], Values], kind: str, refusals: list[Refusal], first: int = 0
) -> list[Values]:
    """All rows encoded; those that cannot be are added to `refusals`, numbered from `first` on."""
    done: list[Values] = []
    for index, row in enumerate(rows, first):
        try:
            done.append(encode(row))
        except _Refused as refused:
            refusals.append(Refusal(kind, index, str(refused)))
    return done


def alike(rows: Sequence[Values], columns: Sequence[int]) -> bool:
    """Whether each of the columns has one value in all rows."""
    for column in columns:
        first = rows[0][column]
        for row in rows:
            value = row[column]
            if value is not first and value != first:
                return False
    return True


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
