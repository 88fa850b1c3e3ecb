"""Whether what comes in, and what goes out, is still distributed as in the baseline. Reports only: drift
never rolls back.

A live window is the newest rows of a version within the last day, a bounded number. The prediction is
judged beside the features.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from app.control import baseline_sample
from app.control.briefly import Briefly
from app.control.clock import Clock
from app.control.flags import FlagsService
from app.control.ports import Row, Store
from app.control.registry import Registry
from app.domain.drift.reference import Baseline, CategoryReference, NumberReference, hour_of_week
from app.domain.drift.report import DRIFT, DriftPolicy, DriftReport, DriftResult, judge
from app.domain.drift.window import LiveWindow
from app.domain.model import Model
from app.errors import InvalidError, NotFoundError
from app.link.messages import Series
from app.protocols.redaction import Redaction

PREDICTION = "$prediction"  # stands among the features; no feature path can be named so
WINDOW = timedelta(days=1)
DAY = "day"
MAX_LIVE = 20_000
MAX_BASELINE = 200_000
MIN_BASELINE = 100
MAX_FEATURES = 2000
MAX_FINDINGS = 20  # kept with a decision
KEEP_S = 5.0
TOP = 20  # features of a model in /metrics
WINDOWS = 25  # judged a day: at most 24 hours, and the day
_FROM_ROWS = "window of "
_DISTRIBUTIONS = frozenset({"psi", "ks", "chi2"})


@dataclass(frozen=True, slots=True)
class DriftSignal:
    """`detected` is None while nothing can be judged; `severity` the largest PSI; `findings` name features
    that vanished or changed in kind, which have none.
    """

    detected: bool | None = None
    severity: float = 0.0
    findings: tuple[str, ...] = ()


class DriftReports:
    def __init__(self, registry: Registry, flags: FlagsService, store: Store, clock: Clock) -> None:
        self._registry = registry
        self._flags = flags
        self._store = store
        self._clock = clock
        self._kept: Briefly[tuple[Row, DriftReport | None]] = Briefly(clock, KEEP_S)
        self._latest: dict[str, tuple[str, DriftReport]] = {}

    # ---- the baseline

    async def put_baseline(
        self,
        model: str,
        rows: Sequence[Mapping[str, Any]],
        source: str,
        metrics: Mapping[str, float],
        trained_at: datetime | None,
        hours: Sequence[int] = (),
        ids: Sequence[str] = (),
    ) -> Row:
        """Make these rows of features (the prediction under `PREDICTION`) the reference; `ids` where they are
        stored predictions. `InvalidError` when they cannot be.
        """
        privacy = self._registry.model(model).privacy
        if not MIN_BASELINE <= len(rows) <= MAX_BASELINE:
            raise InvalidError(f"a baseline needs {MIN_BASELINE} to {MAX_BASELINE} rows, not {len(rows)}")
        baseline = await asyncio.to_thread(Baseline.from_rows, rows, hours)
        if not baseline.features:
            raise InvalidError("the rows hold no features")
        if len(baseline.features) > MAX_FEATURES:
            raise InvalidError(f"{len(baseline.features)} features; at most {MAX_FEATURES} are watched")
        row: Row = {
            "at": self._clock.now().timestamp(),
            "source": source,
            "metrics": dict(metrics),
            "trained_at": None if trained_at is None else trained_at.timestamp(),
            "reference": baseline.state(),
        }
        if ids:
            sample = baseline_sample.of_window(ids)
        else:
            redaction = Redaction(privacy.drop, privacy.hash)
            sample = await asyncio.to_thread(baseline_sample.of_upload, rows, redaction, PREDICTION)
        await self._store.put_baseline(model, row, sample)
        return _baseline_view(model, row, baseline)

    async def baseline_from_window(
        self,
        model: str,
        version: str | None,
        since: datetime | None,
        metrics: Mapping[str, float],
        trained_at: datetime | None,
    ) -> Row:
        """As `put_baseline`, from the newest stored rows of a version (the production one when not given)."""
        name = self._version(model, version)
        stored = await self._store.recent(model, name, since, MAX_LIVE)
        rows = [_live_row(row) for row in stored]
        hours = [hour_of_week(row["timestamp"].timestamp()) for row in stored]
        ids = [str(row["prediction_id"]) for row in stored]
        return await self.put_baseline(model, rows, f"{_FROM_ROWS}{name}", metrics, trained_at, hours, ids)

    async def baseline(self, model: str) -> Row:
        """What the reference is; `NotFoundError` when there is none yet."""
        self._registry.model(model)
        row = await self._store.baseline(model)
        if row is None:
            raise NotFoundError(f"{model!r} has no baseline yet; POST one")
        return _baseline_view(model, row, Baseline.from_state(row["reference"]))

    # ---- the report

    def _version(self, model: str, version: str | None) -> str:
        known = self._registry.model(model)
        name = version or self._flags.current(model).production
        if known.version(name) is None:
            raise NotFoundError(f"{name!r} is no version of {model!r}")
        return name

    async def report(self, model: str, version: str | None = None) -> Row:
        """Each feature and the prediction: test, statistic, threshold, n, verdict. Without a baseline
        nothing is judged.
        """
        name = self._version(model, version)
        view, _ = await self._judged(model, name)
        return view

    async def _judged(self, model: str, version: str, fresh: bool = False) -> tuple[Row, DriftReport | None]:
        # Told apart by the baseline, so that a new one shows at once, also one that another host was given.
        number = await self._store.newest_baseline(model)
        return await self._kept.get((model, version, number), lambda: self._judge(model, version), fresh)

    async def _judge(self, model: str, version: str) -> tuple[Row, DriftReport | None]:
        until = self._clock.now()
        since = until - WINDOW
        view: Row = {"model": model, "version": version, "since": since, "until": until}
        stored = await self._store.baseline(model)
        if stored is None:
            reason = "there is no baseline; POST one to /admin/models/{model}/baseline"
            return {
                **view,
                "detected": None,
                "severity": None,
                "reason": reason,
                "rows": 0,
                "results": [],
            }, None
        if stored["source"].startswith(_FROM_ROWS):  # what the reference was made from is no news
            since = max(since, _instant(stored["at"]))
        rows = await self._store.recent(model, version, since, MAX_LIVE)
        report = await asyncio.to_thread(_compare, stored, rows, _policy(self._registry.model(model)))
        self._latest[model] = (version, report)
        view |= {
            "baseline": {"at": _instant(stored["at"]), "source": stored["source"]},
            "rows": len(rows),
            "newest_only": len(rows) == MAX_LIVE,
            "detected": report.detected,
            "severity": report.severity,
            "reason": "" if report.detected is not None else f"too few rows ({len(rows)}) for a test",
            "cutoff": report.cutoff,
            "drifted": report.drifted,
            "results": [asdict(one) for one in report.results if one.window == DAY or one.verdict == DRIFT],
        }
        return view, report

    async def signal(self, model: str, fresh: bool = False) -> DriftSignal:
        """For the retraining decision: whether the production version's drift reaches the configured PSI, or
        features vanished or changed in kind. `fresh`: judged now, not a moment ago.
        """
        limits = self._registry.model(model).retraining
        _, report = await self._judged(model, self._version(model, None), fresh)
        if report is None or report.detected is None:
            return DriftSignal()
        findings = report.schema_findings(limits.schema_threshold)
        reached = report.detected and report.severity >= limits.psi_threshold
        return DriftSignal(reached or bool(findings), report.severity, findings[:MAX_FINDINGS])

    def series(self) -> Iterator[Series]:
        for model, (version, report) in self._latest.items():
            tested = [
                one for one in report.results if one.test in _DISTRIBUTIONS and one.verdict != "no_data"
            ]
            tested.sort(key=_size, reverse=True)
            for one in tested[:TOP]:
                yield Series("gateway_drift_statistic", (model, version, one.feature[:200]), one.statistic)


def _size(result: DriftResult) -> float:
    return result.psi if result.psi is not None else result.statistic


def _policy(model: Model) -> DriftPolicy:
    drift = model.drift
    return DriftPolicy(
        daily_false_alarms=drift.daily_false_alarm_rate, windows_a_day=WINDOWS, numeric=drift.numeric_test
    )


def _compare(stored: Row, rows: Sequence[Row], policy: DriftPolicy) -> DriftReport:
    baseline = Baseline.from_state(stored["reference"])
    windows = [_window(baseline, DAY, rows)]
    parts = _parts_of_day(rows, policy.min_rows)
    if len(parts) > 1:
        windows += [_window(baseline, name, some) for name, some in parts]
    return judge(baseline, windows, policy)


def _parts_of_day(rows: Sequence[Row], least: int) -> list[tuple[str, list[Row]]]:
    """Whole hours, joined backwards from the newest until each part has rows enough for a test; named by
    their first hour.
    """
    hours: dict[datetime, list[Row]] = defaultdict(list)
    for row in rows:
        hours[row["timestamp"].replace(minute=0, second=0, microsecond=0)].append(row)
    parts: list[tuple[str, list[Row]]] = []
    waiting: list[Row] = []
    for hour in sorted(hours, reverse=True):
        waiting += hours[hour]
        if len(waiting) >= least:
            parts.append((hour.isoformat(), waiting))
            waiting = []
    return parts


def _window(baseline: Baseline, name: str, rows: Sequence[Row]) -> LiveWindow:
    hours = frozenset(hour_of_week(row["timestamp"].timestamp()) for row in rows)
    window = LiveWindow(baseline, name, hours)
    if PREDICTION in baseline.features:
        window.add([_live_row(row) for row in rows])
    else:  # an uploaded reference of features alone says nothing of predictions: they are no new feature
        window.add([row["features"] or {} for row in rows])
    return window


def _live_row(row: Row) -> dict[str, Any]:
    features: dict[str, Any] = row["features"] or {}
    return features if row["prediction"] is None else {**features, PREDICTION: row["prediction"]}


def _instant(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds).astimezone()


def _baseline_view(model: str, row: Row, baseline: Baseline) -> Row:
    return {
        "model": model,
        "at": _instant(row["at"]),
        "source": row["source"],
        "rows": baseline.rows,
        "metrics": row["metrics"],
        "trained_at": None if row["trained_at"] is None else _instant(row["trained_at"]),
        "features": {name: _feature_view(reference) for name, reference in baseline.features.items()},
    }


def _feature_view(reference: Any) -> dict[str, Any]:
    kinds = {str(kind): count for kind, count in reference.kinds.items() if count}
    match reference:
        case NumberReference():
            low, high = float(reference.edges[0]), float(reference.edges[-1])
            figures = {"mean": reference.mean, "sigma": reference.sigma, "min": low, "max": high}
            known = figures if reference.finite else dict.fromkeys(figures)
            return {"type": "number", **known, "kinds": kinds}
        case CategoryReference():
            return {"type": "category", "categories": len(reference.counts), "kinds": kinds}
        case _:
            return {"type": "other", "kinds": kinds}
