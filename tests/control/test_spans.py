"""Spans from journal records to a collector: what was sampled, under the caller's trace, and never in anybody's way."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from app.adapters.otlp import Otlp
from app.config import Settings
from app.control.spans import WAITING, Spans, span_of
from app.errors import ConfigurationError, UnavailableError
from app.journal.records import OutcomeRecord, ShadowRecord
from app.main import serve
from tests.journal_records import predicted
from tests.misbehaving import MisbehavingUpstream
from tests.ports import free_port
from tests.system import PLAIN, running_gateway
from tests.worker import eventually

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER, OWN = "00f067aa0ba902b7", "b7ad6b7169203331"
SENT = f"00-{TRACE}-{OWN}-01"


def test_a_sampled_record_becomes_a_span_below_the_callers() -> None:
    record = predicted(
        traceparent=SENT, parent_span=CALLER, target="/predict?user=7", first_byte_us=1500, latency_us=2000
    )
    span = span_of(record)
    assert span is not None
    assert (span.trace_id, span.span_id, span.parent_id) == (TRACE, OWN, CALLER)
    assert span.end_ns - span.start_ns == 2_000_000
    about = dict(span.attributes)
    assert about["url.path"] == "/predict"  # a query may hold what privacy takes out of bodies
    assert about["model_gateway.first_byte_ms"] == 1.5
    assert not span.failed


@pytest.mark.parametrize("traceparent", ["", SENT[:-1] + "0", "garbage", f"00-{TRACE}-{OWN}-zz"])
def test_what_was_not_sampled_is_no_span(traceparent: str) -> None:
    spans = Spans(_nowhere)
    spans.heed(predicted(traceparent=traceparent))
    spans.heed(OutcomeRecord(1, "p", "", "", 1.0, 1, "", ""))
    assert not spans.counts
    assert not spans._waiting


async def _nowhere(spans: Any) -> None:
    raise UnavailableError("no collector")


async def test_a_collector_that_is_away_costs_counted_spans_and_nothing_else() -> None:
    spans = Spans(_nowhere)
    for _ in range(WAITING + 3):
        spans.heed(
            ShadowRecord(
                b"0" * 16, 1, "m", "v", "shadow", 0, 1, "", "", 0, b"", "timeout", -1, False, SENT, CALLER
            )
        )
    assert spans.counts["dropped"] == 3
    await spans.send()
    assert spans.counts == {"dropped": 503}
    assert [(one.name, one.labels) for one in spans.series()] == [("gateway_spans_total", ("dropped",))]


async def test_spans_are_sent_as_otlp_says() -> None:
    """Read with OpenTelemetry's own definitions of its messages."""
    with MisbehavingUpstream() as collector:
        otlp = Otlp(collector.url + "/", [("X-Key", "k")], "host")
        failed = span_of(predicted(traceparent=SENT, parent_span=CALLER, status=503))
        assert failed is not None
        await otlp.export([failed])
        collector.default = "error_500"
        with pytest.raises(UnavailableError, match="500"):
            await otlp.export([failed])
        await otlp.close()
        sent = collector.requests[0]
    assert (sent.target, sent.header("x-key")) == ("/v1/traces", "k")
    assert sent.header("content-type") == "application/x-protobuf"
    [received] = ExportTraceServiceRequest.FromString(sent.body).resource_spans
    assert _about(received.resource) == {"service.name": "model-gateway", "service.instance.id": "host"}
    [scope] = received.scope_spans
    [span] = scope.spans
    assert (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()) == (TRACE, OWN, CALLER)
    assert (span.name, span.kind, span.status.code) == (
        failed.name,
        Span.SPAN_KIND_SERVER,
        Status.STATUS_CODE_ERROR,
    )
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (failed.start_ns, failed.end_ns)
    assert _about(span) == dict(failed.attributes)


async def test_a_collector_that_never_answers_is_given_up_within_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.adapters.otlp.DEADLINE_S", 0.2)
    with MisbehavingUpstream(default="hang") as collector:
        otlp = Otlp(collector.url, [], "host")
        span = span_of(predicted(traceparent=SENT))
        assert span is not None
        async with asyncio.timeout(10):
            with pytest.raises(UnavailableError):
                await otlp.export([span])
        await otlp.close()


def test_a_missing_exporter_is_said_at_the_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("app.main.find_spec", lambda name: None)
    settings = Settings(data_dir=str(tmp_path), telemetry={"otlp_endpoint": "http://127.0.0.1:4318"})
    with pytest.raises(ConfigurationError, match=r"telemetry\.otlp_endpoint: .*model-gateway\[otel\]"):
        serve(settings, frozenset({"proxy"}))


def _about(described: Resource | Span) -> dict[str, object]:
    """Its attributes, each value of the kind that it was given."""
    return {one.key: getattr(one.value, str(one.value.WhichOneof("value"))) for one in described.attributes}


def _spans(collector: MisbehavingUpstream) -> list[Span]:
    return [
        span
        for request in tuple(collector.requests)
        for received in ExportTraceServiceRequest.FromString(request.body).resource_spans
        for scope in received.scope_spans
        for span in scope.spans
    ]


async def test_a_gateway_begins_traces_goes_on_with_others_and_exports_both(tmp_path: Path) -> None:
    with MisbehavingUpstream() as upstream, MisbehavingUpstream() as collector:
        models = {
            "credit": {
                "match": {"path_prefix": "/"},
                "production": "v1",
                "versions": {name: {"url": f"{upstream.url}/{name}"} for name in ("v1", "v2")},
                "shadow": {"versions": ["v2"], "noise_sample": 0.0},
            }
        }
        telemetry = {"otlp_endpoint": collector.url}
        with running_gateway(tmp_path, models, port=free_port(), telemetry=telemetry) as gateway:
            header = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
            for headers in (header, {}, {"traceparent": f"00-{TRACE}-{CALLER}-00"}):
                reply = await asyncio.to_thread(
                    httpx2.post,
                    f"{gateway.url}/ok",
                    headers=headers,
                    trust_env=False,
                    timeout=10,
                    verify=PLAIN,
                )
                assert reply.status_code == 200
            eventually(lambda: len(_spans(collector)) >= 4, 20.0, "four spans")
            text = httpx2.get(f"{gateway.url}/metrics", trust_env=False, verify=PLAIN).text
            assert 'gateway_spans_total{result="exported"} 4.0' in text
    spans = _spans(collector)
    received = {str(request.header("traceparent"))[:52] for request in upstream.requests}
    assert {f"00-{span.trace_id.hex()}-{span.span_id.hex()}" for span in spans} <= received
    ours = [span for span in spans if span.trace_id.hex() == TRACE]
    begun = [span for span in spans if span.trace_id.hex() != TRACE]
    for pair in (ours, begun):
        request_span, copy = sorted(pair, key=lambda span: span.kind)
        assert (request_span.kind, copy.kind) == (Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT)
        assert copy.parent_span_id == request_span.span_id
        assert request_span.parent_span_id.hex() == (CALLER if pair is ours else "")
