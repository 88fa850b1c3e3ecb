"""Rollouts side by side through the product's own bets and stakes: many runs at once, one tick after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from app.domain.evidence.bets import EVEN_STAKES, REFERENCE_STAKES, binary_growth, bucket_growth, log_sum, reference_weights
from app.domain.evidence.stake import Drip, grown, opening
from app.domain.evidence.tick import BUCKETS
from benchmarks.detection.worlds import MEDIAN_MS, Floats, Moment, Setting, latency_cells, moment, ticks

REFERENCE = 2000  # production latencies known before the canary begins
BURST = 20.0  # mean size of a burst of failures of one key
BURST_ERRORS = 0.5  # part of all errors that come in bursts


@dataclass(frozen=True, slots=True)
class Course:
    """How the runs went. `delays`: canary requests from bad to rollback, of the runs that were bad and found."""

    delays: Floats
    missed: int  # bad, and not found within the horizon
    peaks: Floats  # highest log e of each run while its candidate was good
    alpha: float

    @property
    def false_rollbacks(self) -> int:
        """Runs in which a candidate that was no worse would have been rolled back."""
        return self.hits(self.alpha)

    def hits(self, alpha: float) -> int:
        """The same at another alpha; a good candidate is watched on after a crossing, so all alphas can be read."""
        return int(np.sum(self.peaks >= np.log(1.0 / alpha)))


Growth = Callable[[Generator, Moment, Floats, Floats, np.ndarray], Floats]


def errors_growth(setting: Setting, *, clusters: bool = False, raw: bool = False) -> tuple[Growth, Floats]:
    """Error counts of a tick. With `clusters` part of the errors are bursts, counted once each or, `raw`, each time."""

    def grow(rng: Generator, now: Moment, n_c: Floats, n_p: Floats, alive: np.ndarray) -> Floats:
        single = 1.0 - BURST_ERRORS if clusters else 1.0
        x = rng.binomial(n_c.astype(int), now.candidate_errors * single).astype(float)
        y = rng.binomial(n_p.astype(int), now.errors * single).astype(float)
        if clusters:
            for n, bad, rate in ((n_c, x, now.candidate_errors), (n_p, y, now.errors)):
                bursts = rng.poisson(n * rate * BURST_ERRORS / BURST)
                some = bursts > 0
                sizes = np.zeros(len(n))
                sizes[some] = bursts[some] + rng.negative_binomial(bursts[some], 1.0 / BURST)
                votes = sizes if raw else bursts
                bad += votes
                n += votes
        growth = np.zeros((len(n_c), len(EVEN_STAKES)))
        some = (x + y) > 0  # without a bad event a batch says nothing
        if some.any():
            growth[some] = binary_growth(n_c[some], x[some], n_p[some], y[some])
        return growth

    return grow, EVEN_STAKES


def latency_growth(setting: Setting, rng: Generator) -> tuple[Growth, Floats]:
    """Latency histograms of a tick, with bets made from production's first latencies, each run its own."""
    cells = latency_cells(MEDIAN_MS, setting.sigma)
    log_w = np.stack([reference_weights(h)[0] for h in rng.multinomial(REFERENCE, cells, size=setting.runs)])
    sparse = setting.rate < 100  # fewer requests than buckets: one column a request

    def cdf(factor: float) -> Floats:
        return np.cumsum(latency_cells(MEDIAN_MS * factor, setting.sigma))

    known: dict[float, Floats] = {}

    def grow(rng: Generator, now: Moment, n_c: Floats, n_p: Floats, alive: np.ndarray) -> Floats:
        for factor in (now.latency, now.candidate_latency):
            if factor not in known:
                known[factor] = cdf(factor)
        if not sparse:
            c = rng.multinomial(n_c.astype(int), np.diff(known[now.candidate_latency], prepend=0.0))
            p = rng.multinomial(n_p.astype(int), np.diff(known[now.latency], prepend=0.0))
            return bucket_growth(c, p, log_w[alive])
        total = int((n_c + n_p)[0])
        is_canary = np.arange(total) < n_c[:, None]
        u = rng.random((len(n_c), total))
        place = np.where(
            is_canary, np.searchsorted(known[now.candidate_latency], u), np.searchsorted(known[now.latency], u)
        )
        weights = np.take_along_axis(log_w[alive], np.minimum(place, BUCKETS - 1)[:, None, :], axis=2)
        return bucket_growth(is_canary, ~is_canary, weights)

    return grow, REFERENCE_STAKES


def course(setting: Setting, *, raw: bool = False) -> Course:
    """The runs of a setting with arms of different requests: modes errors, latency, labels and both."""
    setting = setting.with_rate()
    rng = np.random.default_rng(setting.seed)
    metrics: list[tuple[Growth, Floats]] = []
    if setting.mode in ("errors", "labels", "both"):
        metrics.append(errors_growth(setting, clusters=setting.scenario == "bursts", raw=raw))
    if setting.mode in ("latency", "both"):
        metrics.append(latency_growth(setting, rng))
    drip, lasting = Drip(), ticks(setting)
    log_m = [np.tile(opening(stakes), (setting.runs, 1)) for _, stakes in metrics]
    log_parts = -np.log(len(metrics))
    alive = np.arange(setting.runs)
    peaks, delays, since = np.full(setting.runs, -np.inf), np.full(setting.runs, np.nan), np.zeros(setting.runs)
    for tick in range(lasting):
        now = moment(setting, tick, lasting)
        n_c = rng.binomial(setting.rate, now.share, size=len(alive)).astype(float)
        n_p = setting.rate - n_c
        since[alive] += n_c if now.is_bad else 0.0
        entering = drip.entered(tick + 1) - drip.entered(tick)
        for i, (growth, stakes) in enumerate(metrics):
            log_m[i] = grown(log_m[i], growth(rng, now, n_c, n_p, alive), stakes, entering)
        log_e = log_sum(np.stack([log_sum(m) + log_parts for m in log_m], axis=-1))
        if not now.is_bad:
            peaks[alive] = np.maximum(peaks[alive], log_e)
            continue
        found = log_e >= np.log(1.0 / setting.alpha)
        if found.any():
            delays[alive[found]] = since[alive[found]]
            alive, log_m = alive[~found], [m[~found] for m in log_m]
            if not len(alive):
                break
    missed = 0 if setting.is_good else int(np.isnan(delays).sum())
    return Course(delays[~np.isnan(delays)], missed, peaks, setting.alpha)
