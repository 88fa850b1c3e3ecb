"""Maturity and coverage: only old enough cohorts count, arms are compared at one age, gaps in the labels
show.
"""

from __future__ import annotations

import json
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.performance.binary import BinaryTally
from app.domain.performance.figure import Figure
from app.domain.performance.maturity import (
    CoverageTally,
    Window,
    common_window,
    covered,
    is_mature,
    mature_window,
)

DAY = 86_400.0


@given(st.floats(0, 1e9), st.floats(0, 1e9), st.floats(0, 1e7))
def test_a_prediction_is_mature_from_the_horizon_on(at: float, now: float, horizon: float) -> None:
    assert is_mature(at, now, horizon) == (now - at >= horizon)


def test_a_window_is_cut_where_maturity_ends() -> None:
    assert mature_window(0, 100 * DAY, now=100 * DAY, horizon_s=30 * DAY) == Window(0, 70 * DAY)
    assert mature_window(80 * DAY, 100 * DAY, now=100 * DAY, horizon_s=30 * DAY).empty


def test_versions_are_compared_over_the_time_both_answered() -> None:
    arms = {"v1": Window(0, 100 * DAY), "v2": Window(60 * DAY, 90 * DAY)}
    window, reason = common_window(arms, now=100 * DAY, horizon_s=30 * DAY)
    assert window == Window(60 * DAY, 70 * DAY)
    assert reason == "mature and common to all"


@pytest.mark.parametrize(
    ("arms", "said"),
    [
        ({}, "no versions"),
        ({"v1": Window(0, 10), "v2": Window(20, 30)}, "v1 and v2 never answered at the same time"),
        ({"v1": Window(90 * DAY, 99 * DAY)}, "is 2592000 s old yet"),
    ],
)
def test_no_common_time_says_why(arms: dict[str, Window], said: str) -> None:
    window, reason = common_window(arms, now=100 * DAY, horizon_s=30 * DAY)
    assert window.empty
    assert said in reason


def _tally() -> CoverageTally:
    made = CoverageTally()
    made.predicted("v1", 1 * DAY, 0.15, 100)
    made.labelled("v1", 1 * DAY, 0.15, 90)
    made.predicted("v1", 1 * DAY, 0.95, 100)
    made.labelled("v1", 1 * DAY, 0.95, 50)
    made.predicted("v2", 2 * DAY, None, 10)
    made.predicted("v2", 99 * DAY, 0.5, 40)
    made.labelled("v2", 99 * DAY, 0.5, 1)
    return made


def test_coverage_is_shown_by_version_score_and_age() -> None:
    report = _tally().report(now=100 * DAY, horizon_s=30 * DAY)
    assert (report.mature.predictions, report.mature.labelled) == (210, 140)
    assert {c.part: c.share for c in report.by_version} == {"v1": 0.7, "v2": 0.0}
    assert {c.part: c.share for c in report.by_score} == {"unknown": 0.0, "0.1..0.2": 0.9, "0.9..inf": 0.5}
    assert [(c.part, c.predictions) for c in report.by_age] == [
        ("86400 s", 40),
        (f"{98 * DAY:.0f} s", 10),
        (f"{99 * DAY:.0f} s", 200),
    ]
    assert report.uneven is not None
    assert report.uneven < 1e-6


def test_even_coverage_is_not_called_uneven() -> None:
    chance = Random(5)
    small = 0
    for _ in range(200):
        made = CoverageTally()
        for i in range(10):
            made.predicted("v1", 0.0, i / 10 + 0.05, 100)
            made.labelled("v1", 0.0, i / 10 + 0.05, sum(chance.random() < 0.8 for _ in range(100)))
        p = made.report(now=10 * DAY, horizon_s=0).uneven
        assert p is not None
        small += p < 0.01
    assert small <= 8  # the 99.9 % point of Binomial(200, 0.01)


def test_a_period_is_mature_when_its_youngest_prediction_is() -> None:
    made = CoverageTally()
    made.predicted("v1", 10 * DAY, 0.5)
    assert made.report(now=40.9 * DAY, horizon_s=30 * DAY).mature.predictions == 0
    assert made.report(now=41 * DAY, horizon_s=30 * DAY).mature.predictions == 1


def test_shards_add_up_survive_being_saved_and_can_be_forgotten() -> None:
    whole = _tally()
    back = CoverageTally.from_state(json.loads(json.dumps(whole.state())))
    back.merge(CoverageTally())
    now, horizon = 100 * DAY, 30 * DAY
    assert back.report(now, horizon) == whole.report(now, horizon)
    back.merge(whole)
    assert back.report(now, horizon).mature.predictions == 420
    back.forget(before=50 * DAY)
    assert back.report(now, horizon).mature.predictions == 0
    assert back.report(now, horizon).by_age[0].predictions == 80


def test_a_label_counted_before_its_prediction_does_not_pass_one() -> None:
    made = CoverageTally()
    made.labelled("v1", 0.0, 0.5)
    cell = made.report(now=10 * DAY, horizon_s=0).mature
    assert (cell.predictions, cell.labelled, cell.share) == (0, 0, None)


def test_figures_are_withheld_while_too_few_mature_predictions_are_labelled() -> None:
    tally = BinaryTally()
    report = _tally().report(now=100 * DAY, horizon_s=30 * DAY)
    given_ = (Figure("f1", 0.9, 0.8, 0.95, 100, "Wilson"),)
    assert covered(given_, report.mature, 0.6) == given_
    (f,) = covered(given_, report.mature, 0.95)
    assert f.value is None
    assert f.reason == "66.7% of mature predictions are labelled, 95.0% are needed"
    nothing = CoverageTally().report(now=0.0, horizon_s=1.0)
    assert {f.reason for f in covered(tally.figures(), nothing.mature, 0.5)} == {
        "no prediction is mature yet"
    }


def test_tallies_that_count_differently_do_not_mix_and_broken_states_are_refused() -> None:
    with pytest.raises(ValueError, match="differ"):
        CoverageTally(edges=(0.5,)).merge(CoverageTally())
    with pytest.raises(ValueError, match="positive"):
        CoverageTally(period_s=0.0)
    with pytest.raises(ValueError, match="cells"):
        CoverageTally.from_state({"period_s": 1.0, "edges": [], "cells": [["v1", 2]]})
