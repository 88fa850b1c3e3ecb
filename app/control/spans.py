"""Spans for OpenTelemetry, made of journal records: a worker does nothing for them but pass trace ids on and write them down.

Bounded and lossy on purpose: a collector that is away costs spans, which are counted, and nothing else. A record that is read a
second time after a crash gives the same span ids again.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Sequence

import structlog

from app.domain.prediction import format_id
from app.domain.span import Span
from app.errors import UnavailableError
from app.journal.records import PredictionRecord, Record, ShadowRecord
from app.link.messages import Series

log = structlog.get_logger(__name__)

WAITING = 10_000
AT_ONCE = 500
EVERY_S = 1.0
SERVER, CLIENT = 2, 3


Export = Callable[[Sequence[Span]], Awaitable[None]]
"""Hands spans to a collector; `UnavailableError` when it does not take them."""


def span_of(record: Record) -> Span | None:
    """The span of a record that was sampled (traceparent's flag 01), else None. Names as in OpenTelemetry's conventions for HTTP."""
    if isinstance(record, PredictionRecord):
        parts = record.traceparent.split("-")
        about: list[tuple[str, str | int | float]] = [
            ("http.request.method", record.method),
            ("url.path", record.target.partition("?")[0][:500]),
            ("http.response.status_code", record.status),
            ("model_gateway.reason", record.reason),
        ]
        if record.first_byte_us >= 0:
            about.append(("model_gateway.first_byte_ms", record.first_byte_us / 1000.0))
        name, kind = f"{record.method} {record.model}", SERVER
    elif isinstance(record, ShadowRecord):
        parts = record.traceparent.split("-")
        about = [("http.response.status_code", record.status)] if record.status else []
        name, kind = f"{record.role} {record.model}", CLIENT
    else:
        return None
    if len(parts) != 4 or not int(parts[3], 16) & 1:
        return None
    about += [
        ("model_gateway.model", record.model),
        ("model_gateway.version", record.version),
        ("model_gateway.role", record.role),
        ("model_gateway.prediction_id", format_id(record.prediction_id)),
    ]
    failed = bool(record.error) or record.status >= 500
    if failed:
        about.append(("error.type", record.error or str(record.status)))
    end_ns = record.at_ns + record.latency_us * 1000
    return Span(
        parts[1], parts[2], record.parent_span, name, kind, record.at_ns, end_ns, failed, tuple(about)
    )


class Spans:
    """`heed` each record, and `run` as a task."""

    def __init__(self, export: Export) -> None:
        self._export = export
        self._waiting: deque[Span] = deque()
        self.counts: Counter[str] = Counter()  # exported, dropped

    def heed(self, record: Record) -> None:
        """Take note of a record. Never waits, never raises."""
        try:
            span = span_of(record)
        except ValueError:  # no flags that could be read
            span = None
        if span is not None:
            if len(self._waiting) >= WAITING:
                self._waiting.popleft()
                self.counts["dropped"] += 1
            self._waiting.append(span)

    async def run(self) -> None:
        """The owner runs this as a task."""
        while True:
            await asyncio.sleep(EVERY_S)
            await self.send()

    async def send(self) -> None:
        """Everything that waits, in parts. What a collector refuses, or is not there to take, is dropped."""
        while self._waiting:
            spans = [self._waiting.popleft() for _ in range(min(AT_ONCE, len(self._waiting)))]
            try:
                await self._export(spans)
            except UnavailableError as error:
                self.counts["dropped"] += len(spans)
                log.info("spans could not be exported", spans=len(spans), error=str(error))
                return
            self.counts["exported"] += len(spans)

    def series(self) -> Iterator[Series]:
        for result, count in self.counts.items():
            yield Series("gateway_spans_total", (result,), count)
