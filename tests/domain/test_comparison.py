"""Comparing production with a shadow: numbers, labels, lists, neither; and the summary of a stream."""

from __future__ import annotations

import json
from math import inf, nan
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.comparison import Comparison, Comparisons, Prediction, apart, compare

NUMBER = st.floats(allow_nan=True, allow_infinity=True)
PREDICTION = st.recursive(
    st.none() | st.booleans() | NUMBER | st.integers() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=4),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("production", "shadow", "difference", "agreement"),
    [
        (0.50, 0.52, 0.02, True),
        (0.50, 0.55, 0.05, False),  # |0.55 - 0.50| is 0.05000…04: the threshold itself does not agree
        (0.0, 0.05, 0.05, False),
        (0.52, 0.50, -0.02, True),
        (1, 1.04, 0.04, True),
        ("cat", "cat", None, True),
        ("cat", "dog", None, False),
        (True, True, None, True),
        (True, False, None, False),
        (True, 1, None, True),
        (1.0, "1.0", None, False),
        (nan, nan, None, True),
        (nan, 0.5, None, False),
        (0.5, nan, None, False),
        (inf, inf, 0.0, True),
        (inf, -inf, None, False),
        (1.0, inf, None, False),
        (-1.7e308, 1.7e308, None, False),
        (10**400, 10**400, 0.0, True),
        (None, 0.5, None, None),
        (0.5, None, None, None),
        (None, None, None, None),
        ([0.1, 0.2], [0.1, 0.21], 0.01, True),
        ([0.1, 0.9], [0.4, 0.7], 0.3, False),
        ([0.1, 0.2], [0.1], None, False),
        ([], [], None, True),
        ([0.1], 0.1, None, False),
        ([["a"], [1.0]], [["a"], [1.01]], 0.01, True),
        ([0.1, None], [0.12, 0.3], 0.02, None),
        ([0.1, None, "a"], [0.12, 0.3, "b"], 0.02, False),
    ],
)
def test_each_kind_of_pair_is_compared_by_its_own_rule(
    production: Prediction, shadow: Prediction, difference: float | None, agreement: bool | None
) -> None:
    made = compare(production, shadow)
    assert made.agreement is agreement
    assert made.difference == (None if difference is None else pytest.approx(difference))
    assert made.reason


@pytest.mark.parametrize(
    ("production", "shadow", "reason"),
    [
        (None, 1.0, "no production prediction"),
        (None, None, "no production and shadow prediction"),
        (0.5, nan, "shadow is NaN"),
        (0.5, 0.75, "|0.25| >= 0.05"),
        ([1.0, 2.0], [1.0, 3.0], "element 1: |1| >= 0.05"),
        ([1.0], [1.0, 2.0], "1 elements against 2"),
    ],
)
def test_the_reason_says_what_was_found(production: Prediction, shadow: Prediction, reason: str) -> None:
    assert compare(production, shadow).reason == reason


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(0, 10))
def test_finite_numbers_follow_the_source_rule(production: float, shadow: float, threshold: float) -> None:
    made = compare(production, shadow, threshold)
    assert made.agreement == (production == shadow or abs(production - shadow) < threshold)
    assert made.difference == shadow - production


@pytest.mark.parametrize(
    ("production", "shadow", "agreement"),
    [
        (0.5, 0.5, True),
        (0.0, -0.0, True),
        (3, 3.0, True),
        (0.5, 0.5000000000000001, False),
        ([0.5, 0.25], [0.5, 0.25], True),
        ([0.5, 0.25], [0.5, 0.26], False),
    ],
)
def test_with_a_threshold_of_0_equal_numbers_agree_and_no_others(
    production: Prediction, shadow: Prediction, agreement: bool
) -> None:
    assert compare(production, shadow, 0.0).agreement is agreement
    assert apart(production, shadow, 0.0)[1] is agreement


@given(PREDICTION, PREDICTION, st.sampled_from([0.0, 0.05]))
def test_with_and_without_words_the_answer_is_the_same(
    a: Prediction, b: Prediction, threshold: float
) -> None:
    made = compare(a, b, threshold)
    assert apart(a, b, threshold) == (made.difference, made.agreement)


@given(PREDICTION, PREDICTION)
def test_any_two_predictions_can_be_compared_and_the_verdict_is_symmetric(
    a: Prediction, b: Prediction
) -> None:
    there, back = compare(a, b), compare(b, a)
    assert there.agreement == back.agreement
    if there.difference is not None:
        assert abs(there.difference) < inf
        assert back.difference == -there.difference or back.difference == pytest.approx(there.difference)


@given(PREDICTION)
def test_a_prediction_never_differs_from_itself(a: Prediction) -> None:
    assert compare(a, a).agreement is not False


def test_endless_nesting_is_not_followed() -> None:
    deep: Prediction = 1.0
    for _ in range(500):
        deep = [deep]
    assert compare(deep, deep).agreement is None


def _stream(pairs: list[tuple[str, Comparison]]) -> Comparisons:
    made = Comparisons(keep=5)
    for prediction_id, comparison in pairs:
        made.add(prediction_id, comparison)
    return made


PAIRS = st.lists(
    st.tuples(
        st.integers(0, 50).map(str),
        st.builds(compare, st.floats(0, 3) | st.text(max_size=1), st.floats(0, 3) | st.text(max_size=1)),
    ),
    max_size=40,
)


@given(PAIRS, st.randoms(use_true_random=False))
def test_the_summary_of_shards_in_any_order_is_that_of_the_whole(
    pairs: list[tuple[str, Comparison]], chance: Random
) -> None:
    whole = _stream(pairs).summary()
    shuffled = list(pairs)
    chance.shuffle(shuffled)
    cut = len(pairs) // 2
    merged = _stream(shuffled[:cut])
    merged.merge(_stream(shuffled[cut:]))
    made = merged.summary()
    assert made.mean_difference == pytest.approx(whole.mean_difference)
    for field in ("pairs", "agreed", "agreement_interval", "tails", "absolute_quantiles", "worst"):
        assert getattr(made, field) == getattr(whole, field)


@given(PAIRS)
def test_a_saved_stream_comes_back_whole(pairs: list[tuple[str, Comparison]]) -> None:
    made = _stream(pairs)
    back = Comparisons.from_state(json.loads(json.dumps(made.state())))
    assert back.summary() == made.summary()


def test_a_rare_catastrophe_shows_in_the_tail_and_by_name_though_the_rate_is_high() -> None:
    made = Comparisons()
    for i in range(1_000):
        made.add(f"p{i:04}", compare(0.5, 0.95 if i % 20 == 0 else 0.5))
    summary = made.summary()
    assert summary.agreement_rate == 0.95
    assert summary.tails["0.2"] == 0.05
    assert summary.tails["0.5"] == 0.0
    assert summary.absolute_quantiles["0.99"] == pytest.approx(0.45, rel=0.02)
    assert summary.mean_difference == pytest.approx(0.0225)
    assert len(summary.worst) == 20
    assert summary.worst[0].prediction_id == "p0980"


def test_a_disagreement_without_a_difference_ranks_worst() -> None:
    made = Comparisons(keep=2)
    made.add("far", compare(0.0, 1e6))
    made.add("gone", compare(0.0, nan))
    made.add("near", compare(0.0, 1.0))
    assert [case.prediction_id for case in made.summary().worst] == ["gone", "far"]


def test_pairs_that_cannot_be_compared_are_counted_and_never_agree() -> None:
    made = Comparisons()
    made.add("a", compare(None, 1.0))
    summary = made.summary()
    assert (summary.pairs, summary.compared, summary.agreement_rate) == (1, 0, None)
    assert summary.agreement_interval == (0.0, 1.0)


def test_streams_with_other_thresholds_do_not_mix() -> None:
    with pytest.raises(ValueError, match="thresholds differ"):
        Comparisons((0.1,)).merge(Comparisons((0.2,)))


def test_a_broken_state_is_refused_with_the_field() -> None:
    state = dict(Comparisons().state())
    with pytest.raises(ValueError, match="counts"):
        Comparisons.from_state(state | {"counts": [1, 2]})
    with pytest.raises(ValueError, match="worst"):
        Comparisons.from_state(state | {"worst": [3]})
