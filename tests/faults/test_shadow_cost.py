"""What production's clients notice of a shadow that does everything wrong: nothing but the copies' own work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from app.domain.flags import Flags
from app.domain.model import Match, Model, Shadow, Version
from tests.client import post
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
@pytest.mark.parametrize(
    "answers", [pytest.param(100, id="short"), pytest.param(1000, id="long", marks=pytest.mark.faults)]
)
async def test_a_failing_shadow_costs_production_next_to_nothing(
    behaviour: str, answers: int, record_property: Callable[[str, object], None]
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
            alone += await took(worker, "alone", answers)
            shadowed += await took(worker, "shadowed", answers)
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
        record_property(
            "figure",
            f"{SHADOWS[behaviour]}: production p99 {quantile(shadowed, 0.99) * 1000:.1f} ms, {quantile(alone, 0.99) * 1000:.1f} ms "
            f"without ({ratio:.2f}×); peak memory {grown:+.0f} MiB",
        )
