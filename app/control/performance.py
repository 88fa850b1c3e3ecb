"""How right each version was: labelled rows of mature cohorts into the domain's figures. Figures of young
predictions stand apart.

Reads a bounded number of the newest rows; what was left out is said in the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from app.control.briefly import Briefly
from app.control.clock import Clock
from app.control.ports import Row, Store
from app.control.registry import Registry
from app.domain.interval import wilson
from app.domain.model import Model
from app.domain.performance.figure import Figure
from app.domain.performance.maturity import CoverageCell, covered
from app.domain.performance.row import Labelled
from app.domain.performance.tally import for_task
from app.errors import InvalidError, NotFoundError

MAX_ROWS = 50_000  # of a version; the newest
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
    ) -> Row:
        """By version: figures over mature labels, or why they are withheld; coverage. `UnavailableError`
        without the store.
        """
        known = self._registry.model(model)
        if version is not None and known.version(version) is None:
            raise NotFoundError(f"{version!r} is no version of {model!r}")
        if since is not None and until is not None and since >= until:
            raise InvalidError("since: must be before until")
        return await self._kept.get(
            (model, version, since, until), lambda: self._report(known, version, since, until)
        )

    async def _report(
        self, model: Model, version: str | None, since: datetime | None, until: datetime | None
    ) -> Row:
        now = self._clock.now()
        matured = now - timedelta(seconds=model.labels.horizon_s)
        end = min(until or matured, matured)
        begin = since or end - WINDOW
        counts = await self._store.coverage(model.name, begin, end) if begin < end else []
        asked = [row for row in counts if version in (None, row["model_version"])]
        versions = [await self._version(model, row, begin, end) for row in asked]
        return {
            "model": model.name,
            "task": model.task,
            "since": begin,
            "until": end,
            "horizon_s": model.labels.horizon_s,
            "min_coverage": model.labels.min_coverage,
            "versions": versions,
        }

    async def _version(self, model: Model, counts: Row, since: datetime, until: datetime) -> Row:
        name = str(counts["model_version"])
        cell = coverage_cell(name, int(counts["predictions"]), int(counts["labelled"]))
        rows = await self._store.labelled(model.name, name, since, until, MAX_ROWS)
        figures, unusable = await asyncio.to_thread(figures_of, model, rows, cell)
        return {
            "version": name,
            "mature": cell.predictions,
            "labelled": cell.labelled,
            "coverage": cell.share,
            "rows": len(rows),
            "newest_only": len(rows) == MAX_ROWS,
            "unusable": unusable,
            "metrics": {one.name: asdict(one) for one in figures},
        }


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
    tally.add(labelled(rows))
    return covered(tally.figures(MIN_LABELS), coverage, model.labels.min_coverage), dict(tally.unusable)


def labelled(rows: Iterable[Mapping[str, Any]]) -> list[Labelled]:
    return [Labelled(row["prediction"], row["confidence"], row["ground_truth"]) for row in rows]
