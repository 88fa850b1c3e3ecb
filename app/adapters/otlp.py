"""Spans to an OpenTelemetry collector: OTLP over HTTP with JSON, one attempt within a deadline. Needs no OpenTelemetry library.

Source: OpenTelemetry Protocol 1.x, "OTLP/HTTP" and "JSON Protobuf Encoding" (ids in hex, 64-bit integers as text).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx2
import msgspec

from app.domain.span import Span
from app.errors import UnavailableError

DEADLINE_S = 5.0
FAILED = 2  # STATUS_CODE_ERROR


class Otlp:
    """`endpoint` is the collector's base address; spans go to `/v1/traces` below it."""

    def __init__(self, endpoint: str, headers: Sequence[tuple[str, str]], host: str) -> None:
        self._url = endpoint.rstrip("/") + "/v1/traces"
        self._headers = {**dict(headers), "Content-Type": "application/json"}
        self._resource = {
            "attributes": [
                _attribute("service.name", "model-gateway"),
                _attribute("service.instance.id", host),
            ]
        }
        self._client = httpx2.AsyncClient(timeout=DEADLINE_S, follow_redirects=False, trust_env=False)

    async def export(self, spans: Sequence[Span]) -> None:
        """`UnavailableError` unless the collector takes them."""
        scope = {"scope": {"name": "model-gateway"}, "spans": [_span(span) for span in spans]}
        body = msgspec.json.encode({"resourceSpans": [{"resource": self._resource, "scopeSpans": [scope]}]})
        try:
            reply = await self._client.post(self._url, content=body, headers=self._headers)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise UnavailableError(f"{type(error).__name__}: {error}") from error
        if reply.status_code >= 300:
            raise UnavailableError(f"the collector answered {reply.status_code}")

    async def close(self) -> None:
        await self._client.aclose()


def _span(span: Span) -> dict[str, Any]:
    document: dict[str, Any] = {
        "traceId": span.trace_id,
        "spanId": span.span_id,
        "name": span.name,
        "kind": span.kind,
        "startTimeUnixNano": str(span.start_ns),
        "endTimeUnixNano": str(span.end_ns),
        "attributes": [_attribute(name, value) for name, value in span.attributes],
    }
    if span.parent_id:
        document["parentSpanId"] = span.parent_id
    if span.failed:
        document["status"] = {"code": FAILED}
    return document


def _attribute(name: str, value: str | int | float) -> dict[str, Any]:
    match value:
        case int():
            return {"key": name, "value": {"intValue": str(value)}}
        case float():
            return {"key": name, "value": {"doubleValue": value}}
    return {"key": name, "value": {"stringValue": value}}
