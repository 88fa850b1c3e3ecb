"""How right each version was: labelled rows of mature cohorts into the domain's figures. Figures of young
predictions stand apart.

Reads a bounded number of the newest rows; what was left out is said in the answer.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from app.control.briefly import Briefly
from app.control.clock import Clock
from app.control.ports import Row, Store
from app.control.provisional import estimates
from app.control.registry import Registry
from app.domain.interval import wilson
from app.domain.model import Model
from app.domain.performance.figure import Figure, withheld
from app.domain.performance.maturity import CoverageCell, CoverageTally, covered
from app.domain.performance.row import Labelled, binary_answer, number
from app.domain.performance.tally import for_task
from app.domain.review import representing
from app.errors import InvalidError, NotFoundError

MAX_ROWS = 50_000  # mature ones of a version; the newest
MAX_SAMPLE = 5_000  # rows spread over the time, labelled or not; for delays and coverage
AGES = 10  # parts that coverage by age is told in
MAX_GROUPS = 20
MIN_LABELS = 30
WINDOW = timedelta(days=30)
KEEP_S = 2.0


class PerformanceReports:
    def __init__(self, registry: Registry, store: Store, clock: Clock) -> None:
        self._registry = registry
        self._store = store
        self._clock = clock
        self._kept: Briefly[Row] = Briefly(clock, KEEP_S)

    async def report(
        self,
        model: str,
        version: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        by: str | None = None,
        *,
        fresh: bool = False,
    ) -> Row:
        """By version: figures over mature labels, or why they are withheld; coverage; provisional figures
        apart.

        `by` names a feature whose values are told apart as well; `fresh`: made now, not a moment ago.
        `UnavailableError` without the store.
        """
        known = self._registry.model(model)
        if version is not None and known.version(version) is None:
            raise NotFoundError(f"{version!r} is no version of {model!r}")
        if since is not None and until is not None and since >= until:
            raise InvalidError("since: must be before until")
        return await self._kept.get(
            (model, version, since, until, by),
            lambda: self._report(known, version, since, until, by),
            fresh,
        )

    async def _report(
        self,
        model: Model,
        version: str | None,
        since: datetime | None,
        until: datetime | None,
        by: str | None,
    ) -> Row:
        now = self._clock.now()
        matured = now - timedelta(seconds=model.labels.horizon_s)
        end = min(until or matured, matured)
        begin = since or end - WINDOW
        counts = (
            await self._store.coverage(model.name, begin, max(end, until or now))
            if begin < (until or now)
            else []
        )
        mature = await self._store.coverage(model.name, begin, end) if begin < end else []
        covered_by = {str(row["model_version"]): row for row in mature}
        names = [str(row["model_version"]) for row in counts if version in (None, row["model_version"])]
        return {
            "model": model.name,
            "task": model.task,
            "since": begin,
            "until": end,
            "horizon_s": model.labels.horizon_s,
            "min_coverage": model.labels.min_coverage,
            "versions": [
                await self._version(model, name, covered_by.get(name), begin, end, until or now, by)
                for name in names
            ],
        }

    async def _version(
        self,
        model: Model,
        name: str,
        counts: Row | None,
        since: datetime,
        end: datetime,
        until: datetime,
        by: str | None,
    ) -> Row:
        cell = (
            coverage_cell(name, int(counts["predictions"]), int(counts["labelled"]))
            if counts
            else coverage_cell(name, 0, 0)
        )
        store, begin = self._store, max(since, end)
        rows = await store.labelled(model.name, name, since, end, MAX_ROWS) if since < end else []
        older = await store.sample(model.name, name, since, end, MAX_SAMPLE) if since < end else []
        young = await store.sample(model.name, name, begin, until, MAX_SAMPLE) if begin < until else []
        arrived = await store.arrivals([row for row in (*older, *young) if _labelled(row)])
        picked = await store.review_propensities(model.name, [str(row["prediction_id"]) for row in rows])
        figures, unusable = await asyncio.to_thread(figures_of, model, rows, cell)
        answers: list[Row] = []
        if by is not None and since < end:
            answers = await store.answers(model.name, name, since, end, MAX_ROWS)
        now = self._clock.now()
        return {
            "version": name,
            "mature": cell.predictions,
            "labelled": cell.labelled,
            "coverage": cell.share,
            "coverage_by": await asyncio.to_thread(coverage_by, model, (*young, *older), now),
            "rows": len(rows),
            "newest_only": MAX_ROWS in (len(rows), len(answers)),
            "unusable": unusable,
            "metrics": {one.name: asdict(one) for one in figures},
            "reviewed": await asyncio.to_thread(reviewed, model, rows, cell, picked),
            "provisional": await asyncio.to_thread(estimates, model, rows, young, arrived, cell.share),
            **({} if by is None else {"groups": await asyncio.to_thread(groups_of, model, answers, by)}),
        }


def _labelled(row: Mapping[str, Any]) -> bool:
    return row["ground_truth_timestamp"] is not None


def coverage_cell(part: str, predictions: int, labelled: int) -> CoverageCell:
    labelled = min(labelled, predictions)
    low, high = wilson(labelled, predictions)
    return CoverageCell(
        part, predictions, labelled, labelled / predictions if predictions else None, low, high
    )


def figures_of(
    model: Model, rows: Sequence[Mapping[str, Any]], coverage: CoverageCell
) -> tuple[tuple[Figure, ...], dict[str, int]]:
    """Figures of labelled rows of one version, and how many rows could not be read, by reason. None for
    task `none`.
    """
    tally = for_task(model.task)
    if tally is None:
        return (), {}
    tally.add(Labelled(row["prediction"], row["confidence"], row["ground_truth"]) for row in rows)
    return covered(tally.figures(MIN_LABELS), coverage, model.labels.min_coverage), dict(tally.unusable)


def reviewed(
    model: Model, rows: Sequence[Mapping[str, Any]], coverage: CoverageCell, picked: Mapping[str, float]
) -> dict[str, Any] | None:
    """The figures when each label that a reviewer gave stands for the predictions that nobody labelled, by
    the inverse of the probability with which it was picked; None without such labels.

    Labels that came by themselves stand for themselves only, so neither kind need be a fair sample.
    """
    tally = for_task(model.task)
    if tally is None or not picked or not coverage.labelled:
        return None
    unlabelled = (coverage.predictions - coverage.labelled) * len(rows) / coverage.labelled
    weights = representing(picked, len(picked) + unlabelled)
    tally.add(
        Labelled(
            row["prediction"], row["confidence"], row["ground_truth"], weights.get(row["prediction_id"], 1.0)
        )
        for row in rows
    )
    figures = tally.figures(MIN_LABELS)
    if len(picked) < MIN_LABELS:
        reason = f"{len(picked)} reviewed labels, {MIN_LABELS} are needed"
        figures = tuple(withheld(one.name, reason, one.n) for one in figures)
    return {
        "labels": len(picked),
        "stand_for": round(len(picked) + unlabelled),
        "metrics": {one.name: asdict(one) for one in figures},
    }


def coverage_by(model: Model, rows: Sequence[Mapping[str, Any]], now: datetime) -> dict[str, Any] | None:
    """How many of these predictions are labelled, by tenths of the score (mature ones) and by age (all), and
    the p-value of even coverage over scores: a small one says that labels are selected. None without rows.
    """
    if not rows:
        return None
    scores = [_score(model, row) for row in rows]
    known = [score for score in scores if score is not None]
    edges = sorted({float(q) for q in np.quantile(known, np.arange(1, 10) / 10)}) if known else []
    oldest = min(row["timestamp"] for row in rows)
    at = now.timestamp()
    tally = CoverageTally(max(1.0, (now - oldest).total_seconds() / AGES), edges)
    for row, score in zip(rows, scores, strict=True):
        # Ages are counted back from now, so that parts of age are whole.
        made = row["timestamp"].timestamp() - at
        tally.predicted(row["model_version"], made, score)
        if _labelled(row):
            tally.labelled(row["model_version"], made, score)
    report = tally.report(0.0, model.labels.horizon_s)
    return {
        "sampled": len(rows),
        "score": [asdict(one) for one in report.by_score],
        "age": [asdict(one) for one in report.by_age],
        "uneven": report.uneven,
    }


def _score(model: Model, row: Mapping[str, Any]) -> float | None:
    """The positive class's probability, else the confidence, else a number that was predicted."""
    if model.task == "binary":
        answer = binary_answer(row["prediction"], row["confidence"])
        return answer[1] if answer is not None else None
    return row["confidence"] if row["confidence"] is not None else number(row["prediction"])


def groups_of(model: Model, rows: Sequence[Mapping[str, Any]], feature: str) -> list[dict[str, Any]]:
    """The figures of mature answers, labelled or not, for each value of a feature: numbers by quarter,
    categories by name, the most frequent ones.

    Each group by its own coverage: where labels are selected, one may have nearly all and another hardly any.
    """
    values = [(row["features"] or {}).get(feature) for row in rows]
    numbers = [float(v) for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
    edges = (
        sorted({float(q) for q in np.quantile(numbers, (0.25, 0.5, 0.75), method="inverted_cdf")})
        if len(set(numbers)) > MAX_GROUPS
        else []
    )
    members: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row, value in zip(rows, values, strict=True):
        members[_group(value, edges)].append(row)
    largest = sorted(members.items(), key=lambda item: -len(item[1]))[:MAX_GROUPS]
    return [_group_view(model, name, some) for name, some in sorted(largest)]


def _group_view(model: Model, name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    labelled = [row for row in rows if _labelled(row)]
    cell = coverage_cell(name, len(rows), len(labelled))
    return {
        "group": name,
        "mature": cell.predictions,
        "rows": len(labelled),
        "coverage": cell.share,
        "metrics": {one.name: asdict(one) for one in figures_of(model, labelled, cell)[0]},
    }


def _group(value: Any, edges: Sequence[float]) -> str:
    if value is None:
        return "missing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)) and edges:
        place = bisect_left(edges, value)
        low = f"{edges[place - 1]:g} <" if place else ""
        high = f"<= {edges[place]:g}" if place < len(edges) else ""
        return f"{low} {high}".strip()
    return str(value)[:100]
