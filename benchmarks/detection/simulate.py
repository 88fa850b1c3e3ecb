"""Rollouts side by side through the product's own bets and stakes: many runs at once, one tick after the
other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from app.domain.evidence.bets import (
    ERROR_STAKES,
    EVEN_STAKES,
    ODDS,
    REFERENCE_STAKES,
    binary_growth,
    bucket_growth,
    immediate_growth,
    log_sum,
    reference_weights,
)
from app.domain.evidence.pooling import ENOUGH
from app.domain.evidence.stake import Drip, grown, opening
from app.domain.evidence.tick import BUCKETS
from benchmarks.detection.worlds import MEDIAN_MS, Floats, Moment, Setting, latency_cells, moment, ticks

REFERENCE = 2000  # production latencies known before the canary begins
BURST = 20.0  # mean size of a burst of failures of one key
BURST_ERRORS = 0.5  # part of all errors that come in bursts


@dataclass(frozen=True, slots=True)
class Course:
    """How the runs went. `delays`: canary requests from bad to rollback, of the runs that found it."""

    delays: Floats
    missed: int  # bad, and not found within the horizon
    peaks: Floats  # highest log e of each run while its candidate was good
    alpha: float

    @property
    def false_rollbacks(self) -> int:
        """Runs in which a candidate that was no worse would have been rolled back."""
        return self.hits(self.alpha)

    def hits(self, alpha: float) -> int:
        """The same at another alpha; a good candidate is watched on after a crossing, so all alphas can be
        read.
        """
        return int(np.sum(self.peaks >= np.log(1.0 / alpha)))


Growth = Callable[[Generator, Moment, Floats, Floats, np.ndarray], Floats]


class Waiting:
    """Counts (runs, …) that wait for company, by the rule of `app.domain.evidence.pooling`."""

    def __init__(self, runs: int, width: int) -> None:
        self._sums = np.zeros((runs, width))
        self._requests = 0.0

    def add(self, counts: Floats, alive: np.ndarray, requests: float, share: float) -> Floats | None:
        """What is to be bet on now, (alive, width); None: wait for more."""
        self._sums[alive] += counts
        self._requests += requests
        if self._requests * share * (1.0 - share) < ENOUGH:
            return None
        ready: Floats = self._sums[alive]
        self._sums[alive] = 0.0
        self._requests = 0.0
        return ready


def errors_growth(setting: Setting, *, raw: bool = False) -> tuple[Growth, Floats]:
    """Error counts of a tick.

    In `bursts` part of the errors are a key's, counted once each or, `raw`, each time.
    """
    waiting = Waiting(setting.runs, 4)
    clusters = setting.scenario == "bursts"
    by_request = not clusters and setting.mode != "labels"  # bursts are of keys; labels come in batches
    single = 1.0 - BURST_ERRORS if clusters else 1.0

    def grow(rng: Generator, now: Moment, n_c: Floats, n_p: Floats, alive: np.ndarray) -> Floats:
        x = rng.binomial(n_c.astype(int), now.candidate_errors * single).astype(float)
        y = rng.binomial(n_p.astype(int), now.errors * single).astype(float)
        if clusters:
            n_c, x = _with_bursts(rng, n_c, x, now.candidate_errors, raw=raw)
            n_p, y = _with_bursts(rng, n_p, y, now.errors, raw=raw)
        growth = np.zeros((len(n_c), len(ODDS)))
        ready = waiting.add(np.stack([n_c, x, n_p, y], axis=-1), alive, setting.rate, now.share)
        if ready is not None:
            some = ready[:, 1] + ready[:, 3] > 0  # without a bad event a batch says nothing
            if some.any():
                growth[some] = binary_growth(*ready[some].T)
        if not by_request:
            return growth
        return np.concatenate([growth, immediate_growth(x, y, np.full(len(x), now.share))], axis=-1)

    return grow, ERROR_STAKES if by_request else EVEN_STAKES


def _with_bursts(rng: Generator, n: Floats, bad: Floats, rate: float, *, raw: bool) -> tuple[Floats, Floats]:
    """Requests and errors of an arm with bursts of failures: one vote a burst, or `raw` one a request."""
    votes = rng.poisson(n * rate * BURST_ERRORS / BURST)
    some = votes > 0
    if raw:
        votes[some] += rng.negative_binomial(votes[some], 1.0 / BURST)
    return n + votes, bad + votes


def latency_growth(setting: Setting, rng: Generator) -> tuple[Growth, Floats]:
    """Latency histograms of a tick, with bets made from production's first latencies, each run its own."""
    cells = latency_cells(MEDIAN_MS, setting.sigma)
    log_w = np.stack([reference_weights(h)[0] for h in rng.multinomial(REFERENCE, cells, size=setting.runs)])
    sparse = setting.rate < 100  # fewer requests than buckets: one column a request
    waiting = Waiting(setting.runs, 2 * BUCKETS)
    known: dict[float, Floats] = {}

    def cumulative(factor: float) -> Floats:
        if factor not in known:
            known[factor] = np.cumsum(latency_cells(MEDIAN_MS * factor, setting.sigma))
        return known[factor]

    def grow(rng: Generator, now: Moment, n_c: Floats, n_p: Floats, alive: np.ndarray) -> Floats:
        candidate, production = cumulative(now.candidate_latency), cumulative(now.latency)
        if sparse:
            total = int((n_c + n_p)[0])
            is_canary = np.arange(total) < n_c[:, None]
            u = rng.random((len(n_c), total))
            place = np.where(is_canary, np.searchsorted(candidate, u), np.searchsorted(production, u))
            cell = np.minimum(place, BUCKETS - 1) + np.where(is_canary, 0, BUCKETS)
            counts = np.zeros((len(n_c), 2 * BUCKETS))
            np.add.at(counts, (np.arange(len(n_c))[:, None], cell), 1.0)
        else:
            c = rng.multinomial(n_c.astype(int), np.diff(candidate, prepend=0.0))
            p = rng.multinomial(n_p.astype(int), np.diff(production, prepend=0.0))
            counts = np.concatenate([c, p], axis=-1).astype(float)
        ready = waiting.add(counts, alive, setting.rate, now.share)
        if ready is None:
            return np.zeros((len(n_c), len(REFERENCE_STAKES)))
        used = (ready > 0).any(0).reshape(2, BUCKETS).any(0)
        return bucket_growth(
            ready[:, :BUCKETS][:, used], ready[:, BUCKETS:][:, used], log_w[alive][..., used]
        )

    return grow, REFERENCE_STAKES


def course(setting: Setting, *, raw: bool = False) -> Course:
    """The runs of a setting with arms of different requests: modes errors, latency, labels and both."""
    setting = setting.fitted()
    rng = np.random.default_rng(setting.seed)
    metrics: list[tuple[Growth, Floats]] = []
    if setting.mode in ("errors", "labels", "both"):
        metrics.append(errors_growth(setting, raw=raw))
    if setting.mode in ("latency", "both"):
        metrics.append(latency_growth(setting, rng))
    drip, lasting = Drip(), ticks(setting)
    log_m = [np.tile(opening(stakes), (setting.runs, 1)) for _, stakes in metrics]
    log_parts = -np.log(len(metrics))
    alive = np.arange(setting.runs)
    peaks, delays, since = (
        np.full(setting.runs, -np.inf),
        np.full(setting.runs, np.nan),
        np.zeros(setting.runs),
    )
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
