"""`/metrics`: the workers' series and the control process's own, in the text format that the scraper asks
for. Open to all: no value here names a user, a path or an id.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from app.api.routes import GatewayRoute, open_to_all
from app.api.services import Parts, Services
from app.control.statistics import CATALOGUE, Key, Metric, Sum, add_up
from app.link.buckets import DURATION_BOUNDS
from app.link.messages import Series

router = APIRouter(route_class=GatewayRoute, tags=["metrics"])

_BOUNDS = (*(str(bound) for bound in DURATION_BOUNDS), "+Inf")

Source = Callable[[], Iterable[Series]]


class _Exposed(Collector):
    """One scrape's families. Made anew each time: nothing is kept that could grow."""

    def __init__(self, sums: Mapping[Key, Sum]) -> None:
        self._sums = sums

    def collect(self) -> Iterator[Family]:
        by_name: dict[str, list[tuple[tuple[str, ...], Sum]]] = defaultdict(list)
        for (name, labels), value in self._sums.items():
            by_name[name].append((labels, value))
        for name, metric in CATALOGUE.items():
            yield _family(name, metric, by_name.get(name, []))


def _family(name: str, metric: Metric, samples: Iterable[tuple[tuple[str, ...], Sum]]) -> Family:
    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(name, metric.help, labels=metric.labels)
        for labels, value in samples:
            histogram.add_metric(labels, list(_cumulative(value.buckets)), value.value)
        return histogram
    family = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    made = family(name, metric.help, labels=metric.labels)
    for labels, value in samples:
        made.add_metric(labels, value.value)
    return made


def _cumulative(counts: Iterable[int]) -> Iterator[tuple[str, float]]:
    below = 0
    for bound, count in zip(_BOUNDS, counts, strict=True):
        below += count
        yield bound, float(below)


def own_series(services: Services) -> Iterator[Series]:
    """What the control process itself knows at this moment."""
    for flags in services.flags.all():
        share = (
            flags.canary_percent
            if flags.canary_enabled and flags.candidate not in flags.disabled_versions
            else 0.0
        )
        yield Series("gateway_canary_percent", (flags.model,), share)
        yield Series("gateway_flags_revision", (flags.model,), flags.revision)
    yield Series("gateway_flags_stale_seconds", (), services.flags.stale_seconds())
    yield Series("gateway_flags_refused_total", (), services.flags.refused)
    yield Series("gateway_workers", (), len(services.link.workers))
    for (model, result), count in services.outcomes.counts.items():
        yield Series("gateway_feedback_total", (model, result), count)
    yield from services.controller.series()
    yield from services.monitor.series()
    yield Series("gateway_metrics_refused_total", (), services.link.totals.refused)


@router.get("/metrics", **open_to_all(answers=("text/plain", "application/openmetrics-text")))
async def metrics(request: Request, parts: Parts) -> Response:
    """Prometheus text or OpenMetrics, as `Accept` asks."""
    sums = await parts.link.collect()
    for source in (lambda: own_series(parts), *parts.series):
        add_up(sums, source())
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Exposed(sums))
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(await asyncio.to_thread(encode, registry), headers={"Content-Type": content_type})
