"""Each verdict with the figures that give it, as a table."""

from __future__ import annotations

import math

import pytest

from app.domain.rollout import Alone, Evidence, GuardMode, Health, Verdict, judge

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


PAIRED: dict[str, object] = {"pairs": 40, "pair_share": 0.1, "unpaired_requests": 7}
UNPAIRED: dict[str, object] = {
    "pairs_expected": False,
    "unpaired_requests": 100,
    "former_finding": "3 of 100 requests failed",
}


def on_alone(evidence: Evidence, *, watched: bool = True, pairs: int | None = None) -> Verdict:
    return judge(
        evidence,
        guard_mode=GuardMode.ENFORCE_IF_WORSE,
        requests_in_stage=100,
        min_requests=20,
        stale_s=300.0,
        now=NOW,
        alone=Alone("v1", watched, evidence.pairs if pairs is None else pairs),
    )


@pytest.mark.parametrize(
    ("evidence", "watched", "health", "rollback"),
    [
        (figures(**PAIRED), True, "healthy", False),
        (figures(**PAIRED, former_log_e=20.0), True, "healthy", False),  # pairs know better
        (figures(**UNPAIRED), True, "no_data", False),
        (figures(**UNPAIRED, former_log_e=THRESHOLD - 0.1), True, "no_data", False),
        (figures(**UNPAIRED, former_log_e=THRESHOLD), True, "degraded", True),
        (figures(**UNPAIRED, former_log_e=THRESHOLD, last_request_at=None), True, "degraded", True),
        (figures(**UNPAIRED, log_e=math.log(100.0)), True, "degraded", False),
        (figures(**UNPAIRED), False, "healthy", False),  # at 100 % the stages before it have compared
        (figures(**UNPAIRED, former_log_e=THRESHOLD), False, "degraded", True),
        (figures(**UNPAIRED, former_log_e=3.1, threshold=3.0), True, "degraded", True),
    ],
)
def test_a_candidate_that_answers_everything_is_judged_by_pairs_and_only_without_them_by_what_was_before(
    evidence: Evidence, watched: bool, health: str, rollback: bool
) -> None:
    verdict = on_alone(evidence, watched=watched)
    assert (verdict.health, verdict.rollback) == (Health(health), rollback)


def test_without_a_comparison_the_verdict_says_what_to_switch_on() -> None:
    reason = on_alone(figures(**UNPAIRED)).reason
    assert "nothing compares it with 'v1'" in reason
    for needed in (
        "canary.control.sample",
        "max_share",
        "shadow.sample",
        "shadow_enabled",
        "shadow_versions",
    ):
        assert needed in reason
    assert "3 of 100 requests failed" in reason
    assert on_alone(figures(**PAIRED), pairs=0).reason == "no pair with 'v1' has come yet"
    never = on_alone(figures(**{**UNPAIRED, "pair_share": 0.5})).reason
    assert "no copy to 'v1' has made a pair in 100 requests" in never
    assert "gateway_shadow_dropped_total" in never


def test_a_rollback_without_a_comparison_says_that_a_shared_incident_would_look_the_same() -> None:
    reason = on_alone(figures(**UNPAIRED, former_log_e=12.5)).reason
    assert "does worse than 'v1' did before: 3 of 100 requests failed; log e 12.50" in reason
    assert "An incident that 'v1' would suffer too looks the same." in reason


def test_figures_survive_the_way_through_an_event() -> None:
    evidence = figures(guard_tripped=True, decisive_metric="latency", former_log_e=2.5, **UNPAIRED)
    assert Evidence.from_figures(evidence.figures()) == evidence
    assert Evidence.from_figures(Evidence().figures()) == Evidence()
