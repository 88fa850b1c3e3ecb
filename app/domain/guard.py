"""The window rule that stops a canary at once, inside the worker: error rate and p99 latency of the last
requests.

The rule and its texts are the source text's. It compares with fixed thresholds only and so cannot tell a
bad version from a shared incident; `app.domain.evidence` can. Runs after each canary request: standard
library only, constant time until it trips, and it must never raise.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import comb, exp, lgamma, log


@dataclass(frozen=True, slots=True)
class HealthConfig:
    error_rate_threshold: float = 0.05  # share of requests; above it the window trips
    latency_p99_threshold_ms: float = 500.0
    window_size: int = 100  # last requests looked at
    min_requests: int = 20  # before them the window says nothing


class HealthWindow:
    """The last requests of one version. One window a version; a new rollout starts a new one."""

    __slots__ = ("_config", "_errors", "_failed", "_latencies", "_slow")

    def __init__(self, config: HealthConfig | None = None) -> None:
        self._config = config or HealthConfig()
        size = max(self._config.window_size, 0)
        self._errors: deque[bool] = deque(maxlen=size)
        self._latencies: deque[float] = deque(maxlen=size)
        self._failed = 0  # running counts of what the two deques hold: errors,
        self._slow = 0  # and latencies above the threshold

    @property
    def requests(self) -> int:
        """How many requests the window holds."""
        return len(self._errors)

    @property
    def errors(self) -> int:
        """How many of them failed."""
        return self._failed

    @property
    def slow(self) -> int:
        """How many of them took longer than the latency threshold."""
        return self._slow

    def record(self, is_error: bool, latency_ms: float) -> None:
        """Take in one request and forget the oldest when full. A latency that is NaN counts as infinite."""
        errors, latencies = self._errors, self._latencies
        limit = self._config.latency_p99_threshold_ms
        if latency_ms != latency_ms:
            latency_ms = float("inf")
        if len(errors) == errors.maxlen:
            if not errors:
                return  # a window of size 0 stays empty
            self._failed -= errors[0]
            self._slow -= latencies[0] > limit
        is_error = bool(is_error)
        errors.append(is_error)
        latencies.append(latency_ms)
        self._failed += is_error
        self._slow += latency_ms > limit

    def should_rollback(self) -> tuple[bool, str]:
        """Whether the window trips, and the reason.

        The p99 is element int(0.99·n) of the n sorted latencies (the slowest, while n ≤ 100). It exceeds
        the threshold exactly when that element and all after it do, that is, when at least n − int(0.99·n)
        latencies exceed it: so a running count decides, and only a trip sorts.
        """
        config = self._config
        requests = len(self._errors)
        if requests < config.min_requests or requests == 0:
            return False, "Insufficient data for evaluation."
        error_rate = self._failed / requests
        if error_rate > config.error_rate_threshold:
            return True, f"Error rate {error_rate:.1%} exceeds threshold {config.error_rate_threshold:.1%}."
        p99_index = min(int(requests * 0.99), requests - 1)
        if self._slow >= requests - p99_index:
            p99 = sorted(self._latencies)[p99_index]
            return True, f"P99 latency {p99:.0f}ms exceeds threshold {config.latency_p99_threshold_ms:.0f}ms."
        return False, "All health metrics within bounds."


class WorseBet:
    """A bet that the candidate has more than its share of the bad requests. Valid however often one looks.

    Requests are counted in batches closed by the clock, never by what happened. Given a batch's sizes and its bad requests, which arm
    drew the bad ones is hypergeometric when the candidate is no worse, so r^x / E[r^X] has mean one whatever the (shared, changing)
    rate of bad requests is; the product over batches, averaged over the odds r, exceeds 1/alpha with probability at most alpha
    (Ville 1939). This is the worker's own, small version of `app.domain.evidence`.
    """

    ODDS = (2.0, 5.0, 20.0, 100.0)

    __slots__ = ("_bad", "_logs", "_size")

    def __init__(self) -> None:
        self._logs = [0.0] * len(self.ODDS)
        self._size = [0, 0]  # production, candidate
        self._bad = [0, 0]

    def add(self, candidate: bool, bad: bool) -> None:
        """Count one request of an arm into the open batch."""
        self._size[candidate] += 1
        self._bad[candidate] += bad

    def close(self) -> float:
        """End the batch; the logarithm of the e-value so far."""
        sizes, bad = self._size, self._bad
        if sizes[0] and sizes[1] and (bad[0] or bad[1]):
            for place, odds in enumerate(self.ODDS):
                self._logs[place] += bad[1] * log(odds) - _log_mean_power(
                    odds, sizes[1], sizes[0], bad[0] + bad[1]
                )
        self._size, self._bad = [0, 0], [0, 0]
        return self.log_e

    @property
    def log_e(self) -> float:
        """Logarithm of the average over the odds."""
        highest = max(self._logs)
        return highest + log(sum(exp(one - highest) for one in self._logs) / len(self._logs))


def _log_mean_power(odds: float, drawn: int, others: int, bad: int) -> float:
    """log E[odds^X], X the bad ones among `drawn` when `bad` of `drawn + others` are bad (hypergeometric)."""
    lowest, most = max(0, bad - others), min(bad, drawn)
    terms = [
        _log_choose(drawn, k) + _log_choose(others, bad - k) + k * log(odds) for k in range(lowest, most + 1)
    ]
    highest = max(terms)
    return highest + log(sum(exp(term - highest) for term in terms)) - _log_choose(drawn + others, bad)


def _log_choose(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)


def share_tail(bad_a: int, n_a: int, bad_b: int, n_b: int) -> float:
    """P(arm a has at least `bad_a` of all bad ones) when which are bad does not depend on the arm (Fisher's exact test)."""
    bad = bad_a + bad_b
    everything = comb(n_a + n_b, bad)
    return sum(comb(n_a, k) * comb(n_b, bad - k) for k in range(bad_a, min(bad, n_a) + 1)) / everything
