"""The bound on failed attempts: wrong ones wait, right ones never do, and it stays small."""

from __future__ import annotations

from app.domain.attempts import FAILURES, MAX_ORIGINS, REFILL_S, FailureLimit


def spent(limit: FailureLimit, origin: str = "10.0.0.1", now: float = 0.0) -> None:
    for _ in range(int(FAILURES)):
        assert limit.settle(origin, now, right=False) == 0


def test_a_wrong_attempt_waits_when_the_allowance_is_spent_and_a_right_one_never() -> None:
    limit = FailureLimit()
    spent(limit)
    assert limit.settle("10.0.0.1", 0.0, right=False) == REFILL_S
    assert limit.settle("10.0.0.1", 0.0, right=True) == 0
    assert limit.settle("10.0.0.1", 0.0, right=False) == REFILL_S  # the right one has restored nothing
    assert limit.settle("10.0.0.2", 0.0, right=False) == 0


def test_attempts_during_the_wait_do_not_make_it_longer() -> None:
    limit = FailureLimit()
    spent(limit)
    for _ in range(1000):
        assert limit.settle("10.0.0.1", 1.0, right=False) == REFILL_S - 1
    assert limit.settle("10.0.0.1", REFILL_S, right=False) == 0
    assert limit.settle("10.0.0.1", REFILL_S, right=False) == REFILL_S


def test_origins_without_end_take_no_memory_without_end() -> None:
    limit = FailureLimit()
    for number in range(MAX_ORIGINS + 500):
        limit.settle(f"2001:db8::{number:x}", 0.0, right=False)
    assert len(limit._left) == MAX_ORIGINS
