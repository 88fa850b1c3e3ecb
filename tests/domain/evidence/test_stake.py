"""The stake enters by and by, and never more of it than there is."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from app.domain.evidence.stake import AT_ONCE, Drip, Stake, grown, opening

EVEN = np.full(4, 0.25)


@given(st.floats(0.0, 1e7), st.floats(0.0, 1e7), st.integers(1, 10_000))
def test_what_has_entered_only_rises_and_stays_below_one(age: float, later: float, horizon: int) -> None:
    drip = Drip(horizon)
    assert AT_ONCE <= drip.entered(age) <= drip.entered(age + later) <= 1.0


def test_without_luck_the_e_value_is_what_has_entered() -> None:
    drip, stake = Drip(100), Stake(EVEN)
    for tick in range(1000):
        stake.grow(np.zeros(4), drip.entered(tick + 1) - drip.entered(tick))
    assert np.isclose(np.exp(stake.log_e), drip.entered(1000))


def test_what_enters_late_has_not_lost_yet() -> None:
    losing, fresh = Stake(EVEN), Stake(EVEN)
    for _ in range(500):
        losing.grow(np.full(4, -0.1), 0.0)
        fresh.grow(np.full(4, -0.1), 0.0001)
    assert fresh.log_e > losing.log_e + 30.0


def test_many_runs_at_once_are_each_its_own() -> None:
    rng = np.random.default_rng(3)
    growth = rng.normal(size=(5, 4))
    together = grown(np.tile(opening(EVEN), (5, 1)), growth, EVEN, 0.01)
    for run in range(5):
        assert np.allclose(together[run], grown(opening(EVEN), growth[run], EVEN, 0.01))
