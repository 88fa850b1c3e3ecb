"""The test of categories: SciPy's χ² where both apply, and no alarm about the unseen that any fresh
sample brings.
"""

from __future__ import annotations

from collections import Counter
from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from app.domain.drift.categories import contingency
from app.domain.drift.psi import exceeds

COUNTS = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 400), min_size=2)


def _p(reference: Counter[str], live: Counter[str], rest: int = 0, tolerance: float = 0.0) -> float:
    known = {name: times for name, times in live.items() if name in reference}
    table = contingency(reference, known, live.total() - sum(known.values()), rest)
    return exceeds(table.divergence, len(table.names), table.effective_rows, tolerance)


def _zipf(chance: np.random.Generator, categories: int, rows: int, power: float = 1.0) -> Counter[str]:
    weights = 1 / np.arange(1, categories + 1) ** power
    drawn = chance.choice(categories, rows, p=weights / weights.sum())
    return Counter(f"c{i}" for i in drawn)


def test_where_nothing_is_rare_it_is_scipys_chi_square() -> None:
    reference, live = Counter(a=500, b=300, c=200), Counter(a=220, b=190, c=90)
    table = contingency(reference, live, 0)
    theirs = stats.chi2_contingency([[500, 300, 200], [220, 190, 90]], correction=False)
    assert table.divergence * table.effective_rows == pytest.approx(theirs.statistic)
    assert _p(reference, live) == pytest.approx(theirs.pvalue)


@given(COUNTS, COUNTS, st.integers(0, 50), st.integers(0, 50))
def test_pooling_loses_no_row_and_leaves_no_thin_cell(
    reference: dict[str, int], live: dict[str, int], unseen: int, rest: int
) -> None:
    known = {name: times for name, times in live.items() if name in reference}
    table = contingency(reference, known, unseen, rest)
    assert table.reference.sum() == sum(reference.values()) + rest
    assert table.live.sum() == sum(known.values()) + unseen
    n, m = float(table.live.sum()), float(table.reference.sum())
    if n and m:
        expected = (table.reference + table.live) * min(n, m) / (n + m)
        assert all(e >= 5 - 1e-9 for name, e in zip(table.names, expected, strict=True) if name != "(rare)")


@pytest.mark.parametrize(
    ("categories", "n", "m"), [(4, 500, 2_000), (300, 1_000, 1_000), (3_000, 2_000, 1_000)]
)
def test_without_drift_it_alarms_no_more_often_than_configured(categories: int, n: int, m: int) -> None:
    chance = np.random.default_rng(categories)
    runs, level = 200, 0.05
    alarms = sum(_p(_zipf(chance, categories, m), _zipf(chance, categories, n)) <= level for _ in range(runs))
    # χ² with many cells near five expected rows is approximate: one point of slack.
    assert alarms / runs <= level + 0.01 + 4 * sqrt(level * (1 - level) / runs)


def test_a_category_that_the_reference_never_saw_has_its_own_bin() -> None:
    reference, live = Counter(a=500, b=500), Counter(a=250, b=240, new=30)
    table = contingency(reference, {"a": 250, "b": 240}, 30)
    assert table.names == ("a", "b", "(unseen)")
    assert _p(reference, live) < 1e-9


def test_a_shift_between_known_categories_is_found() -> None:
    chance = np.random.default_rng(9)
    found = sum(
        _p(_zipf(chance, 50, 5_000), _zipf(chance, 50, 2_000, 1.3), tolerance=0.02) < 1e-4 for _ in range(50)
    )
    assert found == 50


def test_when_the_reference_kept_only_the_frequent_the_rest_is_held_against_the_unlisted() -> None:
    reference, live = Counter(a=500, b=400), Counter(a=250, b=200, x=25, y=26)
    assert _p(reference, live, rest=100) > 0.5
    assert _p(reference, live, rest=0) < 1e-9


def test_an_empty_sample_has_no_cells_to_divide_by() -> None:
    assert contingency({}, {}, 0).names == ()
    assert contingency({"a": 10}, {}, 0).live.sum() == 0
