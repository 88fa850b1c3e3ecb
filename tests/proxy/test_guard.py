"""The worker's own stop of a candidate: at once, short while nothing bears it out, long when the bet is won."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.domain.model import Guard
from app.proxy.guard import STOP_S, UNPROVEN_STOP_S, WORSE_LOG_E, LocalGuard

GUARD = Guard(error_rate=0.05, latency_p99_ms=500.0, window=100, min_requests=20)


def tried(guard: LocalGuard, version: str, requests: int, failed: int, now: float) -> int:
    """Requests that the guard let happen, the failed ones first; how many were needed to stop the candidate."""
    for number in range(requests):
        guard.observe(version, number < failed, 20.0, now, fair=True)
        if version == "v2" and guard.stopped(now):
            return number + 1
    return requests


def stopped(mode: str = "enforce_if_worse", *, failed: int) -> LocalGuard:
    guard = LocalGuard(replace(GUARD, mode=mode), "v2", "v1")
    tried(guard, "v1", 100, 0, 0.0)
    assert tried(guard, "v2", 20, failed, 0.0) == 20
    assert guard.stopped(0.0)
    return guard


def test_a_stop_that_the_bet_bears_out_is_told_and_lasts() -> None:
    guard = stopped(failed=20)
    trip = guard.close_batch(1.0)
    assert trip is not None
    assert (trip.requests, trip.errors) == (20, 20)
    assert trip.log_e >= WORSE_LOG_E
    assert guard.stopped(1.0 + STOP_S - 0.1)
    assert not guard.stopped(1.0 + STOP_S)
    assert guard.close_batch(2.0) is None  # once


def test_a_stop_that_nothing_bears_out_ends_soon_and_its_evidence_stays() -> None:
    guard = stopped(failed=4)  # Fisher's test says worse, the bet does not
    assert guard.close_batch(1.0) is None
    assert guard.stopped(UNPROVEN_STOP_S - 0.1)
    assert not guard.stopped(UNPROVEN_STOP_S)
    assert guard.close_batch(UNPROVEN_STOP_S) is None
    # As bad again, a few times: each stop is short, and together they are borne out.
    now, trip = UNPROVEN_STOP_S, None
    for _ in range(10):
        tried(guard, "v1", 100, 0, now)
        tried(guard, "v2", 20, 4, now)
        trip = guard.close_batch(now + 1.0)
        if trip is not None:
            break
        now += UNPROVEN_STOP_S
        guard.close_batch(now)
    assert trip is not None
    assert guard.stopped(now + UNPROVEN_STOP_S + 1.0)


def test_enforced_thresholds_are_told_at_once() -> None:
    guard = LocalGuard(replace(GUARD, mode="enforce"), "v2", "v1")
    told = [guard.observe("v2", number < 4, 20.0, 0.0, fair=True) for number in range(20)]
    assert [trip is not None for trip in told] == [False] * 19 + [True]
    assert guard.stopped(STOP_S - 0.1)


@pytest.mark.parametrize("mode", ["off", "advisory"])
def test_a_guard_that_may_only_look_stops_nothing(mode: str) -> None:
    guard = LocalGuard(replace(GUARD, mode=mode), "v2", "v1")
    assert all(guard.observe("v2", True, 20.0, 0.0, fair=True) is None for _ in range(100))
    assert not guard.stopped(0.0)
