"""Outcomes: identity, which one holds, and which ground truths fit a task."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.outcome import (
    GroundTruth,
    Outcome,
    as_binary,
    as_class,
    fault,
    outcome_id,
    resolve,
    same_truth,
    standing,
)

TRUTH = st.booleans() | st.floats(allow_nan=False) | st.text(max_size=4)
TIME = st.integers(1, 50)
OUTCOME = st.builds(Outcome, st.sampled_from("abcdefgh"), st.sampled_from([0, 1]), st.integers(0, 50), TIME)


def _made(name: str, truth: GroundTruth, observed: int, received: int) -> Outcome:
    return Outcome(name, truth, observed, received)


@given(st.text(max_size=5), st.text(max_size=5), st.text(max_size=5), TRUTH, TIME, st.text(max_size=5))
def test_the_same_outcome_always_has_the_same_id(
    prediction: str, model: str, request: str, truth: GroundTruth, observed: int, source: str
) -> None:
    made = outcome_id(prediction, model, request, truth, observed, source)
    assert made == outcome_id(prediction, model, request, truth, observed, source)
    assert len(made) == 32
    assert outcome_id(prediction, model, request, truth, observed + 1, source) != made
    assert outcome_id(prediction, model, request, truth, observed, source + "x") != made


def test_the_kind_of_a_ground_truth_is_part_of_its_identity() -> None:
    ids = {outcome_id("p", "", "", truth, 0, "") for truth in (1, "1", True, "True", "")}
    assert len(ids) == 5
    assert outcome_id("p", "", "", 1, 0, "") == outcome_id("P", "", "", 1.0, 0, "")


def test_neighbouring_fields_do_not_run_together() -> None:
    assert outcome_id("", "ab", "c", 1, 0, "") != outcome_id("", "a", "bc", 1, 0, "")


def test_an_integer_beyond_a_double_has_an_id_and_is_then_refused() -> None:
    huge = 10**400
    assert outcome_id("p", "", "", huge, 0, "") != outcome_id("p", "", "", -huge, 0, "")
    assert "finite" in (fault(huge, "none") or "")


@pytest.mark.parametrize(
    ("task", "good", "bad"),
    [
        ("binary", [0, 1, 1.0, True, "0", "true", "False"], [2, 0.5, "fraud", "", float("nan")]),
        ("multiclass", ["cat", 3, 3.0, True, "0.5"], [1.5, "", "x" * 257, float("inf")]),
        ("regression", [0, -3.5, 1e300], ["3.5", True, float("nan"), float("-inf")]),
        ("none", [0.3, "anything", False], ["", float("nan")]),
    ],
)
def test_a_ground_truth_must_fit_the_task(task: str, good: list[GroundTruth], bad: list[GroundTruth]) -> None:
    assert [truth for truth in good if fault(truth, task) is not None] == []
    for truth in bad:
        assert (fault(truth, task) or "").startswith("ground_truth: ")


@given(TRUTH)
def test_a_binary_truth_is_accepted_exactly_when_it_reads_as_zero_or_one(truth: GroundTruth) -> None:
    assert (fault(truth, "binary") is None) == (as_binary(truth) is not None)


@pytest.mark.parametrize(
    ("value", "name"), [(3, "3"), (3.0, "3"), ("3", "3"), (True, "true"), (1.5, "1.5"), (-0.0, "0")]
)
def test_one_class_has_one_name_however_it_is_spelled(value: GroundTruth, name: str) -> None:
    assert as_class(value) == name


@pytest.mark.parametrize(
    ("a", "b", "task", "same"),
    [
        (1, True, "binary", True),
        ("true", 1.0, "binary", True),
        (0, "1", "binary", False),
        (3, "3", "multiclass", True),
        ("a", "b", "multiclass", False),
        (1.0, 1, "regression", True),
        (1.0, "1.0", "none", False),
        (True, 1, "none", False),
    ],
)
def test_truths_are_compared_by_what_they_mean(a: GroundTruth, b: GroundTruth, task: str, same: bool) -> None:
    assert same_truth(a, b, task) is same
    assert same_truth(b, a, task) is same


@given(st.lists(OUTCOME, max_size=8), st.randoms(use_true_random=False))
def test_what_holds_does_not_depend_on_the_order_of_arrival(outcomes: list[Outcome], chance: Random) -> None:
    unique = list({o.outcome_id: o for o in outcomes}.values())
    made = resolve(unique, "binary")
    shuffled = list(unique)
    chance.shuffle(shuffled)
    assert resolve(shuffled, "binary") == made
    assert len(made.history) == len(unique)
    if unique:
        assert made.current is not None
        assert made.current.effective_ns == max(o.effective_ns for o in unique)


@given(st.lists(OUTCOME, min_size=1, max_size=6))
def test_the_same_outcome_twice_is_one(outcomes: list[Outcome]) -> None:
    unique = list({o.outcome_id: o for o in outcomes}.values())
    again = [Outcome(o.outcome_id, o.ground_truth, o.observed_ns, o.received_ns + 99) for o in unique]
    assert resolve(unique + again, "binary") == resolve(unique, "binary")
    assert all(standing(o, unique, "binary") == "duplicate" for o in again)


def test_the_newest_observation_holds_even_when_it_arrived_first() -> None:
    late_news = _made("b", 1, observed=20, received=30)
    old_news = _made("a", 0, observed=10, received=40)
    made = resolve([late_news, old_news], "binary")
    assert made.current == late_news
    assert made.corrections == 1
    assert made.reason == "newest of 2 outcomes, 1 of them corrections"


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        (_made("x", 1, observed=9, received=90), "confirmation"),
        (_made("x", "true", observed=99, received=100), "confirmation"),
        (_made("x", 0, observed=21, received=100), "correction"),
        (_made("x", 0, observed=0, received=100), "correction"),
        (_made("x", 0, observed=9, received=100), "late"),
        (_made("a", 1, observed=20, received=100), "duplicate"),
    ],
)
def test_a_new_outcome_is_placed_beside_what_is_known(new: Outcome, expected: str) -> None:
    known = [_made("a", 1, observed=20, received=30), _made("z", 0, observed=5, received=31)]
    assert standing(new, known, "binary") == expected


def test_the_first_outcome_is_the_first() -> None:
    assert standing(_made("a", 1, 1, 1), [], "binary") == "first"
    assert resolve([], "binary").current is None
