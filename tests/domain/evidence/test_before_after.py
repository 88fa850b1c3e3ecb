"""A candidate that nothing compares is taken back for what the former version surely never did, and for nothing less."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from app.domain.evidence.batch import Arm
from app.domain.evidence.before_after import (
    REMEMBERED,
    SLOW_SECONDS,
    BeforeAfter,
    Limits,
    are_expected,
    upper_bound,
)
from app.domain.evidence.tick import latency_bucket

THRESHOLD = math.log(1e4)
FAST, LATE = latency_bucket(80.0), latency_bucket(2000.0)


def known(requests: int = 2000, errors: int = 8, **limits: float) -> BeforeAfter:
    """After a former version that failed on some requests and answered the others in 80 ms."""
    found = BeforeAfter(Limits(**limits))
    found.before(Arm(requests, errors, {FAST: requests - errors}))
    return found


def seconds(found: BeforeAfter, arm: Arm, most: int = 300) -> int:
    """How many such seconds until the threshold; `most` when that many are not enough."""
    for second in range(1, most + 1):
        found.after(arm, pairs=0, share=0.0)
        if found.log_e >= THRESHOLD:
            return second
    return most


@given(st.integers(0, 400), st.integers(1, 4000), st.sampled_from([0.05, 1e-4]))
def test_a_true_rate_lies_above_the_bound_with_probability_alpha_at_the_most(
    k: int, n: int, alpha: float
) -> None:
    k = min(k, n)
    bound = upper_bound(k, n, alpha)
    assert k / n <= bound <= 1.0
    if bound < 1.0:
        assert binom.cdf(k, n, bound) <= alpha * (1.0 + 1e-6)


@pytest.mark.parametrize(
    ("requests", "most"), [(50, 12), (100, 7), (150, 6), (300, 5), (2000, 4)], ids=lambda value: str(value)
)
def test_a_version_that_fails_wholly_is_out_after_a_few_seconds_the_fewer_the_more_is_known(
    requests: int, most: int
) -> None:
    assert seconds(known(requests, 0), Arm(30, 30)) == most


@pytest.mark.parametrize(("part", "most"), [(0.5, 10), (0.2, 20), (0.1, 60)])
def test_a_version_that_fails_more_often_than_tolerated_is_out_sooner_the_worse_it_is(
    part: float, most: int
) -> None:
    found, bad = known(), round(40 * part)
    assert seconds(found, Arm(40, bad)) <= most
    assert f"of {found.since.requests} requests failed, up to 5 % are tolerated" in found.finding
    assert "failed on 8 of 2000" in found.finding


def test_a_version_that_answers_late_is_out_and_one_that_stalls_for_some_seconds_is_not() -> None:
    late, fine = Arm(30, 0, {LATE: 30}), Arm(30, 0, {FAST: 30})
    found = known()
    for arm in [late] * (2 * SLOW_SECONDS) + [fine] * 300:
        found.after(arm, pairs=0, share=0.0)
        assert found.log_e < THRESHOLD
    found = known()
    assert seconds(found, late) == 3 * SLOW_SECONDS
    assert "answers took more than" in found.finding


def test_a_second_in_which_everything_fails_is_one_event_however_many_requests_it_had() -> None:
    found = known()
    for arm in [Arm(10_000, 10_000)] * 3 + [Arm(100, 0)] * 300:
        found.after(arm, pairs=0, share=0.0)
        assert found.log_e < THRESHOLD


@pytest.mark.parametrize("together", [True, False], ids=["whole seconds", "single requests"])
def test_a_version_at_the_tolerated_rate_is_taken_back_no_more_often_than_alpha(together: bool) -> None:
    """Failures one by one, and in whole seconds: the same rate, and the votes hang together in the second case only."""
    runs, alpha, n = 150, 0.05, 20
    rng, false = np.random.default_rng(1), 0
    for _ in range(runs):
        found, peak = known(alpha=alpha), -math.inf
        tolerated = found.former.tolerated(found.limits)
        for _ in range(300):
            bad = n * int(rng.random() < tolerated.errors) if together else rng.binomial(n, tolerated.errors)
            slow = n * int(rng.random() < tolerated.slow) if together else rng.binomial(n, tolerated.slow)
            found.after(Arm(n, int(bad), {FAST: n - int(slow), LATE: int(slow)}), pairs=0, share=0.0)
            peak = max(peak, found.log_e)
        false += peak >= math.log(1.0 / alpha)
    assert false <= binom.ppf(0.999, runs, alpha)


@pytest.mark.parametrize("requests", [0, 10])
def test_of_a_former_version_that_hardly_answered_too_little_is_known_to_blame_anyone(requests: int) -> None:
    assert seconds(known(requests, 0), Arm(30, 30)) == 300


def test_the_limits_are_tolerated_however_good_the_former_version_was() -> None:
    assert seconds(known(errors=0, error_rate=0.3), Arm(100, 29, {FAST: 71})) == 300
    assert seconds(known(latency_ms=2500.0), Arm(100, 0, {LATE: 100})) == 300


def test_twice_what_a_former_version_can_have_failed_is_tolerated() -> None:
    """It failed on a tenth of 2,000: at most on 13.2 % (Chernoff), so 26 % are no news."""
    assert seconds(known(errors=200), Arm(100, 26, {FAST: 74})) == 300
    assert seconds(known(errors=200), Arm(100, 60, {FAST: 40})) < 60
    assert seconds(known(errors=200, margin=5.0), Arm(100, 60, {FAST: 40})) == 300


def test_while_pairs_come_or_can_be_expected_nothing_is_bet() -> None:
    found = known()
    for _ in range(100):
        found.after(Arm(30, 30), pairs=3, share=0.1)
    assert found.since.requests == 0
    for _ in range(7):  # a tenth of 210 requests was to be compared, and not one pair came
        found.after(Arm(30, 30), pairs=0, share=0.1)
    assert (found.unpaired, found.since.requests) == (210, 0)
    assert not are_expected(found.unpaired, 0.1)
    assert seconds(found, Arm(30, 30)) == 4


def test_what_the_former_version_answers_after_the_first_vote_changes_nothing() -> None:
    found = known()
    found.after(Arm(30, 30), pairs=0, share=0.0)
    fixed = found.tolerated
    found.before(Arm(1000, 1000))
    found.after(Arm(30, 30), pairs=0, share=0.0)
    assert found.tolerated == fixed
    assert found.former.errors == 8


def test_the_former_versions_latest_answers_count_most_and_memory_does_not_grow() -> None:
    found = BeforeAfter(Limits())
    found.before(Arm(5 * REMEMBERED, 0, {FAST: 5 * REMEMBERED}))
    for _ in range(20):
        found.before(Arm(REMEMBERED, REMEMBERED // 5, {FAST: 4 * REMEMBERED // 5}))
    assert found.former.requests < 2 * REMEMBERED
    assert found.former.errors / found.former.requests == pytest.approx(0.2, abs=0.001)


def test_a_stored_comparison_goes_on_where_it_stopped() -> None:
    kept = known()
    for _ in range(3):
        kept.after(Arm(20, 3, {FAST: 16, LATE: 1}), pairs=0, share=0.0)
    read = BeforeAfter.from_state(json.loads(json.dumps(kept.state())))
    for one in (kept, read):
        for _ in range(4):
            one.after(Arm(20, 3, {FAST: 16, LATE: 1}), pairs=0, share=0.0)
    assert (read.log_e, read.finding, read.unpaired) == (kept.log_e, kept.finding, kept.unpaired)
    fresh = BeforeAfter.from_state(json.loads(json.dumps(known().state())))
    assert (fresh.tolerated, fresh.finding) == (None, "")
    with pytest.raises(ValueError, match="before and after"):
        BeforeAfter.from_state({**kept.state(), "stakes": [[0.0], [0.0]]})
    with pytest.raises(ValueError, match="before and after"):
        BeforeAfter.from_state({**kept.state(), "votes": None})
