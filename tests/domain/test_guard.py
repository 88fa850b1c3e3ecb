"""The window guard gives the source text's answer, word for word, to any sequence of requests."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.guard import HealthConfig, HealthWindow


class _PlainRule:
    """The rule straight from its description: everything is worked out at each look."""

    def __init__(self, config: HealthConfig) -> None:
        self.config = config
        self.seen: deque[tuple[bool, float]] = deque(maxlen=config.window_size)

    def record(self, is_error: bool, latency_ms: float) -> None:
        self.seen.append((is_error, latency_ms))

    def should_rollback(self) -> tuple[bool, str]:
        c, n = self.config, len(self.seen)
        if n < c.min_requests:
            return False, "Insufficient data for evaluation."
        rate = sum(e for e, _ in self.seen) / n
        if rate > c.error_rate_threshold:
            return True, f"Error rate {rate:.1%} exceeds threshold {c.error_rate_threshold:.1%}."
        ordered = sorted(ms for _, ms in self.seen)
        p99 = ordered[min(int(n * 0.99), n - 1)]
        if p99 > c.latency_p99_threshold_ms:
            return True, f"P99 latency {p99:.0f}ms exceeds threshold {c.latency_p99_threshold_ms:.0f}ms."
        return False, "All health metrics within bounds."


CONFIGS = st.builds(
    HealthConfig,
    error_rate_threshold=st.sampled_from([0.0, 0.05, 0.2, 0.5, 1.0]),
    latency_p99_threshold_ms=st.sampled_from([0.0, 100.0, 500.0]),
    window_size=st.integers(1, 250),
    min_requests=st.integers(1, 30),
)
LATENCY = st.one_of(
    st.floats(0, 1000, allow_nan=False), st.sampled_from([100.0, 500.0, 500.0000001, float("inf")])
)


@settings(max_examples=150)
@given(CONFIGS, st.lists(st.tuples(st.booleans(), LATENCY), max_size=150), st.integers(1, 4))
def test_it_answers_as_the_plain_rule_after_every_request(
    config: HealthConfig, requests: list[tuple[bool, float]], repeat: int
) -> None:
    window, plain = HealthWindow(config), _PlainRule(config)
    for is_error, latency in requests * repeat:
        window.record(is_error, latency)
        plain.record(is_error, latency)
        assert window.should_rollback() == plain.should_rollback()


@settings(max_examples=60)
@given(
    st.integers(90, 450),
    st.lists(st.booleans(), min_size=450, max_size=450),
    st.sampled_from([0.002, 0.02, 0.2]),
)
def test_the_count_of_slow_requests_decides_as_the_sorted_window_does(
    size: int, coin: list[bool], share: float
) -> None:
    config = HealthConfig(window_size=size, error_rate_threshold=1.0)
    window, plain = HealthWindow(config), _PlainRule(config)
    every = int(1 / share)
    for i, slow in enumerate(coin):
        latency = 900.0 + i if slow and i % every == 0 else 80.0
        window.record(False, latency)
        plain.record(False, latency)
    assert window.should_rollback() == plain.should_rollback()


@pytest.mark.parametrize(
    ("failed", "answer"),
    [
        (5, (False, "All health metrics within bounds.")),
        (6, (True, "Error rate 6.0% exceeds threshold 5.0%.")),
        (100, (True, "Error rate 100.0% exceeds threshold 5.0%.")),
    ],
)
def test_the_error_rate_must_exceed_its_threshold(failed: int, answer: tuple[bool, str]) -> None:
    window = HealthWindow()
    for i in range(100):
        window.record(i < failed, 20.0)
    assert window.should_rollback() == answer
    assert (window.requests, window.errors) == (100, failed)


def test_nothing_is_said_before_twenty_requests() -> None:
    window = HealthWindow()
    for _ in range(19):
        window.record(True, 9000.0)
        assert window.should_rollback() == (False, "Insufficient data for evaluation.")
    window.record(True, 9000.0)
    assert window.should_rollback()[0]


def test_in_a_window_of_a_hundred_one_slow_request_trips_the_p99() -> None:
    window = HealthWindow()
    for _ in range(99):
        window.record(False, 20.0)
    window.record(False, 812.4)
    assert window.should_rollback() == (True, "P99 latency 812ms exceeds threshold 500ms.")


def test_old_requests_leave_the_window() -> None:
    window = HealthWindow()
    for _ in range(100):
        window.record(True, 2000.0)
    for _ in range(100):
        window.record(False, 20.0)
    assert window.should_rollback() == (False, "All health metrics within bounds.")
    assert window.errors == 0


def test_a_latency_that_is_not_a_number_counts_as_slow() -> None:
    window = HealthWindow()
    for _ in range(20):
        window.record(False, float("nan"))
    assert window.should_rollback() == (True, "P99 latency infms exceeds threshold 500ms.")


@pytest.mark.parametrize("config", [HealthConfig(window_size=0), HealthConfig(window_size=0, min_requests=0)])
def test_a_window_that_holds_nothing_never_trips(config: HealthConfig) -> None:
    window = HealthWindow(config)
    window.record(True, 10_000.0)
    assert window.should_rollback() == (False, "Insufficient data for evaluation.")
