"""The verdict on every feature: what was tested, against which threshold, on how many rows, and what it says.

All tests of all windows of a day share one false-alarm rate. A test alarms when its p-value passes the
common cutoff; each null hypothesis allows for a change too small to matter, so that large samples do not
alarm about nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from app.domain.drift import categories, distance, multiple, psi, shares
from app.domain.drift.reference import (
    Baseline,
    CategoryReference,
    FeatureReference,
    NumberReference,
    unit_of,
)
from app.domain.drift.window import CategoryCounts, LiveCounts, LiveWindow, NumberCounts

NO_DATA, STABLE, DRIFT = "no_data", "stable", "drift"
FINDINGS = ("missing", "type_change", "out_of_range", "new_category", "new_feature")
# What a distribution does not show: the values that it is made of are no longer there.
SCHEMA_FINDINGS = {
    "missing": "missing",
    "type_change": "of another type",
    "new_category": "of a new category",
}


@dataclass(frozen=True, slots=True)
class DriftPolicy:
    """`numeric` is psi or ks. `daily_false_alarms` is the probability of any false alarm in a day of
    `windows_a_day`.
    """

    daily_false_alarms: float = 0.01
    windows_a_day: int = 1
    min_rows: int = 500  # of a feature in a window; fewer are no_data
    numeric: str = "psi"
    psi_tolerance: float = psi.TOLERANCE  # also for χ², which measures the same divergence
    ks_tolerance: float = 0.0
    share_tolerance: float = 0.01  # of rows; findings about fewer are stable


@dataclass(frozen=True, slots=True)
class DriftResult:
    """One test. `statistic` drifts above `threshold`, which is None where the test is exact (then
    `p_value` decides).

    `severity` is Wasserstein's distance in the reference's standard deviations for numbers, PSI for
    categories, and the share of rows for findings. `psi` stands beside it where the feature has one.
    """

    feature: str
    window: str
    test: str  # psi | ks | chi2 | missing | type_change | out_of_range | new_category | new_feature
    statistic: float
    threshold: float | None
    p_value: float
    n: int  # live rows that the test rests on
    m: int  # reference rows
    severity: float | None
    psi: float | None
    verdict: str  # drift | stable | no_data
    reason: str
    bins: int = 0  # of psi and chi2


@dataclass(frozen=True, slots=True)
class DriftReport:
    """All results, worst first. `severity` is the largest PSI of a feature that drifts, as the retraining
    decision needs it.
    """

    results: tuple[DriftResult, ...]
    drifted: tuple[str, ...]
    severity: float
    cutoff: float  # p-value up to which a test alarms

    @property
    def detected(self) -> bool | None:
        """Whether anything drifts; None when no test had enough rows."""
        if all(r.verdict == NO_DATA for r in self.results):
            return None
        return bool(self.drifted)

    def schema_findings(self, share: float) -> tuple[str, ...]:
        """The features that vanished or changed in kind, each with what is wrong in how many rows; the most
        first. Only from that share of rows on.
        """
        rises: dict[tuple[str, str], float] = {}
        for one in self.results:
            if one.verdict == DRIFT and one.test in SCHEMA_FINDINGS and (one.severity or 0.0) >= share:
                key = one.feature, SCHEMA_FINDINGS[one.test]
                rises[key] = max(rises.get(key, 0.0), one.severity or 0.0)
        ranked = sorted(rises.items(), key=lambda item: (-item[1], item[0]))
        return tuple(f"{name[:80]} {what} in {rise:.1%} more rows" for (name, what), rise in ranked)


def judge(
    baseline: Baseline, windows: Sequence[LiveWindow], policy: DriftPolicy | None = None
) -> DriftReport:
    """Test every feature of the windows, which should be those of one day so far.

    The number of tests planned for the day is fixed by the baseline and `windows_a_day`, so that looking
    again after each window keeps the day's rate and takes back no alarm.
    """
    policy = policy or DriftPolicy()
    found = [result for window in windows for result in _window_results(baseline, window, policy)]
    planned = max(policy.windows_a_day, len(windows)) * sum(_tests_of(f) for f in baseline.features.values())
    # A feature that the reference lacks cannot be planned for: it is held against the cutoff only.
    tested = [r.p_value for r in found if r.verdict != NO_DATA and r.test != "new_feature"]
    cutoff = multiple.cutoff(tested, policy.daily_false_alarms, planned)
    results = [_with_verdict(baseline, r, cutoff, policy) for r in found]
    results.sort(
        key=lambda r: (r.verdict != DRIFT, r.p_value, -(r.severity or 0.0), r.feature, r.window, r.test)
    )
    drifting = [r for r in results if r.verdict == DRIFT]
    return DriftReport(
        results=tuple(results),
        drifted=tuple(dict.fromkeys(r.feature for r in drifting)),
        severity=max((r.psi for r in drifting if r.psi is not None), default=0.0),
        cutoff=cutoff,
    )


def _tests_of(reference: FeatureReference) -> int:
    match reference:
        case NumberReference():
            return 4  # distribution, missing, type change, out of range
        case CategoryReference():
            return 4  # distribution, missing, type change, new category
        case _:
            return 2


def _window_results(baseline: Baseline, window: LiveWindow, policy: DriftPolicy) -> list[DriftResult]:
    found: list[DriftResult] = []
    for name, live in window.features.items():
        reference = baseline.features[name]
        match reference, live:
            case NumberReference(), NumberCounts():
                found.append(_number(name, window, reference, live, policy))
                found.append(_out_of_range(name, window, reference, live))
            case CategoryReference(), CategoryCounts():
                found.append(_category(name, window, reference, live, policy))
                if not reference.rest:  # else an unlisted category need not be new
                    found.append(_new_category(name, window, reference, live))
            case _:
                pass
        found.extend(_kinds(name, window, reference, live))
    found.extend(_new_features(baseline, window))
    return [
        r if r.n >= policy.min_rows else replace(r, verdict=NO_DATA, reason=_too_few(r, policy))
        for r in found
    ]


def _too_few(result: DriftResult, policy: DriftPolicy) -> str:
    return f"{result.n} rows, {policy.min_rows} are needed"


def _number(
    name: str, window: LiveWindow, reference: NumberReference, live: NumberCounts, policy: DriftPolicy
) -> DriftResult:
    n, m = int(live.counts.sum()), reference.rows
    by_ks = policy.numeric == "ks"
    made = DriftResult(
        name, window.name, "ks" if by_ks else "psi", 0.0, None, 1.0, n, m, None, None, STABLE, ""
    )
    if n == 0 or m == 0:
        return replace(made, n=0)
    known, seen = reference.coarse(reference.counts), reference.coarse(live.counts)
    same_hours = sum((reference.hourly[h] for h in window.hours if h in reference.hourly), start=known * 0)
    if float(same_hours.sum()) >= policy.min_rows:
        known = same_hours
    unit = unit_of(reference.edges)
    below, above = live.below_by / n / unit, live.above_by / n / unit
    apart = distance.wasserstein(reference.edges / unit, reference.counts, live.counts, below, above)
    severity = apart / (reference.sigma / unit) if reference.sigma > 0 else None
    index = psi.psi(known, seen)
    if by_ks:
        statistic = distance.kolmogorov_smirnov(reference.counts, live.counts)
        p = distance.kolmogorov_smirnov_exceeds(statistic, n, m, policy.ks_tolerance)
        return replace(made, statistic=statistic, p_value=p, severity=severity, psi=index)
    m = int(known.sum())
    p = psi.exceeds(index, len(known), psi.effective_rows(n, m), policy.psi_tolerance)
    return replace(made, statistic=index, p_value=p, m=m, severity=severity, psi=index, bins=len(known))


def _category(
    name: str, window: LiveWindow, reference: CategoryReference, live: CategoryCounts, policy: DriftPolicy
) -> DriftResult:
    table = categories.contingency(reference.counts, live.counts, live.unseen, reference.rest)
    n, m = int(table.live.sum()), int(table.reference.sum())
    made = DriftResult(name, window.name, "chi2", 0.0, None, 1.0, n, m, None, None, STABLE, "")
    if n == 0 or m == 0:
        return replace(made, n=0)
    bins, index = len(table.names), table.psi
    p = psi.exceeds(table.divergence, bins, table.effective_rows, policy.psi_tolerance)
    return replace(made, statistic=table.divergence, p_value=p, severity=index, psi=index, bins=bins)


def _finding(
    name: str, window: LiveWindow, test: str, p: float, n: int, m: int, share: float, reason: str
) -> DriftResult:
    return DriftResult(name, window.name, test, share, None, p, n, m, share, None, STABLE, reason)


def _out_of_range(
    name: str, window: LiveWindow, reference: NumberReference, live: NumberCounts
) -> DriftResult:
    n, m = int(live.counts.sum()), reference.rows
    p = min(1.0, 2 * min(shares.all_live(rows, n, m) for rows in (live.below, live.above)))
    share = (live.below + live.above) / n if n else 0.0
    low, high = float(reference.edges[0]), float(reference.edges[-1])
    reason = f"{live.below} below {low:g}, {live.above} above {high:g}"
    return _finding(name, window, "out_of_range", p, n, m, share, reason)


def _new_category(
    name: str, window: LiveWindow, reference: CategoryReference, live: CategoryCounts
) -> DriftResult:
    n, m = live.counts.total() + live.unseen, reference.rows
    top = live.new.most_common(3)
    # The most frequent of several new categories: Bonferroni over them.
    p = min(1.0, len(live.new) * shares.all_live(top[0][1], n, m)) if top else 1.0
    share = live.unseen / n if n else 0.0
    shown = ", ".join(f"{category[:40]!r} ({times})" for category, times in top)
    return _finding(
        name, window, "new_category", p, n, m, share, f"new: {shown}" if top else "no new category"
    )


def _kinds(name: str, window: LiveWindow, reference: FeatureReference, live: LiveCounts) -> list[DriftResult]:
    n, m = live.kinds.total(), sum(reference.kinds.values())
    missing, was_missing = live.kinds["missing"], reference.kinds.get("missing", 0)
    p = shares.more_often(missing, n, was_missing, m)
    rise = missing / n - was_missing / m if n and m else 0.0
    reason = f"{missing} of {n} missing, {was_missing} of {m} in the reference"
    found = [_finding(name, window, "missing", p, n, m, rise, reason)]
    main = max((k for k in reference.kinds if k != "missing"), key=lambda k: reference.kinds[k], default=None)
    if main is not None:
        other = n - missing - live.kinds[main]
        was_other = m - was_missing - reference.kinds[main]
        p = shares.more_often(other, n, was_other, m)
        rise = other / n - was_other / m if n and m else 0.0
        kinds = ", ".join(f"{k} ({c})" for k, c in live.kinds.most_common() if k not in ("missing", main))
        reason = f"{kinds} where the reference has {main}" if other else f"all of kind {main}"
        found.append(_finding(name, window, "type_change", p, n, m, rise, reason))
    return found


def _new_features(baseline: Baseline, window: LiveWindow) -> list[DriftResult]:
    n, m = window.rows, baseline.rows
    return [
        _finding(
            name,
            window,
            "new_feature",
            min(1.0, len(window.unknown) * shares.all_live(rows, n, m)),
            n,
            m,
            rows / n,
            f"in {rows} of {n} rows, never in the reference",
        )
        for name, rows in window.unknown.items()
    ]


def _with_verdict(baseline: Baseline, result: DriftResult, cutoff: float, policy: DriftPolicy) -> DriftResult:
    """The verdict by the common cutoff, and the threshold of the statistic that the cutoff means."""
    if result.verdict == NO_DATA:
        return result
    if result.test in FINDINGS:
        large = (result.severity or 0.0) >= policy.share_tolerance
        drifts = result.p_value <= cutoff and large
        note = "" if large or result.p_value > cutoff else f"; below {policy.share_tolerance:.1%} of rows"
        return replace(result, verdict=DRIFT if drifts else STABLE, reason=result.reason + note)
    threshold = _threshold(baseline, result, cutoff, policy)
    drifts = result.p_value <= cutoff
    sign = ">" if drifts else "<="
    reason = f"{result.test} {result.statistic:.4g} {sign} {threshold:.4g} at n={result.n}, m={result.m}"
    return replace(result, verdict=DRIFT if drifts else STABLE, threshold=threshold, reason=reason)


def _threshold(baseline: Baseline, result: DriftResult, cutoff: float, policy: DriftPolicy) -> float:
    if result.test == "ks":
        return distance.kolmogorov_smirnov_critical(cutoff, result.n, result.m, policy.ks_tolerance)
    return psi.critical(cutoff, result.bins, psi.effective_rows(result.n, result.m), policy.psi_tolerance)
