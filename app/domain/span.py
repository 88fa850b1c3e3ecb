"""One call as a tracing system sees it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """Ids are lower-case hex: 32 digits the trace's, 16 a span's (W3C Trace Context); times are nanoseconds since the epoch."""

    trace_id: str
    span_id: str
    parent_id: str  # empty: none
    name: str
    kind: int  # as in opentelemetry/proto/trace/v1/trace.proto: 2 server, 3 client
    start_ns: int
    end_ns: int
    failed: bool
    attributes: tuple[tuple[str, str | int | float], ...]
