"""Rollouts as the gateway runs them by default: the whole engine, its stake divided over all metrics, and the control mirror.

The other simulations put the whole stake on one metric, which is what a bound can be held against; here stands what
the division costs. Slower by far: one engine a run, one tick after the other.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from app.domain.evidence.batch import Arm, Batch, Stratum
from app.domain.evidence.engine import Engine, Look
from app.domain.evidence.metrics import EngineConfig, default_metrics
from app.domain.evidence.pairs import PairBatch
from app.domain.evidence.tick import BELOW_10_MS, BUCKETS, RATIO
from benchmarks.detection.paired import NOISE_SIGMA, MirroredPair
from benchmarks.detection.simulate import Course
from benchmarks.detection.worlds import MEDIAN_MS, Floats, Moment, Setting, moment, ticks

# Of a binary model without a routing key. Its labels mature after a month, so their part of the stake lies still.
METRICS = default_metrics(sticky=False, control=True, labels=("accuracy",))
MAX_SHARE = 0.1  # of all requests, that the control mirror may copy


def deployed(setting: Setting) -> Course:
    """Runs of a setting; see `simulate.course`."""
    setting = setting.fitted()
    rng = np.random.default_rng(setting.seed)
    runs = [_run(setting, rng) for _ in range(setting.runs)]
    delays = np.array([delay for delay, _ in runs if delay is not None])
    missed = 0 if setting.is_good else setting.runs - len(delays)
    return Course(delays, missed, np.array([peak for _, peak in runs]), setting.alpha)


def _run(setting: Setting, rng: Generator) -> tuple[float | None, float]:
    """Canary requests from bad to rollback, if it came to that, and the highest log e before."""
    config = EngineConfig(alpha=setting.alpha, metrics=METRICS)
    engine = Engine(config, candidate="v2", production="v1", started=0)
    peak, since, lasting = -np.inf, 0.0, ticks(setting)
    for tick in range(lasting):
        now = moment(setting, tick, lasting)
        canary = int(rng.binomial(setting.rate, now.share))
        since += canary if now.is_bad else 0
        engine.advance(tick + 1, _look(setting, rng, now, canary, tick + 1))
        log_e = engine.snapshot().log_e
        if not now.is_bad:
            peak = max(peak, log_e)
        elif log_e >= np.log(1.0 / setting.alpha):
            return since, peak
    return None, peak


def _look(setting: Setting, rng: Generator, now: Moment, canary: int, tick: int) -> Look:
    """What a worker reports of one tick: counts of both arms, and the pairs of the canary's requests."""
    others = setting.rate - canary
    candidate_failed = rng.random(canary) < now.candidate_errors
    production_failed = rng.random(others) < now.errors
    # What varies beyond a call's own noise is the input's, and a pair shares it.
    inputs = rng.normal(0.0, max(setting.sigma**2 - NOISE_SIGMA**2, 0.0) ** 0.5, canary)
    first = MEDIAN_MS * now.candidate_latency * np.exp(inputs + rng.normal(0.0, NOISE_SIGMA, canary))
    second = MEDIAN_MS * now.latency * np.exp(inputs + rng.normal(0.0, NOISE_SIGMA, canary))
    own = MEDIAN_MS * now.latency * np.exp(rng.normal(0.0, setting.sigma, others))
    both = rng.random(canary) < now.errors  # production fails on these too: no fault of the canary
    stratum = Stratum(
        100.0 * now.share,
        Arm(others, int(production_failed.sum()), _histogram(own[~production_failed])),
        Arm(canary, int((candidate_failed & ~both).sum()), _histogram(first[~candidate_failed])),
    )
    copied = rng.random(canary) < min(1.0, MAX_SHARE / now.share)
    mirrored = zip(candidate_failed[copied], both[copied], first[copied], second[copied], strict=True)
    pairs = [MirroredPair("v2", bool(a), bool(b), int(1e3 * x), int(1e3 * y)) for a, b, x, y in mirrored]
    return Look([Batch("replica", tick, (stratum,))], [PairBatch("replica", tick, pairs)] if pairs else ())


def _histogram(ms: Floats) -> dict[int, int]:
    buckets = np.log(np.maximum(ms, 1e-3) / 10.0) / np.log(RATIO) + BELOW_10_MS
    found, counts = np.unique(np.clip(np.floor(buckets), 0, BUCKETS - 1).astype(int), return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))
