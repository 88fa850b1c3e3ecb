"""Pairs of labelled answers: SciPy's McNemar test, and intervals that hold the true difference."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from app.domain.performance.figure import Figure
from app.domain.performance.paired import LabelledPair, PairedTally
from app.domain.performance.row import Labelled
from app.domain.performance.tally import for_task


def _by_name(tally: PairedTally) -> dict[str, Figure]:
    return {f.name: f for f in tally.figures()}


def _pairs(seed: int, n: int) -> list[LabelledPair]:
    """A shadow that knows a little more than production, on inputs of very different difficulty."""
    chance = np.random.default_rng(seed)
    logit = chance.normal(0, 2, n)
    truth = chance.random(n) < 1 / (1 + np.exp(-logit))
    production = 1 / (1 + np.exp(-(logit + chance.normal(0, 1.5, n))))
    shadow = 1 / (1 + np.exp(-(logit + chance.normal(0, 1.0, n))))
    return [
        LabelledPair(float(p), None, float(s), None, bool(t))
        for p, s, t in zip(production, shadow, truth, strict=True)
    ]


def _tally(pairs: list[LabelledPair], task: str = "binary") -> PairedTally:
    made = PairedTally(task)
    made.add(pairs)
    return made


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30), st.integers(0, 30))
def test_the_test_is_mcnemars(both: int, only_production: int, only_shadow: int, neither: int) -> None:
    rows = [("a", "a")] * both + [("a", "b")] * only_production + [("b", "a")] * only_shadow
    rows += [("b", "c")] * neither
    made = _tally([LabelledPair(p, None, s, None, "a") for p, s in rows], "multiclass").right_and_wrong()
    assert made is not None
    assert (made.both, made.only_production, made.only_shadow, made.neither) == (
        both,
        only_production,
        only_shadow,
        neither,
    )
    apart = only_production + only_shadow
    expected = stats.binomtest(only_shadow, apart).pvalue if apart else 1.0
    assert made.p_value == pytest.approx(expected)


def test_the_differences_are_those_of_the_two_figures() -> None:
    pairs = _pairs(1, 500)
    sides: list[dict[str, Figure]] = []
    for rows in (
        [Labelled(p.shadow, None, p.ground_truth) for p in pairs],
        [Labelled(p.production, None, p.ground_truth) for p in pairs],
    ):
        tally = for_task("binary")
        assert tally is not None
        tally.add(rows)
        sides.append({f.name: f for f in tally.figures()})
    made = _by_name(_tally(pairs))
    for name in ("accuracy", "brier"):
        shadow, production = sides[0][name].value, sides[1][name].value
        assert shadow is not None
        assert production is not None
        assert made[f"{name}_difference"].value == pytest.approx(shadow - production)


def test_the_intervals_hold_the_true_difference_as_often_as_they_claim() -> None:
    names = ("accuracy_difference", "brier_difference")
    large = _by_name(_tally(_pairs(10**6, 200_000)))
    runs, hits = 150, dict.fromkeys(names, 0)
    for seed in range(runs):
        made = _by_name(_tally(_pairs(seed, 250)))
        for name in names:
            f, known = made[name], large[name].value
            assert f.low is not None
            assert f.high is not None
            assert known is not None
            hits[name] += f.low <= known <= f.high
    for name, k in hits.items():
        assert k / runs >= 0.94 - 4 * sqrt(0.95 * 0.05 / runs), name


def test_a_regression_is_compared_by_its_errors() -> None:
    pairs = [LabelledPair(2.0, None, 1.5, None, 1.0), LabelledPair(3.0, None, 5.0, None, 4.0)]
    pairs += [LabelledPair("x", None, 1.0, None, 1.0), LabelledPair(1e99, None, 1.0, None, 1.0)]
    made = _tally(pairs, "regression")
    assert (made.pairs, made.unusable) == (2, 2)
    assert made.right_and_wrong() is None
    assert _by_name(made)["mae_difference"].value == pytest.approx((0.5 + 1.0) / 2 - (1.0 + 1.0) / 2)
    assert _by_name(made)["mse_difference"].value == pytest.approx((0.25 + 1.0) / 2 - (1.0 + 1.0) / 2)


def test_no_disagreement_is_not_taken_for_certainty() -> None:
    f = _by_name(_tally([LabelledPair(1, None, 1, None, 1)] * 20))["accuracy_difference"]
    assert f.value == 0.0
    assert f.low is not None
    assert f.high is not None
    assert f.low < -0.05
    assert f.high > 0.05


def test_shards_add_up_and_tasks_do_not_mix() -> None:
    pairs = _pairs(3, 100)
    merged, whole = _tally(pairs[:40]), _tally(pairs)
    merged.merge(_tally(pairs[40:]))
    assert merged.right_and_wrong() == whole.right_and_wrong()
    assert [f.value for f in merged.figures()] == pytest.approx([f.value for f in whole.figures()])
    with pytest.raises(ValueError, match="tasks differ"):
        merged.merge(PairedTally("regression"))
    with pytest.raises(ValueError, match="no right and wrong"):
        PairedTally("none")


def test_pairs_that_cannot_be_read_are_unusable_and_nothing_gives_nothing() -> None:
    made = _tally([LabelledPair(None, None, 1, None, 1), LabelledPair(1, None, "x", None, 1)])
    assert (made.pairs, made.unusable) == (0, 2)
    assert all(f.value is None and f.reason for f in made.figures())
    assert _tally([LabelledPair(None, None, "a", None, "a")], "multiclass").unusable == 1
