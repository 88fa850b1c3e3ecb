"""Multiclass figures: scikit-learn's values, from any shards, with intervals that hold."""

from __future__ import annotations

import json
from math import sqrt
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from app.domain.performance.figure import Figure
from app.domain.performance.multiclass import MAX_CLASSES, MulticlassTally
from app.domain.performance.row import Labelled
from app.domain.state import Value

ROW = st.builds(
    Labelled,
    prediction=st.sampled_from("abcd"),
    confidence=st.none() | st.floats(0, 1),
    ground_truth=st.sampled_from("abcd"),
    weight=st.floats(0.2, 4),
)
ROWS = st.lists(ROW, min_size=1, max_size=50)


def _by_name(tally: MulticlassTally) -> dict[str, Figure]:
    return {f.name: f for f in tally.figures()}


def _tally(rows: list[Labelled]) -> MulticlassTally:
    made = MulticlassTally()
    made.add(rows)
    return made


@settings(max_examples=80)
@given(ROWS)
def test_every_figure_equals_scikit_learns_also_with_weights(rows: list[Labelled]) -> None:
    truth, said, w = [r.ground_truth for r in rows], [r.prediction for r in rows], [r.weight for r in rows]
    made = _by_name(_tally(rows))
    options = {"average": "macro", "zero_division": 0, "sample_weight": w}
    assert made["accuracy"].value == pytest.approx(metrics.accuracy_score(truth, said, sample_weight=w))
    assert made["precision_macro"].value == pytest.approx(metrics.precision_score(truth, said, **options))
    assert made["recall_macro"].value == pytest.approx(metrics.recall_score(truth, said, **options))
    assert made["f1_macro"].value == pytest.approx(metrics.f1_score(truth, said, **options))


@settings(max_examples=40)
@given(ROWS, ROWS)
def test_shards_add_up_and_survive_being_saved(a: list[Labelled], b: list[Labelled]) -> None:
    merged = MulticlassTally.from_state(json.loads(json.dumps(_tally(a).state())))
    merged.merge(_tally(b))
    whole = _tally(a + b)
    for f, g in zip(merged.figures(), whole.figures(), strict=True):
        for x, y in ((f.value, g.value), (f.low, g.low), (f.high, g.high)):
            assert x == (None if y is None else pytest.approx(y, rel=1e-6, abs=1e-9))
    assert [c.label for c in merged.by_class()] == [c.label for c in whole.by_class()]


def _world(seed: int, n: int) -> list[Labelled]:
    chance = Random(seed)
    rows = []
    for _ in range(n):
        truth = chance.choices("abc", (0.6, 0.3, 0.1))[0]
        said = truth if chance.random() < {"a": 0.9, "b": 0.7, "c": 0.5}[truth] else chance.choice("abc")
        rows.append(Labelled(said, None, truth))
    return rows


def test_the_intervals_hold_the_true_figures_as_often_as_they_claim() -> None:
    names = ("accuracy", "precision_macro", "recall_macro", "f1_macro")
    large = _by_name(_tally(_world(10**6, 100_000)))
    runs, n = 150, 400
    hits = dict.fromkeys(names, 0)
    for seed in range(runs):
        made = _by_name(_tally(_world(seed, n)))
        for name in names:
            f, known = made[name], large[name].value
            assert f.low is not None
            assert f.high is not None
            assert known is not None
            hits[name] += f.low <= known <= f.high
    for name, k in hits.items():
        assert k / runs >= 0.94 - 4 * sqrt(0.95 * 0.05 / runs), name


def test_classes_match_however_they_are_spelled() -> None:
    made = _tally([Labelled(3, None, "3"), Labelled("3", None, 3.0), Labelled(True, None, "true")])
    assert _by_name(made)["accuracy"].value == 1.0


def test_all_right_is_not_taken_for_certainty() -> None:
    f = _by_name(_tally([Labelled("a", None, "a")] * 5 + [Labelled("b", None, "b")] * 50))["f1_macro"]
    assert f.value == 1.0
    assert f.low is not None
    assert f.low < 0.7


def test_each_class_is_shown_against_the_rest() -> None:
    rows = [Labelled("a", None, "a"), Labelled("a", None, "b"), Labelled("b", None, "b")]
    rows.append(Labelled("c", None, "b"))
    shown = {c.label: (c.observed, c.predicted, c.precision, c.recall) for c in _tally(rows).by_class()}
    assert shown == {
        "a": (1.0, 2.0, 0.5, 1.0),
        "b": (3.0, 1.0, 1.0, pytest.approx(1 / 3)),
        "c": (0.0, 1.0, 0.0, None),
    }


def test_the_brier_score_of_the_predicted_class_is_that_of_its_confidence() -> None:
    made = _tally([Labelled("a", 0.8, "a"), Labelled("a", 0.6, "b"), Labelled("b", None, "b")])
    assert _by_name(made)["brier"].value == pytest.approx((0.2**2 + 0.6**2) / 2)
    assert _by_name(_tally([Labelled("a", None, "a")]))["brier"].reason == "no confidence is known"


def test_free_text_does_not_fill_the_memory() -> None:
    made = _tally([Labelled(f"text {i}", None, f"text {i}") for i in range(MAX_CLASSES + 50)])
    assert made.rows == MAX_CLASSES
    assert made.unusable[f"more than {MAX_CLASSES} classes"] == 50


def test_nothing_labelled_gives_nothing() -> None:
    made = _tally([Labelled(None, 0.5, "a"), Labelled("a", 0.5, "a", weight=-1.0)])
    assert made.rows == 0
    assert sum(made.unusable.values()) == 2
    assert all(f.value is None and f.reason for f in made.figures())


def test_a_broken_state_is_refused_with_the_field() -> None:
    state = dict(_tally(_world(1, 5)).state())
    broken: list[Value] = [[["a", "b"]], "x", [["a", "b", "c", 1.0]]]
    for pairs in broken:
        with pytest.raises(ValueError, match="pairs"):
            MulticlassTally.from_state(state | {"pairs": pairs})
