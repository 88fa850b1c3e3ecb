"""Novelty: what the reference has hardly seen ranks first, and says which feature made it so."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.drift.cell import Row
from app.domain.drift.novelty import Rarity
from app.domain.drift.reference import Baseline

CELL = st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=3) | st.just([1.0])


def _rows(seed: int, n: int) -> list[Row]:
    chance = np.random.default_rng(seed)
    return [
        {
            "x": float(chance.normal(10, 2)),
            "count": int(chance.poisson(3)),
            "plan": str(chance.choice(["free", "pro", "team"], p=[0.7, 0.29, 0.01])),
            "vip": bool(chance.random() < 0.3),
            "constant": 1.0,
            "tags": ["a"],
        }
        for _ in range(n)
    ]


RARITY = Rarity(Baseline.from_rows(_rows(1, 3_000)))
TYPICAL: Row = {"x": 10.0, "count": 3, "plan": "free", "vip": False, "constant": 1.0, "tags": ["b"]}


def test_an_ordinary_row_is_not_novel() -> None:
    assert RARITY.of(TYPICAL).score == 0.0
    scores = [RARITY.of(row).score for row in _rows(2, 500)]
    assert np.mean([s > 3 for s in scores]) < 0.05


@pytest.mark.parametrize(
    ("feature", "value"),
    [
        ("x", 40.0),
        ("x", -20.0),
        ("x", float("inf")),
        ("count", 30),
        ("plan", "enterprise"),
        ("plan", None),
        ("vip", "yes"),
        ("constant", 2.0),
        ("tags", 3.0),
    ],
)
def test_what_the_reference_never_saw_is_novel_by_that_feature(
    feature: str, value: float | str | None
) -> None:
    made = RARITY.of({**TYPICAL, feature: value})
    assert made.score > 3
    assert [name for name, _ in made.features] == [feature]


def test_the_further_out_the_more_novel() -> None:
    scores = [RARITY.of({**TYPICAL, "x": x}).score for x in (10.0, 18.0, 30.0, 100.0, 1e6)]
    assert scores == sorted(scores)
    assert len(set(scores)) == len(scores)


def test_a_missing_feature_that_is_never_missing_is_novel_and_an_extra_one_is_not() -> None:
    assert [n for n, _ in RARITY.of({k: v for k, v in TYPICAL.items() if k != "x"}).features] == ["x"]
    assert RARITY.of({**TYPICAL, "extra": 1.0}).score == 0.0


@given(st.lists(CELL, max_size=20), CELL)
def test_any_value_has_a_novelty_against_any_reference(
    values: list[float | str | None], value: float | str | None
) -> None:
    made = Rarity(Baseline.from_rows([{"x": v} for v in values])).of({"x": value})
    assert 0 <= made.score < float("inf")
