"""Novelty with what real rows hold beside plain numbers. How well it tells a cluster that nobody knew is held
against scikit-learn's in tests/api/test_review_novelty.py, as the review queue serves it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from app.control.novelty import MIN_REFERENCE, Density, Features


def scores(known: Sequence[Features], asked: Sequence[Features]) -> list[float | None]:
    density = Density.fit(known)
    assert density is not None
    return density.scores(asked)


def test_categories_missing_values_and_features_nobody_knew_are_no_obstacle() -> None:
    chance = np.random.default_rng(3)
    known = [
        {"a": float(chance.normal()), "region": "north" if n % 2 else "south", "flag": True}
        for n in range(300)
    ]
    asked: list[dict[str, object]] = [
        {"a": 0.1, "region": "north", "flag": True},
        {"a": 0.1, "region": "moon", "flag": True},
        {"a": None, "region": "north", "flag": True},
        {"a": float("nan"), "region": None},
        {"new": [1, 2]},
        {},
        {"a": 1e300, "region": "north", "flag": True},
    ]
    found = scores(known, asked)
    assert len(found) == len(asked)
    assert all(score is None or score > 0 for score in found)
    assert found[0] is not None
    assert found[1] is not None
    assert found[1] > found[0]


def test_too_little_to_compare_with_says_nothing() -> None:
    assert Density.fit([{"a": 1.0}] * (MIN_REFERENCE - 1)) is None
    assert Density.fit([{}] * MIN_REFERENCE) is None
    assert scores([{"a": 1.0}] * MIN_REFERENCE, []) == []


@pytest.mark.parametrize(
    "odd", [1e308, -1e308, 1e101, 10**400, -(10**30), float("inf"), 5e-324], ids=lambda odd: f"{odd!s:.6}"
)
def test_numbers_of_any_size_have_a_novelty(odd: float) -> None:
    chance = np.random.default_rng(5)
    known: list[dict[str, object]] = [{"a": float(v), "b": float(v)} for v in chance.normal(0, 1, 200)]
    known[7]["a"] = odd
    known[8]["a"] = -odd
    asked: list[dict[str, object]] = [{"a": 0.1, "b": 0.1}, {"a": odd, "b": 0.0}, {"a": 0.0, "b": odd}]
    found = scores(known, asked)
    assert all(score is not None and score > 0 for score in found)
    assert scores([{"a": odd}] * 200, asked) != []
