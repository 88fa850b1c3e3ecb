"""Sticky keys: the same keys always meet the same version, so requests of one arm are not independent.

Both versions are alike here unless p1 says otherwise. Keys are popular by Zipf's law, some fail always or
often by what they send, and some are always slow. What the product does about it stands beside what a naive
test does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from app.domain.evidence.bets import (
    EVEN_STAKES,
    ODDS,
    REFERENCE_STAKES,
    binary_growth,
    bucket_growth,
    label_factors,
    reference_weights,
)
from app.domain.evidence.pairs import SCORE_STAKES, score_growth
from app.domain.evidence.tick import BELOW_10_MS, BUCKETS, RATIO
from benchmarks.detection.paired import UNMEASURED_MARGIN
from benchmarks.detection.stakes import delays, log_es
from benchmarks.detection.worlds import MEDIAN_MS, Floats, Setting

ZIPF = 1.1
FAILING = (0.05, 10.0)  # Beta: the part of a key's inputs that fail on any version
KEY_SIGMA, NOISE_SIGMA = 0.5, 0.3  # log latency by key, and by call
RATE, HORIZON = 250, 10_000  # requests a tick, canary requests a run
TWO_SAMPLE_RUNS = 200  # as many runs show what two-sample latency does


@dataclass(frozen=True, slots=True)
class StickyCourse:
    """Highest log e of each run by detector, and the canary requests until ours rolled back."""

    peaks: dict[str, Floats]
    delays: Floats  # infinite: never

    def hits(self, detector: str, alpha: float) -> float:
        """Part of the runs in which a detector would have rolled back."""
        return float(np.mean(self.peaks[detector] >= np.log(1.0 / alpha)))


OURS_ERRORS = "realised share, shared errors left out"
OURS_LATENCY = "paired latency"
OURS = "ours"
CONFIGURED = "configured share, request votes"
REALISED = "realised share, request votes"
TWO_SAMPLE = "two-sample latency"


@dataclass(frozen=True, slots=True)
class _Run:
    canary: Floats  # requests a tick
    production: Floats
    canary_errors: Floats
    canary_own_errors: Floats  # production answered the same request
    production_errors: Floats
    differences: list[Floats]  # a tick's log latency ratios of canary and control
    histograms: tuple[Floats, Floats]  # (ticks, BUCKETS) of canary and production


def _runs(setting: Setting) -> Iterator[_Run]:
    rng = np.random.default_rng(setting.seed)
    rate, horizon = setting.rate or RATE, setting.horizon or HORIZON
    total = int(horizon / setting.rho / rate) * rate
    popularity = np.cumsum(1.0 / np.arange(1, setting.keys + 1) ** ZIPF)
    for _ in range(setting.runs):
        yield _run(setting, rng, total, rate, popularity / popularity[-1])


def _run(setting: Setting, rng: Generator, total: int, rate: int, popularity: Floats) -> _Run:
    ticks = total // rate
    key = np.searchsorted(popularity, rng.random(total))
    tick = np.arange(total) // rate
    canary = (rng.random(setting.keys) < setting.rho)[key]
    input_fails = rng.random(total) < rng.beta(*FAILING, size=setting.keys)[key]
    error = input_fails | (rng.random(total) < np.where(canary, setting.p1, setting.p0))
    both = error & (
        input_fails | (rng.random(total) < setting.p0)
    )  # production fails on the same request too
    base = np.log(MEDIAN_MS) + rng.normal(0.0, KEY_SIGMA, setting.keys)[key]
    first = base + rng.normal(0.0, NOISE_SIGMA, total) + np.where(canary, np.log(setting.ratio), 0.0)
    mirrored = np.flatnonzero(canary & ~error & ~both)
    second = base[mirrored] + rng.normal(0.0, NOISE_SIGMA, len(mirrored))
    bucket = np.clip(((first - np.log(10.0)) / np.log(RATIO) + BELOW_10_MS).astype(int), 0, BUCKETS - 1)

    def count(which: np.ndarray) -> Floats:
        return np.bincount(tick[which], minlength=ticks).astype(float)

    def histogram(which: np.ndarray) -> Floats:
        cells = tick[which] * BUCKETS + bucket[which]
        return np.bincount(cells, minlength=ticks * BUCKETS).reshape(ticks, BUCKETS).astype(float)

    ends = np.searchsorted(tick[mirrored], np.arange(1, ticks))
    return _Run(
        count(canary),
        count(~canary),
        count(canary & error),
        count(canary & error & ~both),
        count(~canary & error),
        np.split(first[mirrored] - second, ends),
        (histogram(canary & ~error), histogram(~canary & ~error)),
    )


def sticky(setting: Setting) -> StickyCourse:
    """Runs of a world of sticky keys."""
    growth: dict[str, list[Floats]] = {
        k: [] for k in (OURS_ERRORS, OURS_LATENCY, CONFIGURED, REALISED, TWO_SAMPLE)
    }
    requests: list[Floats] = []
    for i, run in enumerate(_runs(setting)):
        requests.append(np.cumsum(run.canary))
        growth[OURS_ERRORS].append(
            binary_growth(run.canary, run.canary_own_errors, run.production, run.production_errors)
        )
        growth[REALISED].append(
            binary_growth(run.canary, run.canary_errors, run.production, run.production_errors)
        )
        candidate, production = label_factors(np.array(ODDS), setting.rho)
        growth[CONFIGURED].append(
            run.canary_errors[:, None] * np.log(candidate)
            + run.production_errors[:, None] * np.log(production)
        )
        widest = max(len(d) for d in run.differences)
        padded = np.stack([np.pad(d, (0, widest - len(d)), constant_values=np.nan) for d in run.differences])
        growth[OURS_LATENCY].append(score_growth(padded, UNMEASURED_MARGIN, UNMEASURED_MARGIN))
        if i < TWO_SAMPLE_RUNS:
            canary, production_latency = run.histograms
            weights, _ = reference_weights(production_latency[:10].sum(0))
            growth[TWO_SAMPLE].append(bucket_growth(canary, production_latency, weights))
    stakes = {OURS_LATENCY: SCORE_STAKES, TWO_SAMPLE: REFERENCE_STAKES}
    log_e = {name: log_es(np.stack(g), stakes.get(name, EVEN_STAKES)) for name, g in growth.items()}
    log_e[OURS] = np.logaddexp(log_e[OURS_ERRORS], log_e[OURS_LATENCY]) - np.log(2.0)
    found = delays(log_e[OURS], np.stack(requests), setting.alpha)
    return StickyCourse({name: e.max(-1) for name, e in log_e.items()}, found)
