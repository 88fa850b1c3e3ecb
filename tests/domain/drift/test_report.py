"""The drift report: quiet without drift at the configured daily rate, loud and specific with it."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, sqrt

import numpy as np
import pytest

from app.domain.drift.cell import Cell, Row, as_float
from app.domain.drift.reference import Baseline
from app.domain.drift.report import DRIFT, NO_DATA, DriftPolicy, DriftReport, DriftResult, judge
from app.domain.drift.window import LiveWindow


def _rows(seed: int, n: int, features: int = 4) -> list[Row]:
    chance = np.random.default_rng(seed)
    columns = {f"x{i}": chance.normal(i, 1, n).tolist() for i in range(features)}
    columns["plan"] = chance.choice(["free", "pro", "team"], n, p=[0.7, 0.2, 0.1]).tolist()
    columns["vip"] = (chance.random(n) < 0.1).tolist()
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _changed(rows: list[Row], **columns: Sequence[Cell]) -> list[Row]:
    return [{**row, **{name: values[i] for name, values in columns.items()}} for i, row in enumerate(rows)]


def _numbers(rows: list[Row], name: str) -> list[float]:
    return [as_float(row[name]) for row in rows]


BASELINE = Baseline.from_rows(_rows(1, 4_000))


def _report(rows: list[Row], policy: DriftPolicy | None = None, baseline: Baseline = BASELINE) -> DriftReport:
    window = LiveWindow(baseline, "today")
    window.add(rows)
    return judge(baseline, [window], policy)


def _result(report: DriftReport, feature: str, test: str) -> DriftResult:
    (found,) = (r for r in report.results if (r.feature, r.test) == (feature, test))
    return found


@pytest.mark.parametrize("numeric", ["psi", "ks"])
def test_without_drift_a_day_alarms_no_more_often_than_configured(numeric: str) -> None:
    days, rate, alarmed = 60, 0.2, 0
    policy = DriftPolicy(daily_false_alarms=rate, windows_a_day=2, numeric=numeric)
    for day in range(days):
        windows = []
        for half in range(2):
            window = LiveWindow(BASELINE, f"{half}")
            window.add(_rows(1_000 * (half + 1) + day, 600))
            windows.append(window)
        alarmed += bool(judge(BASELINE, windows, policy).drifted)
    assert alarmed / days <= rate + 4 * sqrt(rate * (1 - rate) / days)


def test_a_shifted_number_is_named_with_its_threshold_and_severity() -> None:
    rows = _rows(2, 2_000)
    report = _report(_changed(rows, x1=[v + 0.5 for v in _numbers(rows, "x1")]))
    assert report.drifted == ("x1",)
    assert report.detected
    worst = report.results[0]
    assert (worst.feature, worst.test, worst.verdict) == ("x1", "psi", DRIFT)
    assert worst.threshold is not None
    assert worst.statistic > worst.threshold
    assert worst.severity == pytest.approx(0.5, abs=0.1)
    assert report.severity == worst.psi == pytest.approx(0.24, abs=0.08)
    assert worst.reason.startswith(f"psi {worst.statistic:.4g} > ")


@pytest.mark.parametrize("numeric", ["psi", "ks"])
def test_every_verdict_is_on_its_side_of_the_threshold(numeric: str) -> None:
    rows = _rows(3, 1_500)
    x0, x2 = [1.2 * v for v in _numbers(rows, "x0")], [v + 0.25 for v in _numbers(rows, "x2")]
    shifted = _changed(rows, x0=x0, x2=x2)
    for r in _report(shifted, DriftPolicy(numeric=numeric)).results:
        if r.threshold is not None:
            assert (r.statistic > r.threshold) == (r.verdict == DRIFT), r


def test_categories_that_change_their_shares_drift() -> None:
    rows = _rows(4, 2_000)
    report = _report(_changed(rows, plan=["pro" if i % 2 else r["plan"] for i, r in enumerate(rows)]))
    assert report.drifted == ("plan",)
    assert _result(report, "plan", "chi2").verdict == DRIFT


@pytest.mark.parametrize(
    ("column", "values", "test", "said"),
    [
        ("x0", [None] * 600 + [0.0] * 400, "missing", "600 of 1000 missing, 0 of 4000 in the reference"),
        ("x0", ["1.5"] * 1_000, "type_change", "text (1000) where the reference has number"),
        ("x0", [99.0] * 30 + [0.0] * 970, "out_of_range", "0 below"),
        ("plan", ["gold"] * 40 + ["free"] * 960, "new_category", "new: 'gold' (40)"),
        ("extra", [1.0] * 1_000, "new_feature", "in 1000 of 1000 rows, never in the reference"),
    ],
)
def test_each_change_of_schema_is_a_finding_of_its_own(
    column: str, values: list[Cell], test: str, said: str
) -> None:
    report = _report(_changed(_rows(5, 1_000), **{column: values}))
    found = _result(report, column, test)
    assert found.verdict == DRIFT
    assert said in found.reason
    assert column in report.drifted


def test_a_feature_that_is_gone_is_missing_not_stable() -> None:
    rows: list[Row] = [{k: v for k, v in row.items() if k != "x3"} for row in _rows(6, 800)]
    report = _report(rows)
    assert _result(report, "x3", "missing").verdict == DRIFT
    assert _result(report, "x3", "psi").verdict == NO_DATA


def test_a_few_odd_rows_are_stable_however_certain() -> None:
    rows = _rows(7, 5_000)
    report = _report(_changed(rows, x0=[None] * 20 + [r["x0"] for r in rows[20:]]))
    found = _result(report, "x0", "missing")
    assert found.p_value < 1e-5
    assert found.verdict == "stable"
    assert found.reason.endswith("below 1.0% of rows")


def test_too_few_rows_are_no_data_neither_drift_nor_stable() -> None:
    report = _report(_rows(8, 499))
    assert {r.verdict for r in report.results} == {NO_DATA}
    assert report.detected is None
    assert report.results[0].reason == "499 rows, 500 are needed"
    assert _report([]).detected is None


def test_a_constant_that_changes_is_found_though_it_has_one_bin() -> None:
    baseline = Baseline.from_rows([{"x": 7.0} for _ in range(1_000)])
    report = _report([{"x": 8.0} for _ in range(600)], baseline=baseline)
    assert _result(report, "x", "out_of_range").verdict == DRIFT
    assert not _report([{"x": 7.0} for _ in range(600)], baseline=baseline).drifted


def test_the_same_hours_of_the_week_are_compared_where_they_are_kept() -> None:
    chance = np.random.default_rng(9)
    hours = [i % 2 for i in range(8_000)]  # by night (1) the numbers are larger
    reference: list[Row] = [{"x": float(chance.normal(3.0 * h, 1))} for h in hours]
    baseline = Baseline.from_rows(reference, hours)
    night: list[Row] = [{"x": float(v)} for v in chance.normal(3, 1, 1_000)]
    plain, matched = LiveWindow(baseline, "n"), LiveWindow(baseline, "n", frozenset({1}))
    for window in (plain, matched):
        window.add(night)
    assert judge(baseline, [plain]).drifted == ("x",)
    assert judge(baseline, [matched]).drifted == ()


def test_looking_again_after_the_next_window_takes_back_no_alarm() -> None:
    policy = DriftPolicy(windows_a_day=24)
    windows: list[LiveWindow] = []
    before: set[tuple[str, str, str]] = set()
    for hour in range(6):
        rows = _rows(20 + hour, 600)
        window = LiveWindow(BASELINE, f"{hour}")
        window.add(_changed(rows, x1=[v + 0.12 * hour for v in _numbers(rows, "x1")]))
        windows.append(window)
        report = judge(BASELINE, windows, policy)
        now = {(r.feature, r.window, r.test) for r in report.results if r.verdict == DRIFT}
        assert before <= now
        before = now
    assert before


def test_features_that_vanished_or_changed_in_kind_are_named_with_their_share_of_rows() -> None:
    rows = _rows(6, 2_000)
    for number, row in enumerate(rows):
        changed: dict[str, Cell] = dict(row)
        del changed["x0"]
        changed["x1"] = str(changed["x1"])
        changed["plan"] = "trial" if number % 5 == 0 else changed["plan"]
        changed["x2"] = None if number % 20 == 0 else changed["x2"]
        rows[number] = changed
    report = _report(rows)
    assert report.schema_findings(0.1) == (
        "x0 missing in 100.0% more rows",
        "x1 of another type in 100.0% more rows",
        "plan of a new category in 20.0% more rows",
    )
    assert report.schema_findings(0.04)[3:] == ("x2 missing in 5.0% more rows",)
    assert report.schema_findings(0.5)[2:] == ()
    assert _report(_rows(7, 2_000)).schema_findings(0.0) == ()


@pytest.mark.parametrize("numeric", ["psi", "ks"])
@pytest.mark.parametrize("size", [1.0, 1e101, 1e308])
def test_drift_of_the_largest_numbers_is_found_like_any_other(size: float, numeric: str) -> None:
    chance = np.random.default_rng(8)
    plain = chance.uniform(-1.0, 1.0, 2_000)
    baseline = Baseline.from_rows([{"x": float(v)} for v in plain * size])
    policy = DriftPolicy(numeric=numeric)
    steady = _report([{"x": float(v)} for v in chance.uniform(-1, 1, 1_000) * size], policy, baseline)
    assert not steady.drifted
    moved = _report([{"x": float(v)} for v in chance.uniform(0, 1, 1_000) * size], policy, baseline)
    found = _result(moved, "x", numeric)
    assert found.verdict == DRIFT
    assert found.severity == pytest.approx(0.5 / 3**-0.5, abs=0.1)  # half the width, in deviations


def test_a_feature_that_jumps_to_the_largest_numbers_has_a_finite_report() -> None:
    rows = [{**row, "x0": 1.7e308 if i % 2 else -1.7e308} for i, row in enumerate(_rows(5, 2_000))]
    report = _report(rows)
    assert report.drifted == ("x0",)
    assert all(isfinite(r.severity) for r in report.results if r.severity is not None)
