"""The retraining trap in short: a few seeds of the worlds in which a policy or a training set must win or lose."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from benchmarks.retraining_trap.__main__ import figures, table
from benchmarks.retraining_trap.policies import regret
from benchmarks.retraining_trap.worlds import FIRST_MODEL, WEEKS, WORLDS, Week, propensity, weeks

SEEDS = range(4)


def apart(world: str, one: tuple[str, str, float], other: tuple[str, str, float]) -> tuple[float, float]:
    """The mean difference of regret, paired by seed, and four standard errors of it."""
    histories = [weeks(world, seed) for seed in SEEDS]
    gaps = [regret(world, w, *one)[0] - regret(world, w, *other)[0] for w in histories]
    return float(np.mean(gaps)), float(4 * np.std(gaps, ddof=1) / math.sqrt(len(gaps)))


@pytest.mark.parametrize(
    ("world", "better", "worse"),
    [
        # Appending new data to all of the old is the trap: the old world outvotes the new one.
        ("concept drift", ("calendar", "recency", 2.0), ("calendar", "append", 2.0)),
        ("concept drift", ("calendar", "append", 2.0), ("never", "append", 2.0)),
        # What passes again is best not learned: here recency weighting loses, and so does retraining.
        ("transient incident", ("calendar", "append", 2.0), ("calendar", "recency 47 d", 2.0)),
        ("transient incident", ("never", "append", 2.0), ("calendar", "recency 47 d", 2.0)),
        # Labels that come sooner for one class mislead whoever does not wait.
        ("immature labels", ("calendar", "weighted", 32.0), ("calendar", "recent only", 32.0)),
    ],
)
def test_in_this_world_one_training_set_beats_the_other(
    world: str, better: tuple[str, str, float], worse: tuple[str, str, float]
) -> None:
    mean, uncertain = apart(world, better, worse)
    assert mean + uncertain < 0


def test_where_labels_are_selected_the_inverse_propensity_brings_the_model_nearer_to_all_labels() -> None:
    histories = [weeks("selective labels", seed) for seed in range(8)]
    found = {
        what: np.mean([regret("selective labels", w, "calendar", what, 4.0)[0] for w in histories])
        for what in ("recency", "weighted", "all labels")
    }
    assert found["all labels"] < found["weighted"] < found["recency"]


def test_a_world_is_the_same_for_the_same_seed_and_labels_are_never_impossible() -> None:
    for world in WORLDS:
        one, again = weeks(world, 3), weeks(world, 3)
        assert len(one) == WEEKS > FIRST_MODEL
        assert all(
            np.array_equal(a.rows, b.rows) and np.array_equal(a.truth, b.truth) for a, b in _both(one, again)
        )
        assert propensity(world, np.linspace(0, 1, 101)).min() >= 0.01, (
            "a weight stays below the export's bound"
        )


def _both(one: list[Week], other: list[Week]) -> list[tuple[Week, Week]]:
    return list(zip(one, other, strict=True))


def test_figures_stand_in_a_table_and_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.retraining_trap.__main__.HALF_LIVES", (4.0, math.inf))
    monkeypatch.setattr("benchmarks.retraining_trap.__main__.WHEN", ("drift",))
    made = figures("steady", 2)
    assert {cell["when"] for cell in made["cells"]} == {"drift"}
    assert all(low <= mean <= high for low, mean, high in (cell["against_never"] for cell in made["cells"]))
    assert "| drift | " in table([made])
    json.dumps(made, allow_nan=False)
