"""Review: what is ranked first, and that the stated propensity is the probability of the pick."""

from __future__ import annotations

from math import sqrt
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.review import (
    STRATEGIES,
    Candidate,
    binary_uncertainty,
    fingerprint,
    least_confidence,
    rank,
    select,
)

SCORE = st.none() | st.floats(0, 1)
POOL = st.lists(
    st.tuples(SCORE, SCORE, SCORE, SCORE, st.sampled_from(["", "", "a=1", "a=2"])), max_size=25
).map(lambda rows: [Candidate(f"p{i:03}", *row) for i, row in enumerate(rows)])
MIXTURE = st.dictionaries(st.sampled_from(STRATEGIES), st.floats(0.05, 1), min_size=1)


def _pool(n: int) -> list[Candidate]:
    return [
        Candidate(f"p{i:03}", uncertainty=i / n, novelty=(i * 7 % n) / n, disagreement=float(i % 5 == 0))
        for i in range(n)
    ]


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (least_confidence(0.51), 0.49),
        (least_confidence(0.99), 0.01),
        (least_confidence(0.4, (0.5, 0.3, 0.2)), 0.5),
        (least_confidence(None), None),
        (least_confidence(float("nan")), None),
        (least_confidence(7.0), 0.0),
        (binary_uncertainty(0.5), 1.0),
        (binary_uncertainty(0.02), 0.04),
        (binary_uncertainty(None), None),
    ],
)
def test_scores_grow_with_doubt(score: float | None, expected: float | None) -> None:
    assert score == (None if expected is None else pytest.approx(expected))


def test_the_least_confident_come_first_and_the_unknown_not_at_all() -> None:
    pool = [
        Candidate("a", uncertainty=0.1),
        Candidate("b", uncertainty=0.9),
        Candidate("c"),
        Candidate("d", uncertainty=float("nan")),
        Candidate("e", uncertainty=0.9),
    ]
    assert [c.prediction_id for c in rank(pool, "uncertainty")] == ["e", "b", "a"]
    assert rank(pool, "random") == []


@settings(max_examples=200)
@given(POOL, st.integers(0, 30), MIXTURE, st.integers(0, 10**6))
def test_a_selection_keeps_to_its_budget_and_states_valid_propensities(
    pool: list[Candidate], budget: int, mixture: dict[str, float], seed: int
) -> None:
    made = select(pool, budget, Random(seed), mixture)
    cells = {c.fingerprint or c.prediction_id for c in pool}
    ids = [item.prediction_id for item in made.items]
    assert len(set(ids)) == len(ids)
    # The propensities of the cells add up to the budget, and systematic sampling keeps to the sum.
    assert abs(len(ids) - min(budget, len(cells))) <= 1e-9 * len(cells)
    by_id = {c.prediction_id: c for c in pool}
    assert len({by_id[i].fingerprint or i for i in ids}) == len(ids)
    assert all(0 < item.propensity <= 1 + 1e-12 for item in made.items)
    assert made.pool == len(pool)


def test_each_item_is_picked_with_the_probability_it_is_told() -> None:
    pool = _pool(40)
    draws = 3_000
    picked = dict.fromkeys((c.prediction_id for c in pool), 0)
    told: dict[str, float] = {}
    for seed in range(draws):
        for item in select(pool, 10, Random(seed)).items:
            picked[item.prediction_id] += 1
            told[item.prediction_id] = item.propensity
    assert set(told) == set(picked)  # the random share reaches everyone
    assert sum(told.values()) == pytest.approx(10)
    for prediction_id, times in picked.items():
        p = min(1.0, told[prediction_id])
        assert abs(times / draws - p) <= 4.5 * sqrt(p * (1 - p) / draws) + 1e-9


def test_weighting_by_the_propensity_undoes_the_bias_of_uncertain_picks() -> None:
    # Errors sit where the model is uncertain, and so do most picks: their plain error rate is far too high.
    n, draws = 200, 600
    wrong = {f"p{i:03}": float(i > 170 or i % 40 == 0) for i in range(n)}
    truth = sum(wrong.values()) / n
    plain, weighted = [], []
    for seed in range(draws):
        items = select(_pool(n), 30, Random(seed), {"uncertainty": 0.6, "random": 0.4}).items
        plain.append(sum(wrong[i.prediction_id] for i in items) / len(items))
        weighted.append(sum(wrong[i.prediction_id] / i.propensity for i in items) / n)
    mean = sum(weighted) / draws
    spread = sqrt(sum((w - mean) ** 2 for w in weighted) / (draws - 1))
    assert abs(mean - truth) < 4 * spread / sqrt(draws)
    assert sum(plain) / draws > 3 * truth


def test_near_duplicates_are_offered_once_and_share_the_propensity() -> None:
    pool = [Candidate(f"d{i}", uncertainty=0.9, fingerprint="x=1") for i in range(8)]
    pool += [Candidate(f"u{i}", uncertainty=0.5) for i in range(4)]
    made = select(pool, 3, Random(1), {"uncertainty": 1.0})
    twins = [item for item in made.items if item.prediction_id.startswith("d")]
    assert len(twins) == 1
    assert twins[0].propensity == pytest.approx(1 / 8)
    assert twins[0].duplicates == 8
    assert made.reason == "3 of 12 candidates, 7 near-duplicates thinned"


def test_without_a_random_share_only_the_top_is_picked() -> None:
    made = select(_pool(20), 5, Random(3), {"uncertainty": 1.0})
    assert [i.prediction_id for i in made.items] == ["p019", "p018", "p017", "p016", "p015"]
    assert all(i.propensity == 1.0 and i.strategy == "uncertainty" for i in made.items)


def test_a_strategy_that_finds_nothing_leaves_its_share_to_chance() -> None:
    pool = [Candidate(f"p{i}") for i in range(10)]
    made = select(pool, 4, Random(3), {"novelty": 1.0})
    assert len(made.items) == 4
    assert all(i.strategy == "random" and i.propensity == pytest.approx(0.4) for i in made.items)


@pytest.mark.parametrize(
    "mixture", [{"luck": 1.0}, {}, {"random": 0.0}, {"random": -1.0}, {"random": float("nan")}]
)
def test_a_mixture_without_meaning_is_refused(mixture: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"mixture|strategy"):
        select(_pool(3), 1, Random(0), mixture)


def test_an_empty_pool_or_budget_says_so() -> None:
    assert select([], 5, Random(0)).reason == "nothing to review"
    assert select(_pool(3), 0, Random(0)).reason == "no budget left"


def test_rows_that_fall_into_one_cell_have_one_fingerprint() -> None:
    scale = {"age": 5.0}
    base = fingerprint({"age": 31.0, "city": "Bonn", "vip": True, "n": None}, scale)
    assert base == fingerprint({"city": "Bonn", "age": 34.9, "vip": True, "n": None}, scale)
    assert base != fingerprint({"age": 36.0, "city": "Bonn", "vip": True, "n": None}, scale)
    assert base != fingerprint({"age": 31.0, "city": "Köln", "vip": True, "n": None}, scale)
    assert fingerprint({"age": float("inf")}, scale) == fingerprint({"age": float("inf")}, scale)
