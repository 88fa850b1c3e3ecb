"""References: described by what the data hold, and restored exactly."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.drift.cell import Cell, as_float, category_of, kind_of
from app.domain.drift.reference import (
    MAX_CATEGORIES,
    Baseline,
    CategoryReference,
    NumberReference,
    OtherReference,
    describe,
    hour_of_week,
)

CELL = st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=3) | st.just([1.0])


def _numbers(values: list[float]) -> NumberReference:
    made = describe(list(values))
    assert isinstance(made, NumberReference)
    return made


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (1, "number"),
        (0.5, "number"),
        (float("inf"), "number"),
        (float("nan"), "missing"),
        (None, "missing"),
        (True, "truth"),
        ("", "text"),
        ([1], "other"),
        ({"a": 1}, "other"),
    ],
)
def test_each_value_has_its_kind(value: Cell, kind: str) -> None:
    assert kind_of(value) == kind


def test_numbers_and_categories_are_read_whatever_they_are() -> None:
    assert as_float(10**400) == float("inf")
    assert as_float(-(10**400)) == float("-inf")
    assert category_of(True) == "true"
    assert len(category_of("x" * 1000)) == 256
    with pytest.raises(TypeError):
        as_float("3")


@given(st.lists(CELL, max_size=40))
def test_any_column_can_be_described_and_saved(values: list[Cell]) -> None:
    baseline = Baseline({"x": describe(values)}, len(values))
    back = Baseline.from_state(json.loads(json.dumps(baseline.state())))
    assert back.state() == baseline.state()
    made = back.features["x"]
    assert sum(made.kinds.values()) == len(values)
    assert made.rows <= len(values)


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=300))
def test_fine_bins_hold_every_row_and_end_at_the_extremes(values: list[float]) -> None:
    made = _numbers(values)
    assert made.counts.sum() == len(values)
    assert made.edges[0] == min(values)
    assert made.edges[-1] == max(values)
    assert made.counts[-1] == 0
    groups = made.groups()
    assert groups[0] == 0
    assert set(np.diff(groups)) <= {0, 1}
    assert made.coarse(made.counts).sum() == len(values)


def test_a_continuous_number_has_ten_even_coarse_bins() -> None:
    made = _numbers([float(v) for v in np.random.default_rng(1).normal(0, 1, 5_000)])
    coarse = made.coarse(made.counts)
    assert len(coarse) == 10
    assert coarse == pytest.approx(np.full(10, 500), abs=26)


def test_a_value_that_is_most_of_the_data_stays_in_one_bin() -> None:
    made = _numbers([0.0] * 900 + [float(v) for v in range(1, 101)])
    coarse = made.coarse(made.counts)
    assert coarse[0] == 900
    assert coarse[1:].sum() == 100


def test_the_most_frequent_kind_decides() -> None:
    made = describe([1.0, 2.0, "x", None, 3])
    assert isinstance(made, NumberReference)
    assert made.kinds == {"number": 3, "text": 1, "missing": 1}
    truth = describe([True, False, True, None])
    assert isinstance(truth, CategoryReference)
    assert truth.counts == {"true": 2, "false": 1}
    assert isinstance(describe([None, float("nan")]), OtherReference)
    assert isinstance(describe([[1], {"a": 1}]), OtherReference)


def test_only_infinities_are_still_numbers() -> None:
    assert _numbers([float("inf")] * 3).rows == 3

    assert not _numbers([float("inf")] * 3).finite
    assert _numbers([0.0]).finite
    assert _numbers([float("inf"), 2.0, float("-inf")]).finite


@pytest.mark.parametrize("size", [1e99, 1e101, 1e200, 1.7e308])
def test_the_largest_numbers_are_described_as_exactly_as_any(size: float) -> None:
    plain = [float(v) for v in np.random.default_rng(4).normal(0.1, 0.2, 500)]
    made, small = _numbers([v * size for v in plain]), _numbers(plain)
    assert made.mean / size == pytest.approx(small.mean)
    assert made.sigma / size == pytest.approx(small.sigma)
    assert list(made.edges / size) == pytest.approx(list(small.edges))
    assert list(made.counts) == list(small.counts)
    ends = _numbers([-size, size] * 50)
    assert (ends.mean, ends.sigma, list(ends.edges)) == (0.0, pytest.approx(size), [-size, size])
    same = _numbers([size] * 50)
    assert (same.mean / size, same.sigma / size) == (pytest.approx(1.0), pytest.approx(0.0))


def test_of_many_categories_the_most_frequent_are_kept() -> None:
    made = describe([f"id {i}" for i in range(MAX_CATEGORIES + 500)] + ["common"] * 10)
    assert isinstance(made, CategoryReference)
    assert len(made.counts) == MAX_CATEGORIES
    assert made.counts["common"] == 10
    assert made.rest == 501
    assert made.rows == MAX_CATEGORIES + 510


def test_a_row_that_lacks_a_feature_misses_it() -> None:
    baseline = Baseline.from_rows([{"a": 1.0}, {"b": "x"}, {"a": 2.0, "b": "y"}])
    assert baseline.rows == 3
    assert {name: dict(f.kinds) for name, f in baseline.features.items()} == {
        "a": {"number": 2, "missing": 1},
        "b": {"text": 2, "missing": 1},
    }


def test_hours_of_the_week_are_counted_apart() -> None:
    rows = [{"x": float(i)} for i in range(100)]
    baseline = Baseline.from_rows(rows, [i % 2 for i in range(100)])
    made = baseline.features["x"]
    assert isinstance(made, NumberReference)
    assert {hour: counts.sum() for hour, counts in made.hourly.items()} == {0: 50.0, 1: 50.0}
    with pytest.raises(ValueError, match="hours for"):
        Baseline.from_rows(rows, [1])


def test_the_week_begins_on_monday() -> None:
    assert hour_of_week(0.0) == 72  # Thursday 1 January 1970, 0:00 UTC
    assert hour_of_week(4 * 86_400.0) == 0
    assert hour_of_week(4 * 86_400.0 - 1) == 167


def test_a_broken_state_is_refused_with_the_field() -> None:
    good = Baseline.from_rows([{"x": 1.0}]).state()
    with pytest.raises(ValueError, match="rows"):
        Baseline.from_state({"features": good["features"]})
    with pytest.raises(ValueError, match="type"):
        Baseline.from_state({"rows": 1, "features": {"x": {"type": "smell", "kinds": {}}}})
