"""The short form of the detection benchmark, its figures beside the bound, and its arguments."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from app.domain.guard import HealthConfig, HealthWindow
from benchmarks.detection.__main__ import main
from benchmarks.detection.bound import error_bound, latency_bound, pair_bound
from benchmarks.detection.deployed import deployed
from benchmarks.detection.goals import Effort, divided, goals
from benchmarks.detection.report import quantile
from benchmarks.detection.rivals import rivals
from benchmarks.detection.simulate import course
from benchmarks.detection.sticky import CONFIGURED, OURS, sticky
from benchmarks.detection.worlds import Setting


def test_every_goal_holds_in_the_short_form() -> None:
    found = list(goals(Effort.short()))
    assert [g for g in found if g.holds is False] == []
    assert sum(g.holds is True for g in found) >= 25


def test_the_bound_is_the_published_one() -> None:
    assert [round(error_bound(0.005, p1, 0.05, 1e-4), 1) for p1 in (0.02, 0.05, 0.2, 1.0)] == [
        783.1,
        148.0,
        21.0,
        2.5,
    ]
    assert [round(latency_bound(r, 0.5, 0.05, 1e-4), 1) for r in (1.2, 2.0, 10.0)] == [146.3, 10.8, 2.5]
    assert error_bound(0.01, 0.01, 0.05, 1e-4) == math.inf
    assert pair_bound(0.1, 0.0, 1e-4) == pytest.approx(9.21 / (0.1 * math.log(2.0)), rel=1e-3)


def test_the_same_seed_gives_the_same_figures() -> None:
    setting = Setting(p1=0.2, runs=50)
    assert np.array_equal(course(setting).delays, course(setting).delays)
    assert not np.array_equal(course(setting).delays, course(replace(setting, seed=2)).delays)


@pytest.mark.parametrize("mode", ["errors", "latency"])
def test_the_window_rule_is_the_gateways_own(mode: str) -> None:
    """Delay of the vectorised rule against the window itself, in a world where either is quick."""
    setting = Setting(mode=mode, p1=0.3, ratio=4.0, runs=400, horizon=200)
    fast = rivals(setting)["window"].delays
    rng, slow = np.random.default_rng(7), []
    for _ in range(400):
        window = HealthWindow(HealthConfig())
        for i in range(1, 201):
            error = mode == "errors" and bool(rng.random() < 0.3)
            latency = 320.0 * math.exp(0.5 * rng.normal()) if mode == "latency" else 1.0
            window.record(error, latency)
            if window.should_rollback()[0]:
                slow.append(i)
                break
    # Both means estimate the same; five standard errors of their difference.
    spread = math.sqrt((np.var(fast) + np.var(slow)) / 400)
    assert abs(np.mean(fast) - np.mean(slow)) <= 5.0 * spread + 1e-9


def test_with_the_default_metrics_a_good_candidate_in_an_incident_is_blamed_no_more_often_than_alpha() -> (
    None
):
    runs, alpha = 100, 0.05
    good = Setting(scenario="incident", rate=500, horizon=1000, runs=runs, alpha=alpha, metrics="default")
    assert deployed(good).false_rollbacks <= binom.ppf(0.999, runs, alpha)


def test_the_division_of_the_stake_is_measured_at_two_rates_and_judges_nothing() -> None:
    found = list(divided(Effort(runs=2)))
    assert [goal.holds for goal in found] == [None] * 6
    assert all("default metrics" in goal.name for goal in found)


def test_plain_request_votes_blame_sticky_keys_and_ours_do_not() -> None:
    found = sticky(Setting(scenario="sticky", runs=40, horizon=6000))
    assert found.hits(CONFIGURED, 1e-4) > 0.03
    assert found.hits(OURS, 1e-4) == 0.0


def test_a_quantile_is_a_value_that_occurred_and_none_where_runs_found_nothing() -> None:
    assert quantile(np.array([3.0, 1.0, 2.0, np.inf]), 0.5) == 2.0
    assert quantile(np.array([1.0, np.inf]), 0.95) is None
    assert quantile(np.zeros(0), 0.5) is None


@pytest.mark.parametrize(
    "arguments",
    [
        "--mode errors --p0 0.01 --p1 0.2 --rho 0.1 --alpha 0.001 --runs 20",
        "--mode latency --ratio 2 --sigma 0.4 --runs 20 --no-rivals",
        "--mode shadow --runs 5",
        "--mode labels --p0 0.1 --p1 0.4 --rho 0.2 --runs 20",
        "--scenario sticky --runs 2",
        "--scenario order --runs 2",
        "--scenario bursts --runs 5 --rate 1000",
        "--scenario incident --runs 5 --rate 1000 --horizon 1000",
        "--scenario drip50k --runs 5 --rate 1000",
        "--metrics default --p1 1 --rate 20 --runs 5 --no-rivals",
        "--metrics default --ratio 3 --rate 100 --runs 3 --no-rivals",
        "--metrics default --scenario incident --runs 2 --rate 1000 --horizon 1000 --no-rivals",
    ],
)
def test_one_setting_is_measured_as_json(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments.split(), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert {"median", "p95", "bound", "false_rollbacks", "runs"} <= set(figures)


def test_arguments_that_make_no_sense_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--p0", "2"]) == 2
    assert main(["--runs", "0", "--p1", "0.1"]) == 2
    assert main(["--metrics", "default", "--scenario", "sticky"]) == 2
    assert "error:" in capsys.readouterr().err
