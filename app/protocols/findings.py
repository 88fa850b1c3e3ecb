"""What a reader notices while it reads one exchange, and how request and reply are put together into rows.

One `Findings` lives for one exchange; readers share nothing between exchanges.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from app.protocols.record import (
    MAX_ROWS,
    Exchange,
    Extraction,
    Features,
    Output,
    Reader,
    Reason,
    Row,
    UnreadableError,
)

MAX_NAMED = 100
"""Names listed in one fact."""
_MAX_DETAIL = 500


class Findings:
    """Collects the first reason, its details, names of non-finite values, and facts."""

    __slots__ = ("_details", "facts", "nonfinite", "reason")

    def __init__(self) -> None:
        self.reason: Reason | None = None
        self._details: list[str] = []
        self.nonfinite: set[str] = set()
        self.facts: dict[str, Any] = {}

    def note(self, reason: Reason, detail: str = "") -> None:
        """Keep a reason: the first one is the exchange's, the details of all are kept."""
        if self.reason is None:
            self.reason = reason
        if detail and len(self._details) < 4 and detail not in self._details:
            self._details.append(detail)

    def too_large(self, name: str, elements: int) -> None:
        """Name a value that is left out because of its size."""
        listed: dict[str, int] = self.facts.setdefault("too_large", {})
        if len(listed) < MAX_NAMED:
            listed[name] = elements

    def extraction(self, features: list[Features] | None, outputs: list[Output] | None) -> Extraction:
        """Pair feature rows with outputs by position. Where the counts differ, the features are kept and no output is guessed."""
        if outputs is not None and len(outputs) == 1 and (features is None or len(features) == 1):
            prediction, confidence, scores = outputs[0]  # by far the most frequent: one row
            one = Row(features[0] if features is not None else None, prediction, confidence, scores)
            return self._extraction((one,))
        if features is not None and outputs is not None and len(features) != len(outputs):
            self.note(
                Reason.ROW_COUNT_MISMATCH, f"{len(features)} rows in the request, {len(outputs)} in the reply"
            )
            outputs = None
        if features is None:
            rows = tuple([Row(None, *output) for output in (outputs or ())[:MAX_ROWS]])
        elif outputs is None:
            rows = tuple([Row(row) for row in features])
        else:
            rows = tuple([Row(row, *output) for row, output in zip(features, outputs, strict=True)])
        return self._extraction(rows)

    def _extraction(self, rows: tuple[Row, ...]) -> Extraction:
        if self.nonfinite:
            self.facts["nonfinite"] = sorted(self.nonfinite)[:MAX_NAMED]
        detail = "; ".join(self._details)[:_MAX_DETAIL] if self._details else None
        return Extraction(rows, self.reason, self.facts, detail)


FeaturesOf: TypeAlias = Callable[[Exchange, Findings], "list[Features]"]
OutputsOf: TypeAlias = Callable[[Exchange, Findings, "int | None"], "list[Output]"]


def two_sided(
    features_of: FeaturesOf, outputs_of: OutputsOf, inference_suffixes: tuple[str, ...] = ()
) -> Reader:
    """A reader from one function for the request and one for the reply; what one side lacks does not spoil the other.

    `outputs_of` is told the number of rows in the request, None when it is unknown. Both may raise `UnreadableError`. A path that
    ends in none of `inference_suffixes` (when there are any) is no inference call.
    """

    def read(exchange: Exchange) -> Extraction:
        if inference_suffixes and exchange.path:
            path = exchange.path.partition("?")[0].rstrip("/")
            if not path.endswith(inference_suffixes):
                return Extraction((), Reason.NOT_INFERENCE, {}, f"path {path[:200]!r}")
        findings = Findings()
        features: list[Features] | None = None
        outputs: list[Output] | None = None
        try:
            if not exchange.is_answer_only:
                features = features_of(exchange, findings)
            if exchange.redacted and not features:
                features = None  # every column or tensor was dropped, and the rows with them
        except UnreadableError as fault:
            findings.note(fault.reason, f"request: {fault.detail}")
        if not 200 <= exchange.status < 300:
            findings.note(Reason.ERROR_STATUS, f"status {exchange.status}")
        else:
            try:
                outputs = outputs_of(
                    exchange, findings, exchange.expected_rows if features is None else len(features)
                )
            except UnreadableError as fault:
                findings.note(fault.reason, f"reply: {fault.detail}")
        return findings.extraction(features, outputs)

    return read
