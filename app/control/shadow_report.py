"""What a version would have answered, beside what production did: agreement, differences, worst cases,
latency, right and wrong.

From the newest stored pairs, a bounded number; what was left out is said in the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from math import hypot
from typing import Any

import numpy as np

from app.control.briefly import Briefly
from app.control.clock import Clock
from app.control.performance import figures_of
from app.control.ports import Row, Store
from app.control.registry import Registry
from app.domain.comparison import Comparisons, ComparisonSummary, compare
from app.domain.model import Model
from app.domain.performance.maturity import CoverageCell
from app.errors import NotFoundError

MAX_PAIRS = 20_000
MAX_OWN = 5_000
KEEP_S = 2.0
_QUANTILES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))


class ShadowReports:
    def __init__(self, registry: Registry, store: Store, clock: Clock) -> None:
        self._registry = registry
        self._store = store
        self._kept: Briefly[Row] = Briefly(clock, KEEP_S)

    async def report(self, model: str, version: str, since: datetime | None = None) -> Row:
        """`NotFoundError` for an unknown version; with no pairs the counts are 0 and the rates null."""
        known = self._registry.model(model)
        if known.version(version) is None:
            raise NotFoundError(f"{version!r} is no version of {model!r}")
        return await self._kept.get((model, version, since), lambda: self._report(known, version, since))

    async def _report(self, model: Model, version: str, since: datetime | None) -> Row:
        rows = await self._store.shadow_pairs(model.name, version, since, MAX_PAIRS)
        # One version answering a request twice shows the noise of the model itself.
        incumbent = next((row["production_version"] for row in rows), version)
        twice = (
            rows
            if incumbent == version
            else await self._store.shadow_pairs(model.name, incumbent, since, MAX_OWN)
        )
        own = [row for row in twice if row["production_version"] == incumbent]
        found = await asyncio.to_thread(_summary, model, version, rows, own)
        return {**found, "worst": await self._with_inputs(found["worst"])}

    async def _with_inputs(self, cases: Sequence[Row]) -> list[Row]:
        """What was asked in each of the worst cases, and what production said: without it nobody can tell why they differ."""
        asked = {
            row["prediction_id"]: row
            for row in await self._store.offered([c["prediction_id"] for c in cases])
        }
        return [
            {**case, "features": known.get("features"), "prediction": known.get("prediction")}
            for case in cases
            for known in (asked.get(case["prediction_id"], {}),)
        ]


def _summary(model: Model, version: str, rows: Sequence[Row], own: Sequence[Row]) -> Row:
    pairs = [row for row in rows if row["production_version"] != version]
    summary = _compared(model, pairs).summary()
    noise = _compared(model, own).summary() if own else None
    return {
        "model": model.name,
        "version": version,
        "n": summary.pairs,
        "newest_only": len(rows) == MAX_PAIRS,
        **{name: value for name, value in asdict(summary).items() if name != "pairs"},
        "latency_ms": {
            "production": _latency(row["latency_ms"] for row in pairs),
            "shadow": _latency(row["shadow_latency_ms"] for row in pairs if _answered(row["shadow_status"])),
        },
        "failures": {
            "production": sum(not _answered(row["status"]) for row in pairs),
            "shadow": sum(not _answered(row["shadow_status"]) for row in pairs),
        },
        "labelled": _labelled(model, pairs),
        "noise_floor": None if noise is None else {"n": noise.pairs, "agreement_rate": noise.agreement_rate},
        "excess_disagreement": _excess(summary, noise),
    }


def _excess(summary: ComparisonSummary, noise: ComparisonSummary | None) -> dict[str, float] | None:
    """Disagreement beyond the incumbent's with itself: the difference of the two rates and its 95 % interval (Newcombe,
    Statistics in Medicine 17, 1998, method 10). None while either is unknown.
    """
    if noise is None or summary.agreement_rate is None or noise.agreement_rate is None:
        return None
    apart, own = 1.0 - summary.agreement_rate, 1.0 - noise.agreement_rate
    (low, high), (own_low, own_high) = summary.agreement_interval, noise.agreement_interval
    low, high, own_low, own_high = 1.0 - high, 1.0 - low, 1.0 - own_high, 1.0 - own_low
    return {
        "rate": apart - own,
        "low": apart - own - hypot(apart - low, own_high - own),
        "high": apart - own + hypot(high - apart, own - own_low),
    }


def _compared(model: Model, pairs: Iterable[Row]) -> Comparisons:
    comparisons = Comparisons()
    for row in pairs:
        if _answered(row["status"]) and _answered(row["shadow_status"]):
            result = compare(row["prediction"], row["shadow_prediction"], model.shadow.agreement_threshold)
            comparisons.add(row["prediction_id"], result)
    return comparisons


def _answered(status: int) -> bool:
    return 200 <= status < 400


def _latency(values: Iterable[float]) -> dict[str, float | None]:
    known = np.array(list(values), dtype=np.float64)
    if not len(known):
        return {name: None for name, _ in _QUANTILES}
    return {name: float(np.quantile(known, quantile)) for name, quantile in _QUANTILES}


def _labelled(model: Model, pairs: Sequence[Row]) -> dict[str, Any] | None:
    """Both versions' figures on the same labelled requests: nothing but the version differs between them."""
    known = [row for row in pairs if row["ground_truth"] is not None and row["shadow_prediction"] is not None]
    if not known:
        return None
    everything = CoverageCell("labelled", len(known), len(known), 1.0, 0.0, 1.0)
    shadow = [
        {**row, "prediction": row["shadow_prediction"], "confidence": row["shadow_confidence"]}
        for row in known
    ]
    return {
        "n": len(known),
        "production": {one.name: asdict(one) for one in figures_of(model, known, everything)[0]},
        "shadow": {one.name: asdict(one) for one in figures_of(model, shadow, everything)[0]},
    }
