"""The learning side put together: performance, drift, retraining, shadow comparison, review; looked at on
a timer and on demand.

Only reads what is stored and writes decisions; nothing here touches traffic, and a slow or missing store
only makes it late.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import structlog

from app.control.clock import Clock
from app.control.drift import DriftReports
from app.control.flags import FlagsService
from app.control.news import News
from app.control.outcomes import OutcomeIntake
from app.control.performance import PerformanceReports
from app.control.ports import Row, Store
from app.control.registry import Registry
from app.control.retraining import RetrainingDesk
from app.control.review import ReviewDesk
from app.control.shadow_report import ShadowReports
from app.errors import GatewayError, UnavailableError
from app.link.messages import Series

log = structlog.get_logger(__name__)

EVERY_S = 30.0


class Monitor:
    """`leads` says whether this host decides on retraining; reports are made everywhere."""

    def __init__(
        self,
        registry: Registry,
        flags: FlagsService,
        store: Store,
        outcomes: OutcomeIntake,
        clock: Clock,
        leads: Callable[[], bool] = lambda: True,
        news: News | None = None,
    ) -> None:
        self._registry = registry
        self._leads = leads
        self._news = news = news or News(registry)
        self.performance = PerformanceReports(registry, store, clock)
        self.shadow = ShadowReports(registry, store, clock)
        self.drift = DriftReports(registry, flags, store, clock)
        self.retraining = RetrainingDesk(registry, flags, store, self.performance, self.drift, clock, news)
        self.review = ReviewDesk(registry, store, outcomes, clock)
        self._seen: dict[str, Row] = {}

    async def run(self) -> None:
        """The owner runs this as a task."""
        while True:
            await asyncio.sleep(EVERY_S)
            await self.look()

    async def look(self) -> None:
        """One round over all models; what fails for one does not keep the others."""
        for model in self._registry.names():
            try:
                self._seen[model] = await self.performance.report(model)
                await self._news.drift(await self.drift.report(model), leads=self._leads())
                if self._leads():
                    await self.retraining.evaluate_on_timer(model)
            except UnavailableError as error:
                log.debug("the monitor waits", model=model, error=str(error))
            except (GatewayError, ValueError, KeyError) as error:
                log.error("the monitor cannot judge this model", model=model, error=str(error))

    def series(self) -> Iterator[Series]:
        for model, report in self._seen.items():
            for version in report["versions"]:
                if version["coverage"] is not None:
                    yield Series("gateway_label_coverage", (model, version["version"]), version["coverage"])
                for name, figure in version["metrics"].items():
                    if figure["value"] is not None:
                        yield Series(
                            "gateway_performance", (model, version["version"], name), figure["value"]
                        )
        yield from self.drift.series()
        yield from self.retraining.series()
