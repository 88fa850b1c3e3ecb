"""Calls to retrain are told once: a figure that crosses its threshold with every look is one call, not one each time."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.adapters.webhook import Webhook
from app.control.news import News
from app.control.outbox import Outbox
from app.domain.model import Labels, Retraining
from tests.control_parts import START, Control, TurnedClock, control, model, prediction, store_rows

DAY = 86_400.0
HOUR = 3600.0
RIGHT = 0.80  # accuracy of what is stored
FINE, LOWER, FAR_LOWER = 0.80, 0.86, 0.95  # at training: no drop, 7 %, 16 %


@dataclass
class Desk:
    parts: Control
    directory: Path

    async def trained_at(self, accuracy: float) -> None:
        """The figure is as it is; how far it has dropped follows from this one."""
        rows = [{"a": float(n)} for n in range(100)]
        await self.parts.monitor.drift.put_baseline("credit", rows, "test", {"accuracy": accuracy}, None)

    async def looked(self, accuracy: float) -> None:
        await self.trained_at(accuracy)
        await self.parts.monitor.retraining.evaluate_on_timer("credit")

    async def stored(self) -> list[tuple[bool, str, bool]]:
        """Oldest first: whether to retrain, how urgently, whether it was told."""
        rows = await self.parts.monitor.retraining.decisions("credit", 1000)
        return [(row["should_retrain"], row["urgency"], row["told"]) for row in reversed(rows)]

    def sent(self) -> int:
        return len(list((self.directory / "outbox").glob("*.event")))


@contextlib.asynccontextmanager
async def desk(directory: Path, clock: TurnedClock, **policy: Any) -> AsyncIterator[Desk]:
    """As it is after a restart, when it was there before."""
    known = model(
        labels=Labels(horizon_s=DAY, min_coverage=0.8),
        retraining=Retraining(
            strategy="performance", metric="accuracy", webhook="http://127.0.0.1:1/hook", **policy
        ),
    )
    new = not directory.exists()
    sender = Webhook()
    async with control(directory, known, clock=clock) as parts:
        box = Outbox(directory / "outbox", sender.post, clock, "/model-gateway")
        parts.monitor.retraining._news = News(parts.registry, box)
        if new:
            rows = [prediction(START, number, prediction=1.0) for number in range(100)]
            await store_rows(parts.store, rows, lambda number: float(number < 100 * RIGHT))
            clock.turn(2 * DAY)
        yield Desk(parts, directory)
    await sender.close()


YES, NO = (True, "elevated", True), (False, "routine", False)


async def test_a_figure_that_crosses_its_threshold_with_every_look_is_told_once_a_day(tmp_path: Path) -> None:
    clock = TurnedClock()
    async with desk(tmp_path / "host", clock) as at:
        for _ in range(20):  # ten minutes
            await at.looked(LOWER)
            clock.turn(30.0)
            await at.looked(FINE)
            clock.turn(30.0)
        assert await at.stored() == [YES]
        assert at.sent() == 1
        clock.turn(DAY)
        for _ in range(5):
            await at.looked(LOWER)
            clock.turn(30.0)
            await at.looked(FINE)
            clock.turn(30.0)
        assert await at.stored() == [YES, YES]
        assert at.sent() == 2


async def test_a_call_that_is_more_urgent_than_the_last_one_is_told_at_once(tmp_path: Path) -> None:
    clock = TurnedClock()
    async with desk(tmp_path / "host", clock) as at:
        for accuracy in (LOWER, FAR_LOWER, LOWER, FINE, FAR_LOWER, LOWER):
            await at.looked(accuracy)
            clock.turn(30.0)
        assert await at.stored() == [YES, (True, "critical", True)]
        assert at.sent() == 2


async def test_what_was_told_is_known_after_a_restart_and_to_another_host(tmp_path: Path) -> None:
    clock = TurnedClock()
    async with desk(tmp_path / "host", clock) as at:
        await at.looked(LOWER)
        await at.looked(FINE)
    clock.turn(HOUR)
    async with desk(tmp_path / "host", clock) as at:
        await at.looked(LOWER)
        assert await at.stored() == [YES]
        assert at.sent() == 1
        known = model(labels=Labels(horizon_s=DAY, min_coverage=0.8), retraining=Retraining(
            strategy="performance", metric="accuracy"))  # fmt: skip
        async with control(tmp_path / "other", known, clock=clock, store=at.parts.store) as other:
            await other.monitor.retraining.evaluate_on_timer("credit")
        assert await at.stored() == [YES]
        clock.turn(DAY)
        await at.looked(LOWER)
        assert await at.stored() == [YES, YES]
        assert at.sent() == 2


@pytest.mark.parametrize("cooldown_s", [HOUR, 3 * DAY])
async def test_a_lasting_call_is_told_again_after_each_cooldown(tmp_path: Path, cooldown_s: float) -> None:
    clock = TurnedClock()
    async with desk(tmp_path / "host", clock, cooldown_s=cooldown_s) as at:
        await at.trained_at(LOWER)
        for _ in range(3):
            await at.parts.monitor.retraining.evaluate_on_timer("credit")
            clock.turn(cooldown_s - 1.0)
            await at.parts.monitor.retraining.evaluate_on_timer("credit")
            clock.turn(1.0)
        assert at.sent() == 3
        assert (await at.stored()).count(YES) == 3
        clock.turn(cooldown_s)
        await at.looked(FINE)
        assert (await at.stored())[-1] == NO


async def test_on_demand_a_decision_is_always_answered_and_stored_and_told_as_seldom(tmp_path: Path) -> None:
    clock = TurnedClock()
    async with desk(tmp_path / "host", clock) as at, at.parts.client() as client:
        await at.trained_at(LOWER)
        for told in (True, False, False):
            answer = (await client.post("/admin/models/credit/retraining")).json()
            assert (answer["should_retrain"], answer["urgency"], answer["told"]) == (True, "elevated", told)
            last = answer["inputs"]["last_told"]
            assert last == (None if told else {"at": clock.now().timestamp(), "urgency": "elevated"})
        clock.turn(30.0)
        await at.looked(LOWER)
        await at.trained_at(FAR_LOWER)
        answer = (await client.post("/admin/models/credit/retraining")).json()
        assert (answer["urgency"], answer["told"]) == ("critical", True)
        quiet = (True, "elevated", False)
        assert await at.stored() == [YES, quiet, quiet, (True, "critical", True)]
        assert at.sent() == 2
