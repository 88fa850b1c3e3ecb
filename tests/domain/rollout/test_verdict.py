"""Each verdict with the figures that give it, as a table."""

from __future__ import annotations

import math

import pytest

from app.domain.rollout import Evidence, GuardMode, Health, judge

NOW = 1000.0
THRESHOLD = math.log(1e4)


def figures(**changes: object) -> Evidence:
    known: dict[str, object] = {
        "requests": 100,
        "last_request_at": NOW,
        "log_e": -0.5,
        "guard_reason": "slow.",
    }
    return Evidence(**(known | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("evidence", "mode", "requests", "health", "rollback"),
    [
        (figures(), "enforce_if_worse", 100, "healthy", False),
        (figures(), "enforce_if_worse", 19, "inconclusive", False),
        (figures(), "enforce_if_worse", 0, "no_data", False),
        (figures(last_request_at=None), "off", 100, "no_data", False),
        (figures(last_request_at=NOW - 301), "off", 100, "no_data", False),
        (figures(log_e=math.log(100.0)), "off", 100, "degraded", False),
        (figures(log_e=THRESHOLD), "off", 100, "degraded", True),
        (figures(log_e=THRESHOLD, last_request_at=None), "off", 0, "degraded", True),
        (figures(guard_tripped=True), "off", 100, "healthy", False),
        (figures(guard_tripped=True), "advisory", 100, "healthy", False),
        (figures(guard_tripped=True), "enforce", 100, "degraded", True),
        (figures(guard_tripped=True, last_request_at=None), "enforce", 0, "degraded", True),
        (figures(guard_tripped=True), "enforce_if_worse", 100, "inconclusive", False),
        (
            figures(guard_tripped=True, production_guard_tripped=True),
            "enforce_if_worse",
            100,
            "healthy",
            False,
        ),
        (figures(guard_tripped=True, log_e=math.log(999.0)), "enforce_if_worse", 100, "degraded", False),
        (figures(guard_tripped=True, log_e=math.log(1001.0)), "enforce_if_worse", 100, "degraded", True),
        (figures(log_e=3.1, threshold=math.log(20.0)), "off", 100, "degraded", True),
    ],
)
def test_the_figures_give_the_verdict(
    evidence: Evidence, mode: str, requests: int, health: str, rollback: bool
) -> None:
    verdict = judge(
        evidence,
        guard_mode=GuardMode(mode),
        requests_in_stage=requests,
        min_requests=20,
        stale_s=300.0,
        now=NOW,
    )
    assert (verdict.health, verdict.rollback) == (Health(health), rollback)
    assert verdict.reason


def test_a_tripped_guard_is_reported_even_where_it_may_not_act() -> None:
    verdict = judge(
        figures(guard_tripped=True),
        guard_mode=GuardMode.ADVISORY,
        requests_in_stage=100,
        min_requests=20,
        stale_s=300.0,
        now=NOW,
    )
    assert "Guard: slow." in verdict.reason


def test_figures_survive_the_way_through_an_event() -> None:
    evidence = figures(guard_tripped=True, decisive_metric="latency")
    assert Evidence.from_figures(evidence.figures()) == evidence
    assert Evidence.from_figures(Evidence().figures()) == Evidence()
