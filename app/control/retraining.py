"""Whether to retrain, decided from what the monitor knows; every decision is stored with its inputs.
Starts no training by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from typing import Protocol

from app.control.clock import Clock
from app.control.drift import DriftSignal
from app.control.flags import FlagsService
from app.control.news import News
from app.control.performance import PerformanceReports
from app.control.ports import Row, Store
from app.control.registry import Registry
from app.domain.model import Model
from app.domain.performance.figure import higher_is_better
from app.domain.retraining import (
    RetrainingDecision,
    RetrainingPolicy,
    RetrainingSignals,
    Told,
    cooling,
    decide,
    worth_telling,
)
from app.link.messages import Series

REPEAT_S = 86_400.0
DEFAULT_METRIC = {"binary": "f1", "multiclass": "f1_macro", "regression": "rmse"}


class DriftSignals(Protocol):
    """What the drift reports say of a model's production version."""

    async def signal(self, model: str, fresh: bool = False) -> DriftSignal: ...


class RetrainingDesk:
    def __init__(
        self,
        registry: Registry,
        flags: FlagsService,
        store: Store,
        performance: PerformanceReports,
        drift: DriftSignals,
        clock: Clock,
        news: News,
    ) -> None:
        self._registry = registry
        self._flags = flags
        self._store = store
        self._performance = performance
        self._drift = drift
        self._clock = clock
        self._news = news
        self._latest: dict[str, Row] = {}  # as of the last look, told or not
        self._storing = asyncio.Lock()  # a timer and a caller at the same moment do not both tell

    async def evaluate(self, model: str) -> Row:
        """Decide now, from figures made now, and store it with everything it was decided from.
        `UnavailableError` without the store.
        """
        row = await self._decide(model, fresh=True)
        async with self._storing:
            await self._weigh(row)
            await self._keep(row)
        return _view(row)

    async def evaluate_on_timer(self, model: str) -> None:
        """Decide now; stored when it is told, when it differs from the decision before, and once a day. What it
        changes to soon after a call to retrain went out is no news.
        """
        row = await self._decide(model)
        async with self._storing:
            fresh = await self._weigh(row)
            stored = await self._store.retraining_decisions(model, 1)
            if row["told"] or not stored or _differs(row, stored[0], fresh):
                await self._keep(row)

    async def _weigh(self, row: Row) -> bool:
        """Settle whether this decision is to be told; returns whether the last one that was is still fresh. What
        was told is read from the store: another host may have told it, or this one before a restart.
        """
        model, now = row["model"], row["at"]
        cooldown_s = self._registry.model(model).retraining.cooldown_s
        last = await self._store.told_to_retrain(model)
        told = None if last is None else Told(last["at"].timestamp(), last["urgency"])
        row["inputs"] |= {"cooldown_s": cooldown_s, "last_told": None if told is None else asdict(told)}
        decision = RetrainingDecision(row["should_retrain"], row["reason"], row["urgency"])
        row["told"] = worth_telling(decision, told, now, cooldown_s)
        return cooling(told, now, cooldown_s)

    async def _keep(self, row: Row) -> None:
        await self._store.add_retraining_decision(row)
        if row["told"]:
            await self._news.tell(row["model"], "retraining", row)

    async def _decide(self, model: str, fresh: bool = False) -> Row:
        known = self._registry.model(model)
        now = self._clock.now()
        production = self._flags.current(model).production
        metric = known.retraining.metric or DEFAULT_METRIC.get(known.task)
        current, why = await self._current(known, production, metric, fresh)
        stored = await self._store.baseline(model)
        baseline, trained_at = _at_training(known, production, metric, stored or {})
        after, after_at = "", None
        if trained_at is None and known.retraining.every_s is not None:
            after, after_at = await self._after_training(model, production, stored)
        drift = await self._drift.signal(model, fresh)
        signals = RetrainingSignals(
            now=now.timestamp(),
            last_trained_at=trained_at,
            drift_detected=drift.detected,
            drift_severity=drift.severity,
            drift_findings=drift.findings,
            after_training=after,
            after_training_at=after_at,
            performance_current=current,
            performance_baseline=baseline,
        )
        policy = RetrainingPolicy(
            strategy=known.retraining.strategy,
            performance_threshold=known.retraining.performance_threshold,
            critical_threshold=known.retraining.critical_threshold,
            every_s=known.retraining.every_s,
            higher_is_better=metric is None or higher_is_better(metric),
        )
        decision = decide(signals, policy)
        row = self._latest[model] = {
            "model": model,
            "at": now.timestamp(),
            **asdict(decision),
            "inputs": {
                **asdict(signals),
                "policy": asdict(policy),
                "metric": metric,
                "version": production,
                "performance_note": why,
            },
        }
        return row

    async def _current(
        self, model: Model, version: str, metric: str | None, fresh: bool
    ) -> tuple[float | None, str]:
        """The metric of the production version over mature labels, with a note on it, or why there is none.

        Where too few labels have come by themselves, those of reviewers stand for the rest.
        """
        if metric is None:
            return None, f"task {model.task!r} has no metric"
        report = await self._performance.report(model.name, version, fresh=fresh)
        for one in report["versions"]:
            figure = one["metrics"].get(metric)
            if figure is None:
                return None, f"{metric!r} is no metric of task {model.task!r}"
            reviewed = one["reviewed"]
            if figure["value"] is None and reviewed is not None:
                weighted = reviewed["metrics"][metric]
                if weighted["value"] is not None:
                    return weighted["value"], f"{reviewed['labels']} reviewed labels, weighted by propensity"
            return figure["value"], figure["reason"]
        return None, "no prediction is mature yet"

    async def _after_training(
        self, model: str, version: str, baseline: Row | None
    ) -> tuple[str, float | None]:
        """What came after the training of this version, and when: a schedule that knows no time of the training
        goes by it. A new baseline or a promotion, whichever came last; else when the version was first heard of.
        """
        times = await self._store.version_times(model, version)
        known: list[tuple[float, str]] = []
        if baseline is not None:
            known.append((float(baseline["at"]), "the baseline was set"))
        if (promoted := times["promoted"]) is not None:
            known.append((promoted.timestamp(), f"{version} was promoted"))
        if known:
            at, what = max(known)
            return what, at
        for name, how in (("registered", "registered"), ("first_seen", "first asked")):
            if (found := times[name]) is not None:
                return f"{version} was {how}", found.timestamp()
        return "", None

    async def decisions(self, model: str, limit: int) -> list[Row]:
        """The newest first."""
        self._registry.model(model)
        return [_view(row) for row in await self._store.retraining_decisions(model, limit)]

    def series(self) -> Iterator[Series]:
        for model, row in self._latest.items():
            for urgency in ("routine", "elevated", "critical"):
                called_for = bool(row["should_retrain"]) and row["urgency"] == urgency
                yield Series("gateway_retraining_decision", (model, urgency), float(called_for))


def _differs(row: Row, before: Row, fresh: bool) -> bool:
    """Whether a decision that is not told is worth storing after the one before it."""
    changed = any(row[name] != before[name] for name in ("should_retrain", "urgency"))
    return (changed and not fresh) or row["at"] - before["at"].timestamp() >= REPEAT_S


def _at_training(
    model: Model, version: str, metric: str | None, baseline: Row
) -> tuple[float | None, float | None]:
    """The metric at training time and when that was: the version's own metadata, the uploaded baseline, the
    file; first wins.
    """
    found = model.version(version)
    metadata = dict(found.metadata) if found else {}
    metrics = baseline.get("metrics") or {}
    candidates = (metadata.get(metric or ""), metrics.get(metric), model.retraining.baseline)
    figure = next((number for text in candidates if (number := _number(text)) is not None), None)
    trained = metadata.get("trained_at") or baseline.get("trained_at")
    return figure, _seconds(trained)


def _view(row: Row) -> Row:
    at = row["at"]
    return {**row, "at": at if isinstance(at, datetime) else datetime.fromtimestamp(at).astimezone()}


def _number(value: object) -> float | None:
    try:
        return float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else None
    except ValueError:
        return None


def _seconds(value: object) -> float | None:
    """Seconds since the epoch of a number or an RFC 3339 text."""
    if isinstance(value, str):
        try:
            return datetime.fromisoformat(value).timestamp()
        except (ValueError, OverflowError):
            return _number(value)
    return _number(value)
