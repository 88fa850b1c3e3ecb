"""The retraining decision: the source text's four outcomes, what lies beyond them, and the strategies."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.retraining import (
    STRATEGIES,
    RetrainingDecision,
    RetrainingPolicy,
    RetrainingSignals,
    Told,
    Urgency,
    decide,
    evaluate_retraining_need,
    relative_drop,
    schedule_due,
    worth_telling,
)

NAN, INF = float("nan"), float("inf")
DAY = 86_400.0


@pytest.mark.parametrize(
    ("drift", "severity", "current", "expected"),
    [
        (
            False,
            0.0,
            0.80,
            RetrainingDecision(
                True,
                "Performance dropped 12.1% from baseline (0.910 -> 0.800). "
                "Exceeds critical threshold of 10.0%.",
                "critical",
            ),
        ),
        (
            True,
            0.31,
            0.85,
            RetrainingDecision(
                True,
                "Drift detected (PSI=0.310) and performance dropped 6.6%. Both signals confirm degradation.",
                "elevated",
            ),
        ),
        (
            True,
            0.31,
            0.90,
            RetrainingDecision(
                False,
                "Drift detected (PSI=0.310) but performance is stable (drop=1.1%). Monitor closely.",
                "routine",
            ),
        ),
        (
            False,
            0.0,
            0.90,
            RetrainingDecision(False, "No drift detected, performance within baseline.", "routine"),
        ),
    ],
)
def test_the_four_outcomes_of_the_source(
    drift: bool, severity: float, current: float, expected: RetrainingDecision
) -> None:
    assert evaluate_retraining_need(drift, severity, current, 0.91) == expected


@given(
    st.booleans(),
    st.floats(0, 5),
    st.floats(-1, 2),
    st.floats(0.01, 2),
    st.floats(0.01, 0.5),
    st.floats(0.01, 0.5),
)
def test_for_a_positive_baseline_it_decides_by_the_source_rule(
    drift: bool, severity: float, current: float, baseline: float, threshold: float, critical: float
) -> None:
    made = evaluate_retraining_need(drift, severity, current, baseline, threshold, critical)
    drop = (baseline - current) / baseline
    if drop >= critical:
        expected = (True, "critical")
    elif drift and drop >= threshold:
        expected = (True, "elevated")
    else:
        expected = (False, "routine")
    assert (made.should_retrain, made.urgency) == expected


def test_a_drop_without_drift_retrains_only_when_performance_may_speak_alone() -> None:
    assert not evaluate_retraining_need(False, 0.0, 0.85, 0.91).should_retrain
    alone = evaluate_retraining_need(False, 0.0, 0.85, 0.91, performance_alone=True)
    assert alone == RetrainingDecision(
        True,
        "Performance dropped 6.6% from baseline (0.910 -> 0.850). Exceeds threshold of 5.0%, without drift.",
        "elevated",
    )


@given(st.booleans(), st.floats(0.01, 10), st.floats(0.01, 10))
def test_a_metric_where_lower_is_better_reads_the_other_way_round(
    drift: bool, current: float, baseline: float
) -> None:
    made = evaluate_retraining_need(drift, 0.3, current, baseline, higher_is_better=False)
    mirrored = evaluate_retraining_need(drift, 0.3, 2 * baseline - current, baseline)
    rise = (current - baseline) / baseline
    if abs(rise - 0.05) > 1e-9 and abs(rise - 0.10) > 1e-9:  # on the threshold, rounding decides
        assert (made.should_retrain, made.urgency) == (mirrored.should_retrain, mirrored.urgency)


@pytest.mark.parametrize(
    ("current", "baseline", "higher", "drop"),
    [
        (0.8, 1.0, True, 0.2),
        (-0.3, -0.2, True, 0.5),  # R² below zero got worse
        (-0.1, -0.2, True, -0.5),
        (1.2, 1.0, False, 0.2),
        (INF, 2.0, False, INF),
    ],
)
def test_a_drop_is_relative_to_the_size_of_the_baseline(
    current: float, baseline: float, higher: bool, drop: float
) -> None:
    assert relative_drop(current, baseline, higher) == pytest.approx(drop)


@pytest.mark.parametrize(
    ("current", "baseline", "said"),
    [
        (NAN, 0.9, "Current performance is not a number"),
        (0.9, NAN, "is not finite"),
        (0.9, INF, "is not finite"),
        (0.9, 0.0, "Baseline performance is zero"),
        (0.9, -0.0, "Baseline performance is zero"),
    ],
)
@pytest.mark.parametrize("drift", [True, False])
def test_a_figure_that_is_missing_is_no_proof_of_decay(
    drift: bool, current: float, baseline: float, said: str
) -> None:
    made = evaluate_retraining_need(drift, 0.3, current, baseline)
    assert (made.should_retrain, made.urgency) == (False, "routine")
    assert said in made.reason
    assert ("Monitor closely" in made.reason) == drift


@pytest.mark.parametrize(
    ("last", "now", "every", "due"),
    [
        (0.0, 7 * DAY, 7 * DAY, True),
        (0.0, 7 * DAY - 1, 7 * DAY, False),
        (None, 7 * DAY, DAY, False),
        (0.0, 7 * DAY, None, False),
        (0.0, 7 * DAY, 0.0, False),
        (9 * DAY, 7 * DAY, DAY, False),
    ],
)
def test_a_schedule_is_due_when_its_time_has_passed(
    last: float | None, now: float, every: float | None, due: bool
) -> None:
    assert schedule_due(last, now, every) is due


SIGNALS = RetrainingSignals(
    now=30 * DAY,
    last_trained_at=0.0,
    drift_detected=False,
    performance_current=0.91,
    performance_baseline=0.91,
)


@pytest.mark.parametrize(
    ("strategy", "every_s", "changes", "expected"),
    [
        ("schedule", 7 * DAY, {}, (True, "routine")),
        ("schedule", 60 * DAY, {}, (False, "routine")),
        ("schedule", None, {}, (False, "routine")),
        ("schedule", 7 * DAY, {"last_trained_at": None}, (False, "routine")),
        ("schedule", 60 * DAY, {"performance_current": 0.1, "drift_detected": True}, (False, "routine")),
        ("drift", None, {"drift_detected": True}, (True, "routine")),
        ("drift", None, {"drift_detected": None}, (False, "routine")),
        ("drift", 7 * DAY, {"performance_current": 0.1}, (False, "routine")),
        ("performance", None, {"performance_current": 0.85}, (True, "elevated")),
        ("performance", None, {"performance_current": 0.5}, (True, "critical")),
        ("performance", None, {"performance_current": None, "drift_detected": True}, (False, "routine")),
        ("performance", None, {"performance_baseline": None}, (False, "routine")),
        ("performance", None, {"drift_detected": True}, (False, "routine")),
        ("combined", None, {}, (False, "routine")),
        ("combined", None, {"drift_detected": True}, (False, "routine")),
        ("combined", None, {"drift_detected": True, "performance_current": 0.85}, (True, "elevated")),
        ("combined", None, {"performance_current": 0.85}, (True, "elevated")),
        ("combined", None, {"performance_current": 0.5}, (True, "critical")),
        ("combined", 7 * DAY, {}, (True, "routine")),
        ("combined", 7 * DAY, {"performance_current": 0.5}, (True, "critical")),
        ("combined", 60 * DAY, {}, (False, "routine")),
        ("combined", 7 * DAY, {"performance_current": None}, (True, "routine")),
    ],
)
def test_each_strategy_listens_to_its_own_signals(
    strategy: str, every_s: float | None, changes: dict[str, object], expected: tuple[bool, str]
) -> None:
    signals = replace(SIGNALS, **changes)  # type: ignore[arg-type]
    made = decide(signals, RetrainingPolicy(strategy=strategy, every_s=every_s))
    assert (made.should_retrain, made.urgency) == expected
    assert made.reason


@pytest.mark.parametrize(
    ("age", "due", "said"),
    [
        (8 * DAY, True, "Scheduled retraining is due: no time of the last training is known, but v3 was promoted 691200 s ago,"),
        (6 * DAY, False, "Scheduled retraining is not due yet: no time of the last training is known, but v3 was promoted"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("strategy", ["schedule", "combined"])
def test_without_a_time_of_the_last_training_a_schedule_goes_by_what_came_after_it(
    strategy: str, age: float, due: bool, said: str
) -> None:
    signals = replace(
        SIGNALS, last_trained_at=None, after_training="v3 was promoted", after_training_at=30 * DAY - age
    )
    made = decide(signals, RetrainingPolicy(strategy=strategy, every_s=7 * DAY))
    assert (made.should_retrain, made.urgency) == (due, "routine")
    assert made.reason.startswith(said) or (strategy == "combined" and not due)
    known = replace(signals, last_trained_at=30 * DAY)
    assert not decide(known, RetrainingPolicy(strategy=strategy, every_s=7 * DAY)).should_retrain


def test_combined_without_labels_passes_drift_on_as_a_warning() -> None:
    signals = replace(SIGNALS, drift_detected=True, drift_severity=0.4, performance_current=None)
    made = decide(signals, RetrainingPolicy())
    assert made.reason == (
        "No judgement of performance without mature labels. Drift detected (PSI=0.400). Monitor closely."
    )


@pytest.mark.parametrize("strategy", ["drift", "combined"])
def test_a_reason_names_the_features_that_vanished_up_to_a_few(strategy: str) -> None:
    findings = tuple(f"x{n} missing in 100.0% more rows" for n in range(5))
    signals = replace(SIGNALS, drift_detected=True, drift_findings=findings, performance_current=0.85)
    made = decide(signals, RetrainingPolicy(strategy=strategy))
    assert made.should_retrain
    named = "; ".join(["PSI=0.000", *findings[:3], "2 more"])
    assert f"Drift detected ({named})" in made.reason


def test_performance_on_its_own_does_not_listen_to_drift() -> None:
    signals = replace(SIGNALS, drift_detected=True, performance_current=0.5)
    quiet = replace(signals, drift_detected=False)
    policy = RetrainingPolicy(strategy="performance")
    assert decide(signals, policy) == decide(quiet, policy)


@pytest.mark.parametrize(
    ("urgency", "told", "age", "told_again"),
    [
        ("routine", None, 0.0, True),
        ("routine", "routine", DAY - 1, False),
        ("routine", "routine", DAY, True),
        ("elevated", "routine", 1.0, True),
        ("critical", "elevated", 1.0, True),
        ("elevated", "elevated", 1.0, False),
        ("elevated", "critical", 1.0, False),
        ("elevated", "critical", DAY, True),
        ("routine", "routine", -5.0, False),  # a clock was set back
    ],
)
def test_a_call_to_retrain_is_told_again_when_time_has_passed_or_it_is_more_urgent(
    urgency: Urgency, told: Urgency | None, age: float, told_again: bool
) -> None:
    last = None if told is None else Told(30 * DAY - age, told)
    made = RetrainingDecision(True, "because", urgency)
    assert worth_telling(made, last, 30 * DAY, DAY) is told_again
    assert not worth_telling(replace(made, should_retrain=False), last, 30 * DAY, DAY)


def test_an_unknown_strategy_is_refused() -> None:
    with pytest.raises(ValueError, match="combined"):
        decide(SIGNALS, RetrainingPolicy(strategy="hope"))


@given(
    st.sampled_from(STRATEGIES),
    st.none() | st.booleans(),
    st.none() | st.floats(),
    st.none() | st.floats(),
    st.none() | st.floats(0, 1e9),
    st.none() | st.floats(1, 1e9),
)
def test_every_strategy_answers_whatever_is_known(
    strategy: str,
    drift: bool | None,
    current: float | None,
    baseline: float | None,
    last: float | None,
    every: float | None,
) -> None:
    signals = RetrainingSignals(1e9, last, drift, 0.1, current, baseline)
    made = decide(signals, RetrainingPolicy(strategy=strategy, every_s=every))
    assert made.reason
    assert made.urgency in ("routine", "elevated", "critical")
    assert made.should_retrain or made.urgency == "routine"
