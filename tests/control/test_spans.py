"""Spans from journal records to a collector: what was sampled, under the caller's trace, and never in anybody's way."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.adapters.otlp import Otlp
from app.control.spans import WAITING, Spans, span_of
from app.errors import UnavailableError
from app.journal.records import OutcomeRecord, ShadowRecord
from tests.journal_records import predicted
from tests.misbehaving import MisbehavingUpstream
from tests.system import free_port, running_gateway
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
    with MisbehavingUpstream() as collector:
        otlp = Otlp(collector.url + "/", [("X-Key", "k")], "host")
        failed = span_of(predicted(traceparent=SENT, status=503))
        assert failed is not None
        await otlp.export([failed])
        collector.default = "error_500"
        with pytest.raises(UnavailableError, match="500"):
            await otlp.export([failed])
        await otlp.close()
        sent = collector.requests[0]
    assert (sent.target, sent.header("x-key")) == ("/v1/traces", "k")
    document = json.loads(sent.body)["resourceSpans"][0]
    assert {"key": "service.name", "value": {"stringValue": "model-gateway"}} in document["resource"][
        "attributes"
    ]
    [span] = document["scopeSpans"][0]["spans"]
    assert (span["traceId"], span["kind"], span["status"]) == (TRACE, 2, {"code": 2})
    assert "parentSpanId" not in span
    assert span["startTimeUnixNano"].isdigit()
    assert {"key": "http.response.status_code", "value": {"intValue": "503"}} in span["attributes"]


def _spans(collector: MisbehavingUpstream) -> list[dict[str, Any]]:
    return [
        span
        for request in tuple(collector.requests)
        for span in json.loads(request.body)["resourceSpans"][0]["scopeSpans"][0]["spans"]
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
                    httpx2.post, f"{gateway.url}/ok", headers=headers, trust_env=False, timeout=10
                )
                assert reply.status_code == 200
            eventually(lambda: len(_spans(collector)) >= 4, 20.0, "four spans")
            text = httpx2.get(f"{gateway.url}/metrics", trust_env=False).text
            assert 'gateway_spans_total{result="exported"} 4.0' in text
    spans = _spans(collector)
    received = {str(request.header("traceparent"))[:52] for request in upstream.requests}
    assert {f"00-{span['traceId']}-{span['spanId']}" for span in spans} <= received
    ours = [span for span in spans if span["traceId"] == TRACE]
    begun = [span for span in spans if span["traceId"] != TRACE]
    for request_span, copy in ((ours[0], ours[1]), (begun[0], begun[1])):
        if request_span["kind"] != 2:
            request_span, copy = copy, request_span
        assert (request_span["kind"], copy["kind"]) == (2, 3)
        assert copy["parentSpanId"] == request_span["spanId"]
        assert request_span.get("parentSpanId") == (CALLER if request_span in ours else None)
