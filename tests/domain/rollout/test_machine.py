"""A canary never goes up without reason, never skips a stage, and never waits to come down."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.rollout import (
    TRANSITIONS,
    VERDICT,
    Action,
    DisableCandidate,
    EndWatch,
    Event,
    Evidence,
    GuardMode,
    Health,
    PromoteCandidate,
    RestoreProduction,
    Rollout,
    SetCanaryPercent,
    StartShadow,
    State,
    Trigger,
    act,
    apply,
    replay,
    start,
    step,
    verdict_on,
)
from app.errors import ConflictError, InvalidError

Course = list[tuple[float, Evidence, Action | None]]
STAGES = (5.0, 25.0, 100.0)
DWELL_S, MIN_REQUESTS, WATCH_S = 60.0, 20, 120.0


def begun(**changes: object) -> Rollout:
    arguments: dict[str, object] = {
        "id": "r1",
        "model": "credit",
        "candidate": "v2",
        "production": "v1",
        "stages": STAGES,
        "dwell_s": DWELL_S,
        "min_requests": MIN_REQUESTS,
        "salt": "r1",
        "now": 1000.0,
        "watch_s": WATCH_S,
        **changes,
    }
    return start(**arguments)  # type: ignore[arg-type]


def fine(requests: int, at: float) -> Evidence:
    return Evidence(requests=requests, shadow_requests=requests, last_request_at=at, log_e=-0.7)


def at_stage(index: int, now: float = 1000.0, requests: int = 0) -> Rollout:
    rollout = step(begun(), fine(0, now), now).rollout
    for _ in range(index):
        rollout = act(rollout, Action.ADVANCE, "test", now, fine(requests, now)).rollout
    return rollout


def in_every_open_state() -> list[Rollout]:
    paused = act(at_stage(1), Action.PAUSE, "test", 1010.0, fine(0, 1010.0)).rollout
    promoted = act(at_stage(1), Action.PROMOTE, "test", 1010.0, fine(0, 1010.0)).rollout
    shadowing = step(begun(shadow_dwell_s=5.0), fine(0, 1000.0), 1000.0).rollout
    return [begun(), shadowing, at_stage(0), at_stage(2), paused, promoted]


evidences = st.builds(
    Evidence,
    requests=st.integers(0, 400),
    shadow_requests=st.integers(0, 400),
    last_request_at=st.none() | st.floats(900.0, 3000.0),
    log_e=st.floats(-5.0, 12.0),
    guard_tripped=st.booleans(),
    guard_reason=st.sampled_from(["", "Error rate 9.0% exceeds threshold 5.0%."]),
    production_guard_tripped=st.booleans(),
    labels=st.integers(0, 100),
    decisive_metric=st.sampled_from(["", "errors"]),
    pairs=st.integers(0, 400),
    pair_share=st.sampled_from([0.0, 0.1]),
    unpaired_requests=st.integers(0, 400),
    pairs_expected=st.booleans(),
    former_log_e=st.floats(-5.0, 12.0),
    former_finding=st.sampled_from(["", "20 of 20 requests failed"]),
)
rollouts = st.builds(
    begun,
    stages=st.sampled_from([(5.0, 25.0, 100.0), (100.0,), (1.0, 50.0)]),
    dwell_s=st.sampled_from([0.0, 60.0]),
    min_requests=st.sampled_from([0, 20]),
    shadow_dwell_s=st.sampled_from([0.0, 30.0]),
    min_labels=st.sampled_from([0, 50]),
    guard_mode=st.sampled_from([str(m) for m in GuardMode]),
)
# How long after the last one, what is known then, and what an operator does first, if anything.
looks = st.lists(
    st.tuples(st.floats(-50.0, 200.0), evidences, st.none() | st.sampled_from(Action)), max_size=30
)


@dataclass(frozen=True)
class Taken:
    """One event of a course: the rollout before and after it, what was known, and whether an operator asked."""

    before: Rollout
    after: Rollout
    event: Event
    evidence: Evidence
    now: float
    asked: bool


def course_of(rollout: Rollout, course: Course) -> list[Taken]:
    """What steps and actions make of it, event by event."""
    now, taken = 1000.0, []
    for after, evidence, action in course:
        now += after
        results = []
        if action is not None:
            try:
                results.append((act(rollout, action, "an operator's reason", now, evidence), True))
            except ConflictError:
                results = []
        standing = results[-1][0].rollout if results else rollout
        results.append((step(standing, evidence, now), False))
        for result, asked in results:
            for event in result.events:
                changed = apply(rollout, event)
                taken.append(Taken(rollout, changed, event, evidence, now, asked))
                rollout = changed
            assert rollout == result.rollout
    return taken


@given(rollouts, looks)
def test_a_rollout_goes_up_by_itself_only_after_dwell_and_requests_with_a_healthy_verdict(
    rollout: Rollout, course: Course
) -> None:
    for t in course_of(rollout, course):
        up = t.event.kind in (Trigger.ADVANCE, Trigger.PROMOTE)
        if t.asked or not up or t.before.state is State.PENDING:
            continue
        shadowing = t.before.state is State.SHADOWING
        assert t.before.elapsed_s(t.now) >= (t.before.shadow_dwell_s if shadowing else t.before.dwell_s)
        wanted = t.before.shadow_min_requests if shadowing else t.before.min_requests
        assert t.before.requests_in_stage(t.evidence) >= max(wanted, 1)
        assert verdict_on(t.before, t.evidence, t.now).health is Health.HEALTHY


@given(rollouts, looks)
def test_no_stage_is_skipped_without_an_operator(rollout: Rollout, course: Course) -> None:
    for t in course_of(rollout, course):
        assert t.after.stage_index - t.before.stage_index == (1 if t.event.kind == Trigger.ADVANCE else 0)
        if t.event.kind == Trigger.PROMOTE and not t.asked:
            assert t.before.stage_index == len(t.before.stages) - 1


@given(rollouts, looks)
def test_the_log_of_events_alone_gives_the_same_state(rollout: Rollout, course: Course) -> None:
    taken = course_of(rollout, course)
    last = taken[-1].after if taken else rollout
    assert replay(rollout, [t.event for t in taken]) == last


@given(rollouts, looks)
def test_every_change_of_state_stands_in_the_table(rollout: Rollout, course: Course) -> None:
    for t in course_of(rollout, course):
        if t.event.kind == VERDICT:
            assert t.after.state is t.before.state
        else:
            assert t.after.state in TRANSITIONS[t.before.state, Trigger(t.event.kind)]


@given(rollouts, looks)
def test_the_figures_of_an_event_are_enough_to_decide_it_again(rollout: Rollout, course: Course) -> None:
    for t in course_of(rollout, course):
        read = Evidence.from_figures(t.event.figures)
        assert read == t.evidence
        assert t.event.figures["requests_in_stage"] == t.before.requests_in_stage(t.evidence)
        assert t.event.figures["elapsed_s"] == t.before.elapsed_s(t.now)
        if not t.asked:
            assert t.event.figures["health"] == verdict_on(t.before, read, t.event.at).health


@given(rollouts, looks)
def test_conclusive_evidence_rolls_back_in_the_same_look_whatever_else_holds(
    rollout: Rollout, course: Course
) -> None:
    last = rollout
    for t in course_of(rollout, course):
        last = t.after
    worse = Evidence(log_e=9.3, threshold=9.21)  # not a request counted, no time passed
    result = step(last, worse, 1000.0)
    if last.is_open:
        assert result.rollout.state is State.ROLLED_BACK
        assert len(result.commands) == 1
    else:
        assert result.events == ()


@given(rollouts, looks)
def test_without_data_a_rollout_waits_where_it_is(rollout: Rollout, course: Course) -> None:
    rollout = step(rollout, Evidence(), 1000.0).rollout
    now = 1000.0
    for after, _, _ in course:
        now += abs(after)
        result = step(rollout, Evidence(), now)
        assert result.commands == ()
        assert result.verdict is not None
        assert result.verdict.health is Health.NO_DATA
        rollout = result.rollout
    assert rollout.state in (State.SHADOWING, State.CANARY)


@pytest.mark.parametrize("rollout", in_every_open_state(), ids=lambda r: f"{r.state}-{r.stage_index}")
def test_an_operator_can_take_the_candidate_out_of_any_open_state(rollout: Rollout) -> None:
    result = act(rollout, Action.ROLLBACK, "I do not like it", 1011.0, fine(0, 1011.0))
    assert result.rollout.state is State.ROLLED_BACK
    assert result.rollout.reason == "I do not like it"
    promoted = rollout.state is State.PROMOTED
    assert isinstance(result.commands[0], RestoreProduction if promoted else DisableCandidate)


def test_an_undisturbed_rollout_runs_through_its_stages_to_production_and_ends_after_the_watch() -> None:
    rollout, now, commands = begun(), 1000.0, []
    for second in range(1000):
        now = 1000.0 + second
        result = step(rollout, fine(second, now), now)
        rollout = result.rollout
        commands += [(second, c) for c in result.commands]
    assert [c for _, c in commands] == [
        SetCanaryPercent("v2", 5.0, "r1"),
        SetCanaryPercent("v2", 25.0, "r1"),
        SetCanaryPercent("v2", 100.0, "r1"),
        PromoteCandidate("v2", "v1"),
        EndWatch("v1"),
    ]
    assert [s for s, _ in commands] == [0, 60, 120, 180, 300]
    assert rollout.state is State.PROMOTED
    assert not rollout.is_open


def test_a_rollout_shadows_first_when_it_is_asked_to() -> None:
    rollout = begun(shadow_dwell_s=30.0, shadow_min_requests=10)
    result = step(rollout, fine(0, 1000.0), 1000.0)
    assert result.commands == (StartShadow("v2"),)
    shadowed = Evidence(shadow_requests=9, last_request_at=1040.0)
    assert step(result.rollout, shadowed, 1040.0).commands == ()
    enough = Evidence(shadow_requests=10, last_request_at=1040.0)
    result = step(result.rollout, enough, 1040.0)
    assert result.commands == (SetCanaryPercent("v2", 5.0, "r1"),)
    assert result.rollout.requests_in_stage(enough) == 0  # no shadow answer counts for a canary stage


def test_requests_of_an_earlier_stage_do_not_count_for_the_next() -> None:
    rollout = step(at_stage(0), fine(500, 1060.0), 1060.0).rollout
    assert rollout.stage_index == 1
    assert step(rollout, fine(519, 1200.0), 1200.0).commands == ()
    assert step(rollout, fine(520, 1200.0), 1200.0).commands == (SetCanaryPercent("v2", 100.0, "r1"),)


def test_evidence_short_of_the_threshold_halts_the_stage_and_lets_it_go_on_when_it_fades() -> None:
    rollout = at_stage(0)
    halted = step(rollout, Evidence(requests=500, last_request_at=1100.0, log_e=5.0), 1100.0)
    assert halted.verdict is not None
    assert halted.verdict.health is Health.DEGRADED
    assert halted.commands == ()
    assert [e.kind for e in halted.events] == [VERDICT]
    assert step(halted.rollout, fine(500, 1101.0), 1101.0).commands == (SetCanaryPercent("v2", 25.0, "r1"),)


def test_a_pause_holds_the_share_and_its_time_does_not_count_as_dwell() -> None:
    rollout = act(at_stage(0), Action.PAUSE, "lunch", 1040.0, fine(100, 1040.0)).rollout
    assert rollout.percent == 5.0
    assert step(rollout, fine(500, 2000.0), 2000.0).commands == ()
    rollout = act(rollout, Action.RESUME, "back", 2000.0, fine(500, 2000.0)).rollout
    assert rollout.state is State.CANARY
    assert step(rollout, fine(500, 2019.0), 2019.0).commands == ()
    assert step(rollout, fine(500, 2020.0), 2020.0).commands == (SetCanaryPercent("v2", 25.0, "r1"),)


def test_a_paused_shadow_resumes_as_a_shadow() -> None:
    rollout = step(begun(shadow_dwell_s=30.0), fine(0, 1000.0), 1000.0).rollout
    paused = act(rollout, Action.PAUSE, "test", 1001.0, fine(0, 1001.0)).rollout
    assert act(paused, Action.RESUME, "test", 1002.0, fine(0, 1002.0)).rollout.state is State.SHADOWING


def test_a_clock_that_jumps_back_only_makes_a_stage_wait() -> None:
    rollout = at_stage(0)
    assert step(rollout, fine(500, -5000.0), -5000.0).commands == ()


def watched_alone(now: float, **changes: object) -> Evidence:
    known: dict[str, object] = {"requests": 500, "last_request_at": now, "log_e": -0.7, "pairs": 30}
    return Evidence(**{**known, **changes})  # type: ignore[arg-type]


def test_during_the_watch_only_pairs_that_came_since_the_promotion_make_a_verdict() -> None:
    before = watched_alone(1100.0, requests=100, pair_share=0.1)
    rollout = act(at_stage(2), Action.PROMOTE, "test", 1100.0, before).rollout
    assert rollout.pairs_at_entry == 30
    assert verdict_on(rollout, watched_alone(1110.0, pair_share=0.1), 1110.0).health is Health.NO_DATA
    with_one = watched_alone(1110.0, pair_share=0.1, pairs=31)
    assert verdict_on(rollout, with_one, 1110.0).health is Health.HEALTHY


@pytest.mark.parametrize("promoted", [True, False])
def test_what_does_far_worse_than_the_former_version_did_is_taken_back_where_nothing_compares_them(
    promoted: bool,
) -> None:
    rollout = at_stage(2)
    if promoted:
        rollout = act(rollout, Action.PROMOTE, "test", 1100.0, fine(100, 1100.0)).rollout
    worse = watched_alone(1110.0, pairs_expected=False, former_log_e=9.3)
    result = step(rollout, worse, 1110.0)
    assert result.rollout.state is State.ROLLED_BACK
    assert isinstance(result.commands[0], RestoreProduction if promoted else DisableCandidate)
    assert step(at_stage(1), worse, 1110.0).rollout.state is State.CANARY  # its arms are compared


@given(rollouts, looks)
def test_a_watch_in_which_nothing_is_compared_is_never_healthy(rollout: Rollout, course: Course) -> None:
    for t in course_of(rollout, course):
        if t.before.state is State.PROMOTED and not t.evidence.pairs_expected:
            assert verdict_on(t.before, t.evidence, t.now).health is not Health.HEALTHY


def test_what_degrades_during_the_watch_gives_production_back_to_the_former_version() -> None:
    rollout = act(at_stage(2), Action.PROMOTE, "test", 1100.0, fine(0, 1100.0)).rollout
    result = step(rollout, Evidence(requests=5, last_request_at=1101.0, log_e=9.5), 1101.0)
    assert isinstance(result.commands[0], RestoreProduction)
    assert result.commands[0].production == "v1"
    assert result.rollout.state is State.ROLLED_BACK


def test_after_the_end_nothing_moves_a_rollout() -> None:
    over = act(at_stage(0), Action.ROLLBACK, "test", 1001.0, fine(0, 1001.0)).rollout
    assert step(over, fine(500, 9000.0), 9000.0).events == ()
    for action in Action:
        with pytest.raises(ConflictError, match="rolled_back"):
            act(over, action, "test", 9000.0, fine(0, 9000.0))


def test_an_operator_can_skip_what_the_controller_may_not() -> None:
    assert act(at_stage(0), Action.ADVANCE, "hurry", 1001.0, fine(0, 1001.0)).rollout.percent == 25.0
    last = act(at_stage(2), Action.ADVANCE, "hurry", 1001.0, fine(0, 1001.0))
    assert last.commands == (PromoteCandidate("v2", "v1"),)
    with pytest.raises(ConflictError):
        act(at_stage(0), Action.RESUME, "was not paused", 1001.0, fine(0, 1001.0))


def test_an_operator_can_end_the_watch_early() -> None:
    promoted = act(at_stage(2), Action.PROMOTE, "test", 1100.0, fine(0, 1100.0)).rollout
    result = act(promoted, Action.ADVANCE, "seen enough", 1101.0, fine(0, 1101.0))
    assert result.commands == (EndWatch("v1"),)
    assert not result.rollout.is_open


def test_without_enough_mature_labels_nobody_leaves_the_shadow_and_nobody_is_promoted() -> None:
    labelled = Evidence(requests=500, shadow_requests=500, last_request_at=1100.0, labels=50)
    few = Evidence(requests=500, shadow_requests=500, last_request_at=1100.0, labels=49)
    shadowing = step(begun(shadow_dwell_s=5.0, min_labels=50), fine(0, 1000.0), 1000.0).rollout
    waits = step(shadowing, few, 1100.0)
    assert (waits.commands, waits.rollout.reason) == ((), "49 of 50 mature labels.")
    assert step(shadowing, labelled, 1100.0).rollout.percent == 5.0
    rollout = step(begun(min_labels=50), fine(0, 1000.0), 1000.0).rollout
    rollout = step(rollout, few, 1100.0).rollout
    assert rollout.percent == 25.0  # between stages it is not asked for
    rollout = act(rollout, Action.ADVANCE, "test", 1100.0, few).rollout
    more = Evidence(requests=900, last_request_at=1200.0, labels=49)
    assert step(rollout, more, 1200.0).rollout.state is State.CANARY
    enough = Evidence(requests=900, last_request_at=1200.0, labels=50)
    assert step(rollout, enough, 1200.0).rollout.state is State.PROMOTED
    assert act(rollout, Action.PROMOTE, "an operator may", 1200.0, more).rollout.state is State.PROMOTED


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"candidate": "v1"}, "candidate"),
        ({"stages": ()}, "stages"),
        ({"stages": (5.0, 5.0)}, "stages"),
        ({"stages": (50.0, 25.0)}, "stages"),
        ({"stages": (0.0, 25.0)}, "stages"),
        ({"stages": (5.0, 101.0)}, "stages"),
        ({"stages": (math.nan,)}, "stages"),
        ({"dwell_s": -1.0}, "dwell_s"),
        ({"dwell_s": math.nan}, "dwell_s"),
        ({"watch_s": math.inf}, "watch_s"),
        ({"min_requests": -1}, "min_requests"),
        ({"guard_mode": "maybe"}, "guard_mode"),
    ],
)
def test_a_rollout_that_makes_no_sense_is_refused_by_the_name_of_the_fault(
    changes: dict[str, object], named: str
) -> None:
    with pytest.raises(InvalidError, match=named):
        begun(**changes)
