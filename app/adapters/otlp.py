"""Spans to an OpenTelemetry collector, by OpenTelemetry's own exporter: OTLP over HTTP, protobuf. Needs `model-gateway[otel]`.

The exporter knows the protocol: what is worth another try and when, compression, certificates. What `telemetry` has no key for it
takes from OpenTelemetry's own variables: OTEL_EXPORTER_OTLP_CERTIFICATE, …_CLIENT_CERTIFICATE, …_CLIENT_KEY, …_COMPRESSION. It blocks,
so it runs in a thread; all tries of one export end within the deadline.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import requests
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from app.domain.span import Span
from app.errors import UnavailableError

DEADLINE_S = 5.0
_KINDS = {2: SpanKind.SERVER, 3: SpanKind.CLIENT}
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_UNSET, _FAILED = Status(StatusCode.UNSET), Status(StatusCode.ERROR)


class Otlp:
    """`endpoint` is the collector's base address; spans go to `/v1/traces` below it. One a process."""

    def __init__(self, endpoint: str, headers: Sequence[tuple[str, str]], host: str) -> None:
        session = requests.Session()
        session.trust_env = False  # no proxy and no .netrc that happens to be there
        self._exporter = OTLPSpanExporter(
            endpoint=endpoint.rstrip("/") + "/v1/traces",
            headers=dict(headers),
            timeout=DEADLINE_S,
            session=session,
        )
        self._resource = Resource({"service.name": "model-gateway", "service.instance.id": host})
        self._scope = InstrumentationScope("model-gateway")
        self._said = _Said()

    async def export(self, spans: Sequence[Span]) -> None:
        """`UnavailableError` unless the collector takes them."""
        result = await asyncio.to_thread(self._exporter.export, [self._readable(span) for span in spans])
        if result is not SpanExportResult.SUCCESS:
            raise UnavailableError(self._said.last)

    def _readable(self, span: Span) -> ReadableSpan:
        parent = _context(span.trace_id, span.parent_id, is_remote=True) if span.parent_id else None
        return ReadableSpan(
            span.name,
            _context(span.trace_id, span.span_id, is_remote=False),
            parent,
            self._resource,
            dict(span.attributes),
            kind=_KINDS[span.kind],
            status=_FAILED if span.failed else _UNSET,
            start_time=span.start_ns,
            end_time=span.end_ns,
            instrumentation_scope=self._scope,
        )

    async def close(self) -> None:
        self._exporter.shutdown()  # type: ignore[no-untyped-call]


def _context(trace_id: str, span_id: str, *, is_remote: bool) -> SpanContext:
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote, _SAMPLED)


class _Said(logging.Handler):
    """What the exporter says of a failure, which it logs and does not return: it goes into our own message instead."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last = "the collector did not take them"
        exporter = logging.getLogger("opentelemetry.exporter")
        exporter.handlers = [self]
        exporter.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        self.last = record.getMessage()
