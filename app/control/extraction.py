"""From a journal record to rows: what the protocol reader finds in the bodies, with the facts of the assignment beside it.

Pure but for the memory of recent predictions, by which a shadow's answer is compared with production's.
"""

from __future__ import annotations

import json
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from heapq import nlargest
from typing import Any, TypeAlias

import msgspec

from app.control.ports import OutcomeRow, PredictionRow, Scalar, ShadowRow
from app.domain.comparison import apart
from app.domain.model import Model
from app.domain.outcome import outcome_id
from app.domain.prediction import format_id, row_id
from app.journal.records import OutcomeRecord, PredictionRecord, ShadowRecord
from app.protocols.record import BARE_ROW, Exchange, Reader, Row
from app.protocols.redaction import Redaction
from app.protocols.registry import build_reader
from app.protocols.scoring import is_distribution

MAX_REQUEST_ID = 200  # characters; workers cut it, but those of an earlier version did not
REMEMBERED = 20_000  # predictions whose shadow answers are still to be expected


Answer: TypeAlias = "tuple[Scalar | None, float | None]"  # prediction and confidence of a row
Answers: TypeAlias = "tuple[Answer, ...]"  # what a shadow's answer is compared with
Remembered: TypeAlias = "tuple[Answers, str, int, datetime]"  # with the id's text, and the time: in nanoseconds, and as it is stored


class Extractor:
    """One for the recorder. `models` gives the current models; a record of a model that is gone keeps latency and status."""

    def __init__(self, models: Callable[[], Mapping[str, Model]], secret: bytes = b"") -> None:
        """`secret` keys the hashes of what was written before `privacy: hash` was configured."""
        self._models = models
        self._secret = secret
        self._readers: dict[str, tuple[Model, Reader]] = {}
        self._recent: OrderedDict[bytes, Remembered] = OrderedDict()
        self.unread: Counter[tuple[str, str]] = Counter()  # by model and reason

    # ---- predictions

    def prediction(self, record: PredictionRecord) -> list[PredictionRow]:
        """One row, or one a row of an N-row body."""
        identity = format_id(record.prediction_id)
        at = _instant(record.at_ns)
        model, reader = self._reader(record.model)
        extraction = reader(
            Exchange(
                record.request_body,
                record.response_body,
                record.status,
                record.target,
                record.request_type,
                record.response_type,
                record.request_encoding,
                record.response_encoding,
                _known(record.request_inference_length),
                _known(record.response_inference_length),
                record.request_size > len(record.request_body),
                record.response_size > len(record.response_body),
                None,
                _redacted(record, model),
            )
        )
        facts: dict[str, Any] = dict(extraction.facts)
        if record.first_byte_us >= 0:
            facts["first_byte_ms"] = record.first_byte_us / 1000.0
        error = record.error or None
        if extraction.reason is not None:
            self.unread[record.model, str(extraction.reason)] += 1
            error = error or str(extraction.reason)
            if extraction.detail is not None:
                facts["detail"] = extraction.detail
        found = extraction.rows or (BARE_ROW,)
        margins = model is not None and model.task == "multiclass"
        rows = [
            PredictionRow(
                identity if len(found) == 1 else row_id(identity, number),
                record.model,
                record.version,
                record.role,
                at,
                None if row.features is None else document(row.features),
                _scalar(row.prediction),
                row.confidence,
                record.latency_us / 1000.0,
                record.status,
                None if record.request_id is None else record.request_id[:MAX_REQUEST_ID],
                record.routing_key,
                record.bucket if record.bucket >= 0 else None,
                record.canary_percent,
                record.flags_revision,
                record.rollout_id or None,
                record.forced,
                record.propensity,
                record.reason,
                record.ended,
                error,
                _with_margin(facts, row) if margins and row.scores is not None else facts,
            )
            for number, row in enumerate(found)
        ]
        answers = tuple([(row.prediction, row.confidence) for row in rows])
        self._remember(record.prediction_id, (answers, identity, record.at_ns, at))
        return rows

    def remember(self, prediction_id: bytes, rows: Answers) -> None:
        """Keep what shadows will be compared with."""
        self._remember(prediction_id, (rows, format_id(prediction_id), 0, _instant(0)))

    def _remember(self, prediction_id: bytes, known: Remembered) -> None:
        recent = self._recent
        recent[prediction_id] = known
        if len(recent) > REMEMBERED:
            recent.popitem(last=False)

    def knows(self, prediction_id: bytes) -> bool:
        return prediction_id in self._recent

    # ---- shadows

    def shadow(self, record: ShadowRecord) -> list[ShadowRow]:
        """One row, or one a row of an N-row answer. Without the prediction it belongs to there is no comparison."""
        remembered: Answers | None = None
        known = self._recent.get(record.prediction_id)
        if known is None:
            identity = format_id(record.prediction_id)
            at = _instant(record.at_ns)
        else:
            remembered, identity, at_ns, at = known
            if at_ns != record.at_ns:
                at = _instant(record.at_ns)
        model, reader = self._reader(record.model)
        rows: Answers = (_NOTHING,)
        reason: str | None = record.error or None
        if not record.error:
            extraction = reader(
                Exchange(
                    response_body=record.response_body,
                    status=record.status,
                    response_content_type=record.response_type,
                    response_content_encoding=record.response_encoding,
                    response_header_length=_known(record.response_inference_length),
                    response_truncated=record.response_size > len(record.response_body),
                    expected_rows=len(remembered) if remembered is not None else None,
                    redacted=_redacted(record, model),
                )
            )
            rows = tuple([(_scalar(row.prediction), row.confidence) for row in extraction.rows]) or rows
            if rows == (_NOTHING,) and extraction.reason is not None:
                reason = str(extraction.reason)
        threshold = model.shadow.agreement_threshold if model is not None else 0.05
        return [
            self._compared(record, identity, at, number, len(rows), row, remembered, threshold, reason)
            for number, row in enumerate(rows)
        ]

    @staticmethod
    def _compared(
        record: ShadowRecord,
        identity: str,
        at: datetime,
        number: int,
        count: int,
        row: Answer,
        remembered: Answers | None,
        threshold: float,
        reason: str | None,
    ) -> ShadowRow:
        difference: float | None = None
        agreement: bool | None = None
        if remembered is not None and len(remembered) == count and record.role != "failed":
            difference, agreement = apart(remembered[number][0], row[0], threshold)
        return ShadowRow(
            identity if count == 1 else row_id(identity, number),
            record.model,
            record.version,
            record.role,
            at,
            row[0],
            row[1],
            record.latency_us / 1000.0,
            record.status,
            difference,
            agreement,
            reason,
        )

    # ---- readers

    def _reader(self, name: str) -> tuple[Model | None, Reader]:
        """Compiled once a model, and again when the model changes."""
        model = self._models().get(name)
        if model is None:
            return None, _OPAQUE
        held = self._readers.get(name)
        if held is None or held[0] is not model:
            redaction = Redaction(model.privacy.drop, model.privacy.hash, self._secret)
            reader = build_reader(model.protocol, dict(model.extract), model.task, redaction)  # type: ignore[arg-type]
            held = self._readers[name] = (model, reader)
        return held


_NOTHING: Answer = (None, None)
_json_bytes = msgspec.json.Encoder().encode
_OPAQUE = build_reader("opaque")


def _with_margin(facts: dict[str, Any], row: Row) -> dict[str, Any]:
    """And by how much the best class leads, where the scores are probabilities: they themselves are not kept."""
    if row.scores is None or not is_distribution(row.scores):
        return facts
    best, second = nlargest(2, row.scores)
    return {**facts, "margin": best - second}


def document(value: object) -> str:
    """The JSON text of a value of JSON types. What no text can hold is escaped; the store will say what is wrong with it."""
    try:
        return _json_bytes(value).decode()
    except UnicodeEncodeError:
        return json.dumps(value)


def outcome(record: OutcomeRecord) -> OutcomeRow:
    """An outcome as the store keeps it. Its id is a digest, so that the same outcome received twice is one."""
    received = _instant(record.received_ns)
    return OutcomeRow(
        record.outcome_id
        or outcome_id(
            record.prediction_id,
            record.model,
            record.request_id,
            record.ground_truth,
            record.observed_ns,
            record.source,
        ),
        record.prediction_id or None,
        record.model or None,
        record.request_id or None,
        record.ground_truth,
        _instant(record.observed_ns) if record.observed_ns else received,
        received,
        record.source,
        record.actor,
    )


def _scalar(value: object) -> Scalar | None:
    if type(value) is float:  # by far the most frequent
        return value
    if isinstance(value, bool | str) or value is None:
        return value
    return float(value) if isinstance(value, int | float) else str(value)


def _instant(nanoseconds: int) -> datetime:
    return datetime.fromtimestamp(nanoseconds / 1e9, UTC)


def _known(length: int) -> int | None:
    return length if length >= 0 else None


def _redacted(record: PredictionRecord | ShadowRecord, model: Model | None) -> bool:
    """Whether privacy was applied when the record was written, whatever the configuration says now. A record from before that
    was noted is judged by the configuration.
    """
    if record.redacted is not None:
        return record.redacted
    return model is not None and bool(model.privacy.drop or model.privacy.hash)
