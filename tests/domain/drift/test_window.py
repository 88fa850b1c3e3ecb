"""Windows: the same counts from any shards, in memory that does not grow."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.drift.cell import Row
from app.domain.drift.reference import Baseline
from app.domain.drift.window import MAX_NEW, CategoryCounts, LiveWindow, NumberCounts

CELL = st.none() | st.booleans() | st.floats(-1e6, 1e6) | st.sampled_from(["a", "b", "c"]) | st.just([1.0])
ROWS = st.lists(st.dictionaries(st.sampled_from(["x", "c", "o", "z"]), CELL), max_size=25)
BASELINE = Baseline.from_rows([{"x": float(i % 30), "c": "ab"[i % 2], "o": [i]} for i in range(60)])


def _window(rows: list[Row]) -> LiveWindow:
    made = LiveWindow(BASELINE, "w")
    made.add(rows)
    return made


@settings(max_examples=80)
@given(ROWS, ROWS)
def test_shards_add_up_and_survive_being_saved(a: list[Row], b: list[Row]) -> None:
    merged = LiveWindow.from_state(BASELINE, json.loads(json.dumps(_window(a).state())))
    merged.merge(_window(b))
    whole = _window(a + b)
    for name, live in merged.features.items():
        other = whole.features[name]
        assert live.kinds == other.kinds
        match live, other:
            case NumberCounts(), NumberCounts():
                assert list(live.counts) == list(other.counts)
                assert (live.below, live.above) == (other.below, other.above)
                assert live.above_by == pytest.approx(other.above_by)
            case CategoryCounts(), CategoryCounts():
                assert (live.counts, live.new, live.unseen) == (other.counts, other.new, other.unseen)
    assert merged.rows == whole.rows == len(a) + len(b)
    assert merged.unknown == whole.unknown


def test_what_the_reference_lacks_is_noted_by_name_up_to_a_bound() -> None:
    made = _window([{"c": f"new {i}", f"extra {i}": 1.0} for i in range(200)])
    live = made.features["c"]
    assert isinstance(live, CategoryCounts)
    assert live.unseen == 200
    assert len(live.new) == MAX_NEW
    assert len(made.unknown) == MAX_NEW


def test_numbers_beyond_the_reference_count_with_their_distance() -> None:
    live = _window([{"x": -2.0}, {"x": 31.0}, {"x": float("inf")}, {"x": 29.0}]).features["x"]
    assert isinstance(live, NumberCounts)
    assert (live.below, live.above) == (1, 2)
    assert (live.below_by, live.above_by) == (2.0, 2.0)


def test_windows_of_other_baselines_do_not_mix() -> None:
    other = Baseline.from_rows([{"y": 1.0}])
    with pytest.raises(ValueError, match="different baselines"):
        _window([]).merge(LiveWindow(other))
    with pytest.raises(ValueError, match="another baseline"):
        LiveWindow.from_state(other, _window([]).state())
    same_name = Baseline.from_rows([{"x": "text", "c": "a", "o": 1.0}])
    with pytest.raises(ValueError, match="different ways"):
        _window([]).merge(LiveWindow(same_name))
