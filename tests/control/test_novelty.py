"""Novelty against scikit-learn's own LocalOutlierFactor on plain numbers, and with what real rows have
besides.
"""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import LocalOutlierFactor

from app.control.novelty import MIN_REFERENCE, scores


def rows(points: np.ndarray) -> list[dict[str, object]]:
    return [{f"x{i}": float(value) for i, value in enumerate(point)} for point in points]


def test_a_held_out_cluster_is_told_from_the_known_ones_as_well_as_by_scikit_learn() -> None:
    chance = np.random.default_rng(11)
    known = np.concatenate([chance.normal(center, 1.0, (400, 6)) for center in (0.0, 4.0)])
    fresh = np.concatenate([chance.normal(center, 1.0, (100, 6)) for center in (0.0, 4.0)])
    strange = chance.normal(2.0, 0.7, (200, 6))
    truth = [0] * len(fresh) + [1] * len(strange)
    asked = np.concatenate([fresh, strange])
    ours = [score or 0.0 for score in scores(rows(known), rows(asked))]
    theirs = -LocalOutlierFactor(n_neighbors=20, novelty=True).fit(known).score_samples(asked)
    assert roc_auc_score(truth, ours) >= roc_auc_score(truth, theirs) - 0.02


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
    assert scores([{"a": 1.0}] * (MIN_REFERENCE - 1), [{"a": 1.0}]) == [None]
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
