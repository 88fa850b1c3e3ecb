"""The worker's own guard of one candidate: stops its share at once, and says so to the controller when the evidence bears it out.

The window rule (source text) with Fisher's test decides a short local stop: cheap, immediate, and wrong now and then, since it looks after
every request. What the controller hears of, and makes durable, must also win a bet that stays valid however often one looks.
"""

from __future__ import annotations

from math import log

from app.domain.guard import HealthConfig, HealthWindow, WorseBet, share_tail
from app.domain.model import Guard

STOP_S = (
    30.0  # the local stop of what the bet bears out; the controller's flag change confirms it, or it runs out
)
UNPROVEN_STOP_S = 5.0  # of what only looked worse: a stopped candidate gathers no evidence, so a longer stop would prove nothing
WORSE_P = 1e-3  # of Fisher's test, for the local stop
WORSE_LOG_E = log(1e3)  # of the bet, for the trip


class Trip:
    """What a window said when it tripped."""

    __slots__ = ("errors", "log_e", "reason", "requests")

    def __init__(self, reason: str, requests: int, errors: int) -> None:
        self.reason = reason
        self.requests = requests
        self.errors = errors
        self.log_e = 0.0  # of the bet that bore it out; none does where thresholds are enforced as they are


class LocalGuard:
    """One window a version. Lives as long as the candidate (or the rollout) does."""

    __slots__ = (
        "_candidate",
        "_config",
        "_failures",
        "_mode",
        "_pending",
        "_production",
        "_slow",
        "_sticky",
        "_windows",
        "stop_until",
    )

    def __init__(self, guard: Guard, candidate: str | None, production: str, *, sticky: bool = False) -> None:
        """`sticky`: keys are assigned, not requests. They differ in what they send, so that latencies of the two arms tell nothing of
        the versions: two identical ones were told apart in half of the simulated releases. Pairs on the same request do tell, and the
        controller has them.
        """
        self._config = HealthConfig(guard.error_rate, guard.latency_p99_ms, guard.window, guard.min_requests)
        self._mode = guard.mode
        self._sticky = sticky
        self._candidate = candidate
        self._production = production
        self._windows: dict[str, HealthWindow] = {}
        self._failures = WorseBet()
        self._slow = WorseBet()
        self._pending: Trip | None = None
        self.stop_until = 0.0

    def window(self, version: str) -> HealthWindow:
        window = self._windows.get(version)
        if window is None:
            window = self._windows[version] = HealthWindow(self._config)
        return window

    def stopped(self, now: float) -> bool:
        return now < self.stop_until

    def observe(
        self, version: str, is_error: bool, latency_ms: float, now: float, *, fair: bool
    ) -> Trip | None:
        """Count an answer. `fair`: it was sampled without looking at an answer, so it may be bet on.

        Returns what tripped when the controller is to hear of it at once (mode `enforce`).
        """
        window = self.window(version)
        window.record(is_error, latency_ms)
        candidate = version == self._candidate
        if fair and (candidate or version == self._production):
            self._failures.add(candidate, is_error)
            if not self._sticky:
                self._slow.add(candidate, latency_ms > self._config.latency_p99_threshold_ms)
        if not candidate or self._mode in ("off", "advisory"):
            return None
        trips, reason = window.should_rollback()
        if (
            not trips
            or self.stopped(now)
            or (self._mode == "enforce_if_worse" and not self._looks_worse(window))
        ):
            return None
        trip = Trip(reason, window.requests, window.errors)
        del self._windows[version]  # after the stop it begins afresh
        if self._mode == "enforce":
            self.stop_until = now + STOP_S
            return trip
        self.stop_until = now + UNPROVEN_STOP_S
        self._pending = trip
        return None

    def close_batch(self, now: float) -> Trip | None:
        """Called by the clock. The pending trip, once the bet bears it out."""
        highest = max(self._failures.close(), self._slow.close()) - log(
            2.0
        )  # the average of two is at least half the larger
        if self._pending is None:
            return None
        if not self.stopped(now):
            self._pending = None  # it looked worse, but nothing bore it out: the canary goes on
            return None
        if highest < WORSE_LOG_E:
            return None
        self.stop_until = now + STOP_S
        trip, self._pending = self._pending, None
        trip.log_e = highest
        return trip

    def _looks_worse(self, canary: HealthWindow) -> bool:
        production = self.window(self._production)
        if share_tail(canary.errors, canary.requests, production.errors, production.requests) < WORSE_P:
            return True
        if self._sticky:
            return False
        return share_tail(canary.slow, canary.requests, production.slow, production.requests) < WORSE_P
