"""A batch counts once, whenever and in whatever order it comes."""

from __future__ import annotations

import random
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from app.domain.evidence.batch import WINDOW, Arm, Seen, Stratum, batch_of
from app.domain.evidence.pooling import ENOUGH, MOST_PERCENTAGES, Pool


@dataclass(frozen=True)
class Counted:
    version: str
    role: str
    percent: float
    requests: int
    errors: int
    shared_errors: int
    latency: dict[int, int]


def counts(version: str, role: str, percent: float = 5.0, requests: int = 10, **more: int) -> Counted:
    errors, shared = more.get("errors", 0), more.get("shared", 0)
    return Counted(version, role, percent, requests, errors, shared, {50: requests})


def test_a_batch_holds_the_two_arms_and_nothing_else() -> None:
    batch = batch_of(
        "w0",
        7,
        [
            counts("v1", "production"),
            counts("v2", "canary", requests=2),
            counts("v2", "shadow", requests=5),
            counts("v1", "control"),
            counts("v3", "shadow"),
        ],
        candidate="v2",
        production="v1",
    )
    assert batch.strata == (Stratum(5.0, Arm(10, 0, {50: 10}), Arm(2, 0, {50: 2})),)
    assert batch.shadow_requests == 5


def test_an_error_that_production_shares_is_not_the_canarys() -> None:
    (stratum,) = batch_of(
        "w0", 7, [counts("v2", "canary", errors=4, shared=3)], candidate="v2", production="v1"
    ).strata
    assert stratum.candidate.errors == 1
    assert stratum.candidate.requests == 10


def test_each_percentage_is_a_stratum_of_its_own() -> None:
    found = [counts("v1", "production", p) for p in (10.0, 5.0, 10.0)]
    strata = batch_of("w0", 7, found, candidate="v2", production="v1").strata
    assert [(s.percent, s.production.requests) for s in strata] == [(5.0, 10), (10.0, 20)]


def test_a_batch_is_admitted_once_in_any_order() -> None:
    keys = [(f"w{r}", t) for r in range(3) for t in range(1000, 1100)]
    random.Random(4).shuffle(keys)
    seen = Seen()
    assert all(seen.admit(r, t, 1100) for r, t in keys)
    assert not any(seen.admit(r, t, 1100) for r, t in keys)


def test_what_is_too_old_or_of_the_far_future_is_refused() -> None:
    seen = Seen()
    assert not seen.admit("w0", 1000 - WINDOW, 1000)
    assert not seen.admit("w0", 1001 + WINDOW, 1000)
    assert seen.admit("w0", 1001 - WINDOW, 1000)
    assert seen.admit("w0", 1000 + WINDOW, 1000)


def test_a_replica_that_is_gone_is_forgotten_and_its_batches_stay_refused() -> None:
    seen = Seen()
    assert seen.admit("w0", 1000, 1000)
    seen.forget(1000 + WINDOW)
    assert seen.marks() == {}
    assert not seen.admit("w0", 1000, 1000 + WINDOW)


strata = st.builds(
    lambda n, c, percent: Stratum(percent, Arm(n, 0, {50: n}), Arm(c, 0, {60: c})),
    st.integers(0, 30),
    st.integers(0, 5),
    st.sampled_from([0.0, 1.0, 5.0, 50.0, 100.0]),
)


@given(st.lists(st.lists(strata, max_size=5), max_size=20))
def test_no_request_of_a_running_canary_is_lost_or_doubled_by_waiting(looks: list[list[Stratum]]) -> None:
    pool, ready = Pool(), []
    for look in looks:
        ready += pool.ready(look)
    compared = [s for look in looks for s in look if 0.0 < s.percent < 100.0]
    for percent in (1.0, 5.0, 50.0):
        given_in = sum(s.candidate.requests + s.production.requests for s in compared if s.percent == percent)
        bet_on = [s for s in [*ready, *pool.waiting] if s.percent == percent]
        assert sum(s.candidate.requests + s.production.requests for s in bet_on) == given_in
    assert all(s.information >= ENOUGH for s in ready)


@given(st.lists(strata, max_size=10), st.randoms())
def test_the_order_of_a_ticks_strata_does_not_matter(look: list[Stratum], rng: random.Random) -> None:
    shuffled = look.copy()
    rng.shuffle(shuffled)
    one, other = Pool(), Pool()

    def total(found: list[Stratum]) -> list[tuple[float, int, int]]:
        return sorted((s.percent, s.production.requests, s.candidate.requests) for s in found)

    assert total(one.ready(look)) == total(other.ready(shuffled))


def test_a_pool_keeps_a_bounded_number_of_percentages() -> None:
    pool = Pool()
    for i in range(10 * MOST_PERCENTAGES):
        pool.ready([Stratum(0.01 * (i + 1), production=Arm(1))])
    assert len(pool.waiting) <= MOST_PERCENTAGES
