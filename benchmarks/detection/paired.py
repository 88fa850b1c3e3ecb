"""One input, two answers: control mirrors with an order effect, and labels in shadow against labels in a
canary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from app.domain.evidence.pairs import (
    SCORE_STAKES,
    SIDE_STAKES,
    OrderEffect,
    score_growth,
    side_growth,
)
from benchmarks.detection.bound import error_bound, pair_bound
from benchmarks.detection.simulate import course
from benchmarks.detection.stakes import delays, log_es
from benchmarks.detection.worlds import Floats, Setting

UNMEASURED_MARGIN = float(np.log(1.1))  # a guess where nothing is measured; the engine does not bet then
NOISE_SIGMA = 0.3  # of log latency, by call
A_A_PAIRS = 1000  # of production with itself, known before
BATCH = 10  # pairs, or labels, a look
CANARY = 0.1  # share of the canary that labels in shadow are compared with
MOST_LABELS, MOST_CANARY_LABELS = 20_000, 50_000


@dataclass(frozen=True, slots=True)
class MirroredPair:
    """A pair as a worker reports it."""

    version: str
    error: bool
    control_error: bool
    latency_us: int
    control_latency_us: int


@dataclass(frozen=True, slots=True)
class OrderCourse:
    """Highest log e of each run by margin, and the pairs until rollback at the measured margin."""

    peaks: dict[str, Floats]
    delays: Floats

    def hits(self, margin: str, alpha: float) -> float:
        """Part of the runs that would have been rolled back."""
        return float(np.mean(self.peaks[margin] >= np.log(1.0 / alpha)))


MEASURED, UNMEASURED, NONE = "measured on A/A pairs", "unmeasured, ln 1.1", "none"


def order(setting: Setting, pairs: int = 4000) -> OrderCourse:
    """Control mirrors whose second call is faster by `setting.order`; the candidate is slower by
    `setting.ratio`.
    """
    rng = np.random.default_rng(setting.seed)
    ticks, effect = pairs // BATCH, -np.log1p(-setting.order)
    growth: dict[str, list[Floats]] = {MEASURED: [], UNMEASURED: [], NONE: []}
    for _ in range(setting.runs):
        noise = rng.normal(0.0, NOISE_SIGMA, (2, A_A_PAIRS))
        known = OrderEffect()
        for first, second in zip(*np.exp(noise + np.array([[effect], [0.0]])), strict=True):
            known.add(MirroredPair("v1", False, False, int(1e5 * first), int(1e5 * second)))
        d = rng.normal(0.0, NOISE_SIGMA * np.sqrt(2.0), (ticks, BATCH)) + effect + np.log(setting.ratio)
        margins = known.latency_margins()
        assert margins is not None
        growth[MEASURED].append(score_growth(d, *margins))
        growth[UNMEASURED].append(score_growth(d, UNMEASURED_MARGIN, UNMEASURED_MARGIN))
        growth[NONE].append(score_growth(d))
    log_e = {name: log_es(np.stack(g), SCORE_STAKES) for name, g in growth.items()}
    counts = np.tile(BATCH * np.arange(1.0, ticks + 1.0), (setting.runs, 1))
    return OrderCourse(
        {n: e.max(-1) for n, e in log_e.items()}, delays(log_e[MEASURED], counts, setting.alpha)
    )


@dataclass(frozen=True, slots=True)
class Labelling:
    """Labels needed until a less accurate candidate is found; infinite for a run that did not find it."""

    labels: Floats
    bound: float
    peaks: Floats
    unpaired: Floats  # the same candidate in a canary, labels of both arms
    unpaired_bound: float


def shadow_labels(setting: Setting) -> Labelling:
    """Wrong answers p0 and p1. In shadow each label tells of both versions; in a canary it tells of one."""
    rng = np.random.default_rng(setting.seed)
    both = min(setting.p0 * setting.overlap, setting.p1)
    worse, better = setting.p1 - both, setting.p0 - both
    ticks = MOST_LABELS // BATCH
    kinds = rng.multinomial(BATCH, [worse, better, 1.0 - worse - better], size=(setting.runs, ticks))
    log_e = log_es(side_growth(kinds[..., 0], kinds[..., 1]), SIDE_STAKES)
    counts = np.tile(BATCH * np.arange(1.0, ticks + 1.0), (setting.runs, 1))
    labels = delays(log_e, counts, setting.alpha)
    canary = replace(setting, mode="labels", scenario="steady", rho=CANARY, rate=10 * BATCH)
    limit = error_bound(setting.p0, setting.p1, CANARY, setting.alpha)
    alone = course(replace(canary, horizon=int(min(6.0 * limit + 50.0, MOST_CANARY_LABELS))))
    unpaired = np.concatenate([alone.delays / CANARY, np.full(alone.missed, np.inf)])
    paired_limit = pair_bound(worse, better, setting.alpha)
    return Labelling(labels, paired_limit, log_e.max(-1), unpaired, limit / CANARY)
