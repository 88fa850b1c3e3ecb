"""`/metrics`: what is in it, in both formats, and that it stays small whatever happens."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from app.control.statistics import CATALOGUE, MAX_SERIES
from app.link.buckets import DURATION_BOUNDS
from app.link.messages import Series
from tests.control_parts import START, Control, control, model, prediction, store_rows


async def scrape(parts: Control, accept: str = "") -> httpx2.Response:
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app=parts.application), base_url="http://g"
    ) as client:
        return await client.get("/metrics", headers={"Accept": accept})


async def samples(parts: Control) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = (await scrape(parts)).text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def workers(parts: Control, writer: str, *series: Series) -> None:
    parts.link.totals.hello(writer, writer)
    parts.link.totals.update(writer, list(series))


async def test_worker_series_are_added_up_and_histograms_are_cumulative(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        counts = tuple(range(len(DURATION_BOUNDS) + 1))
        for writer in ("w0", "w1"):
            workers(
                parts,
                writer,
                Series("gateway_requests_total", ("credit", "v1", "production", "200"), 7),
                Series("gateway_request_duration_seconds", ("credit", "v1", "production"), 1.5, counts),
            )
        found = await samples(parts)
        labels = (("model", "credit"), ("role", "production"), ("version", "v1"))
        assert found["gateway_requests_total", (("code", "200"), *labels)] == 14
        assert found["gateway_request_duration_seconds_count", labels] == 2 * sum(counts)
        assert found["gateway_request_duration_seconds_sum", labels] == 3.0
        bucket = tuple(sorted((*labels, ("le", str(DURATION_BOUNDS[2])))))
        assert found["gateway_request_duration_seconds_bucket", bucket] == 2 * (0 + 1 + 2)


async def test_what_the_control_process_knows_is_there(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        patch = {"candidate": "v2", "canary_percent": 5.0, "canary_enabled": True}
        await parts.flags.change("credit", patch, actor="ops", origin="", reason="")
        parts.controller.rollbacks["credit", "v2", "guard"] += 1
        parts.clock.turn(4.0)
        found = await samples(parts)
        of_model = (("model", "credit"),)
        assert found["gateway_canary_percent", of_model] == 5.0
        assert found["gateway_flags_revision", of_model] == 1
        assert found["gateway_flags_stale_seconds", ()] == 4.0
        assert (
            found["gateway_rollbacks_total", (("model", "credit"), ("reason", "guard"), ("version", "v2"))]
            == 1
        )
        await parts.flags.change("credit", {"disabled_versions": ("v2",)}, actor="ops", origin="", reason="")
        assert (await samples(parts))["gateway_canary_percent", of_model] == 0.0


async def test_the_monitors_figures_are_there_after_its_look(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        rows = [prediction(START, number) for number in range(100)]
        await store_rows(parts.store, rows, lambda index: float(index % 2))
        parts.clock.turn(40 * 86_400)
        await parts.monitor.look()
        found = await samples(parts)
        assert found["gateway_label_coverage", (("model", "credit"), ("version", "v1"))] == 1.0
        assert (
            found["gateway_performance", (("metric", "accuracy"), ("model", "credit"), ("version", "v1"))]
            == 1.0
        )
        assert found["gateway_retraining_decision", (("model", "credit"), ("urgency", "critical"))] == 0.0


@pytest.mark.parametrize(
    "accept", ["application/openmetrics-text; version=1.0.0", "application/openmetrics-text"]
)
async def test_openmetrics_is_given_to_who_asks_for_it(tmp_path: Path, accept: str) -> None:
    async with control(tmp_path) as parts:
        reply = await scrape(parts, f"{accept},text/plain;q=0.5")
        assert reply.headers["content-type"].startswith("application/openmetrics-text")
        assert reply.text.endswith("# EOF\n")
        assert {family.name for family in openmetrics_families(reply.text)} >= {
            "gateway_requests",
            "gateway_canary_percent",
        }


async def test_the_plain_format_is_the_default(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        assert (await scrape(parts)).headers["content-type"].startswith("text/plain; version=0.0.4")


async def test_every_metric_has_help_base_units_and_only_bounded_labels() -> None:
    bounded = {
        "model",
        "version",
        "role",
        "code",
        "reason",
        "kind",
        "result",
        "metric",
        "feature",
        "urgency",
        "dependency",
        "replica",  # a place in a version's list of URLs
    }
    for name, metric in CATALOGUE.items():
        assert name.startswith("gateway_")
        assert metric.help.endswith(".")
        assert set(metric.labels) <= bounded, name
        assert (metric.kind == "counter") == name.endswith("_total"), name
        assert "_ms" not in name


async def test_no_number_of_distinct_series_makes_the_exposition_large(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        for writer in range(3):
            flood = [
                Series("gateway_requests_total", (f"m{writer}", f"v{number}", "production", "200"), 1)
                for number in range(MAX_SERIES)
            ]
            workers(parts, f"w{writer}", *flood)
        text = (await scrape(parts)).text
        assert (
            len([line for line in text.splitlines() if line.startswith("gateway_requests_total{")])
            <= MAX_SERIES
        )
        assert parts.link.totals.refused > 0


async def test_label_values_are_escaped(tmp_path: Path) -> None:
    async with control(tmp_path, model()) as parts:
        workers(parts, "w0", Series("gateway_refused_total", ('a"b\\c\nd',), 1))
        found = await samples(parts)
        assert found["gateway_refused_total", (("reason", 'a"b\\c\nd'),)] == 1


async def test_it_is_open_and_answers_while_the_store_is_down(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        parts.store.down = True
        assert (await scrape(parts)).status_code == 200
