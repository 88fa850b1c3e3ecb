"""Distances on the reference's quantile edges, beside SciPy's on the raw samples."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
from scipy import stats

from app.domain.drift.distance import (
    kolmogorov_smirnov,
    kolmogorov_smirnov_critical,
    kolmogorov_smirnov_exceeds,
    wasserstein,
)
from app.domain.drift.psi import Floats
from app.domain.drift.reference import NumberReference, describe
from app.domain.drift.window import NumberCounts


def _counted(reference: Floats, live: Floats) -> tuple[NumberReference, NumberCounts]:
    made = describe([float(v) for v in reference])
    assert isinstance(made, NumberReference)
    counts = NumberCounts(made)
    counts.add([float(v) for v in live], made)
    return made, counts


def _samples(shape: str, seed: int) -> tuple[Floats, Floats]:
    chance = np.random.default_rng(seed)
    m, n = 4_000, 1_500
    match shape:
        case "normal":
            return chance.normal(0, 1, m), chance.normal(0.2, 1.3, n)
        case "heavy":
            return chance.lognormal(0, 1, m), chance.lognormal(0.3, 1, n)
        case "discrete":
            return chance.poisson(3, m).astype(float), chance.poisson(4, n).astype(float)
        case _:
            return chance.normal(0, 1, m), chance.normal(8, 1, n)


@pytest.mark.parametrize("shape", ["normal", "heavy", "discrete", "far"])
def test_the_kolmogorov_smirnov_distance_is_scipys_to_within_a_bin(shape: str) -> None:
    reference, live = _samples(shape, 1)
    made, counts = _counted(reference, live)
    exact = stats.ks_2samp(reference, live).statistic
    ours = kolmogorov_smirnov(made.counts, counts.counts)
    assert exact - 2 / 200 <= ours <= exact + 1e-12


@pytest.mark.parametrize("shape", ["normal", "heavy", "discrete", "far"])
def test_wassersteins_distance_is_scipys(shape: str) -> None:
    reference, live = _samples(shape, 2)
    made, counts = _counted(reference, live)
    ours = wasserstein(
        made.edges, made.counts, counts.counts, counts.below_by / len(live), counts.above_by / len(live)
    )
    exact = stats.wasserstein_distance(reference, live)
    # Between atoms of a discrete distribution the functions are flat, not straight: half a unit at most.
    slack = 0.5 * abs(float(np.mean(live)) - float(np.mean(reference))) if shape == "discrete" else 0.0
    assert ours == pytest.approx(exact, rel=0.03, abs=0.01 * made.sigma + slack)


def test_the_p_value_is_scipys_asymptotic_one() -> None:
    n, m, distance = 1_500, 4_000, 0.05
    ours = kolmogorov_smirnov_exceeds(distance, n, m, 0.0)
    assert ours == pytest.approx(stats.kstwobign.sf(distance * sqrt(n * m / (n + m))), rel=1e-9)
    assert kolmogorov_smirnov_critical(ours, n, m, 0.0) == pytest.approx(distance)
    assert kolmogorov_smirnov_critical(ours, n, m, 0.1) == pytest.approx(distance + 0.1)
    assert kolmogorov_smirnov_exceeds(0.05, n, m, 0.06) == 1.0
    assert kolmogorov_smirnov_critical(0.01, 0, 0, 0.0) == float("inf")


def test_without_drift_it_alarms_no_more_often_than_configured() -> None:
    chance = np.random.default_rng(3)
    runs, level, alarms = 300, 0.05, 0
    for _ in range(runs):
        made, counts = _counted(chance.normal(0, 1, 1_000), chance.normal(0, 1, 500))
        distance = kolmogorov_smirnov(made.counts, counts.counts)
        alarms += kolmogorov_smirnov_exceeds(distance, 500, 1_000, 0.0) <= level
    assert alarms / runs <= level + 4 * sqrt(level * (1 - level) / runs)
