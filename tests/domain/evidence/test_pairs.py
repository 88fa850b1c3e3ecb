"""Pairs on the same input: fair without a winner, and fair about who came first."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.evidence.pairs import (
    ENOUGH,
    OrderEffect,
    log_ratio,
    score_growth,
    side_growth,
)


@dataclass(frozen=True)
class Mirrored:
    version: str = "v1"
    error: bool = False
    control_error: bool = False
    latency_us: int = 10_000
    control_latency_us: int = 10_000


def measured(effect: float, pairs: int = 2000, seed: int = 1) -> OrderEffect:
    rng, known = np.random.default_rng(seed), OrderEffect()
    for first, second in np.exp(rng.normal([effect, 0.0], 0.3, (pairs, 2))):
        known.add(Mirrored(latency_us=int(1e5 * first), control_latency_us=int(1e5 * second)))
    return known


@given(st.floats(0.5, 0.9))
def test_side_bets_have_mean_one_at_their_null_and_less_below(null: float) -> None:
    worse, better = np.exp(side_growth(1, 0, null)), np.exp(side_growth(0, 1, null))
    assert np.allclose(null * worse + (1.0 - null) * better, 1.0, atol=1e-12)
    assert np.all(0.4 * worse + 0.6 * better <= 1.0 + 1e-12)


@given(st.lists(st.floats(-3.0, 3.0), min_size=1, max_size=20))
def test_score_bets_have_mean_at_most_one_when_either_could_have_come_first(differences: list[float]) -> None:
    d = np.array(differences)[:, None]
    mean = 0.5 * (np.exp(score_growth(d)) + np.exp(score_growth(-d)))
    assert np.allclose(mean, 1.0, atol=1e-12)


def test_a_pair_without_two_answers_is_no_latency_pair() -> None:
    assert log_ratio(Mirrored(error=True)) is None
    assert log_ratio(Mirrored(control_error=True)) is None
    assert log_ratio(Mirrored(latency_us=0)) is None
    assert log_ratio(Mirrored(latency_us=20_000)) == pytest.approx(math.log(2.0))


def test_below_ten_milliseconds_nothing_is_slower_than_anything() -> None:
    """Else a model that takes 0.3 ms more than one of 1 ms would be taken back for it."""
    assert log_ratio(Mirrored(latency_us=1_300, control_latency_us=1_000)) == 0.0
    assert log_ratio(Mirrored(latency_us=20_000, control_latency_us=1_000)) == pytest.approx(math.log(2.0))
    known = OrderEffect()
    for _ in range(ENOUGH):
        known.add(Mirrored(latency_us=900, control_latency_us=500))
    margins = known.latency_margins()
    assert margins is not None
    assert np.all(score_growth([0.0] * 100, *margins) <= 0.0)


def test_an_unknown_ratio_is_no_latency_pair() -> None:
    assert np.all(score_growth([math.nan, math.nan]) == 0.0)


def test_until_enough_pairs_are_known_there_is_no_margin_and_then_a_wide_one() -> None:
    """The second call of fast servers may take half as long: no guess covers that."""
    assert measured(0.05, pairs=ENOUGH - 1).latency_margins() is None
    few, many = measured(0.05, pairs=ENOUGH).latency_margins(), measured(0.05, pairs=2_000).latency_margins()
    assert few is not None
    assert many is not None
    assert all(wide > narrow for wide, narrow in zip(few, many, strict=True))


@pytest.mark.parametrize("effect", [-0.1, 0.0, 0.05, 0.3])
def test_the_measured_margin_covers_the_order_effect_and_little_more(effect: float) -> None:
    # Standard error of the median of 2,000 pairs: 1.25 · .42 / √2000 = .012; 3.72 of them, and a bin on either side.
    margins = measured(effect).latency_margins()
    assert margins is not None
    for margin in margins:
        assert effect - 0.01 <= margin <= effect + 2 * 3.72 * 0.012 + 0.02


def test_an_order_effect_of_the_errors_counts_only_when_it_is_sure() -> None:
    known = OrderEffect()
    assert known.error_side() == 0.5
    for i in range(100):
        known.add(Mirrored(error=i % 2 == 0, control_error=i % 2 == 1))
    assert known.error_side() == 0.5
    for _ in range(100):
        known.add(Mirrored(error=True))
    assert 0.75 < known.error_side() < 0.9


def test_what_is_known_of_the_order_effect_survives_storing() -> None:
    known = measured(0.05, pairs=300)
    again = OrderEffect.from_state(json.loads(json.dumps(known.state())))
    assert again.latency_margins() == known.latency_margins()
    with pytest.raises(ValueError, match="order effect"):
        OrderEffect.from_state({"bins": 1, "errors": 2})
