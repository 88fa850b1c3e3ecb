"""What production's clients notice of a shadow that does everything wrong: nothing but the copies' own work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from app.domain.flags import Flags
from app.domain.model import Match, Model, Shadow, Version
from tests.client import post
from tests.faults.measured import measured
from tests.faults.observed import footprint, forget_peak, peak_mib, quantile
from tests.faults.traffic import Traffic
from tests.misbehaving import MisbehavingUpstream
from tests.worker import RunningWorker, eventually, running_worker

SHADOWS = {
    "hang": "hang",
    "reset_before_headers": "crash",
    "drip": "drip",
    "endless_body": "10 GB",
}


def flags(name: str, *shadows: str) -> Flags:
    return Flags(name, 1, "v1", None, 0.0, False, True, shadows, (), "salt", "")


def models(production: str, shadow: str) -> list[Model]:
    versions = (Version("v1", (production,), timeout_s=5.0), Version("v2", (shadow,), timeout_s=1.0))
    policy = Shadow(timeout_s=1.0, max_concurrency=8)
    return [
        Model(name, "v1", versions, match=Match(f"/{name}", strip=True), shadow=policy)
        for name in ("alone", "shadowed")
    ]


async def took(worker: RunningWorker, model: str, answers: int) -> list[float]:
    async with Traffic(worker.port, request=lambda _: post(f"/{model}/predict"), pause_s=0.005) as traffic:
        await traffic.more(answers)
    traffic.all_good()
    assert {a.headers["x-model-version"] for a in traffic.answers} == {"v1"}
    return traffic.took_s


@pytest.mark.parametrize("behaviour", SHADOWS, ids=list(SHADOWS.values()))
async def test_a_failing_shadow_is_bounded_and_leaves_nothing_behind(
    behaviour: str, record_property: Callable[[str, object], None]
) -> None:
    with (
        MisbehavingUpstream(default="ok") as good,
        MisbehavingUpstream(default=behaviour) as bad,
        running_worker(models(good.url, bad.url), [flags("alone"), flags("shadowed", "v2")]) as worker,
    ):
        await took(worker, "shadowed", 50)
        resident = footprint(worker.process.pid).resident_mib
        forget_peak(worker.process.pid)
        alone: list[float] = []
        shadowed: list[float] = []
        for _ in range(4):  # turn about, so that whatever else the machine does meets both
            alone += await took(worker, "alone", 100)
            shadowed += await took(worker, "shadowed", 100)
        ratio = quantile(shadowed, 0.99) / quantile(alone, 0.99)
        grown = peak_mib(worker.process.pid) - resident
        # Both share two cores with the servers and clients of this test: an order of magnitude counts here.
        assert ratio < 10
        assert grown < 64
        # Bounded: at most eight copies at a time; they end by their deadline, and nothing stays behind.
        await asyncio.to_thread(eventually, lambda: bad.open_connections == 0, 10.0, "the last copy's end")
        kept = sum(
            record.role == "shadow" for record in worker.shadows("shadowed")
        )  # not those that measure noise
        assert 0 < kept <= len(shadowed) + 50 + 4 * 8
        record_property("figure", f"{SHADOWS[behaviour]}: peak memory {grown:+.0f} MiB")


@pytest.mark.faults
def test_a_failing_shadow_costs_production_less_than_a_twentieth_of_its_p99(
    record_property: Callable[[str, object], None],
) -> None:
    """The worker has a core of its own; clients and model servers share the others, the failing one at the lowest priority."""
    found = measured("benchmarks.shadow_faults")
    costs = ", ".join(f"{name} {ratio:.3f}×" for name, ratio in found["ratios"].items())
    record_property(
        "figure", f"production's p99 ÷ without a shadow, which {costs}; {found['failed']} answers failed"
    )
    assert found["failed"] == 0
    assert max(found["ratios"].values()) < 1.05
