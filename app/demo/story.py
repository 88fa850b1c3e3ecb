"""The story of the demo, chapter by chapter, against a real gateway.

A chapter acts like an operator, then waits until the gateway says that the expected thing has happened. What it prints
is what the gateway or the clients report at that moment; when the expected thing does not happen before its deadline,
the story ends with `NotAsExpected` and says what was seen last. It must never print a figure that was not measured.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import numpy as np

from app.demo.gateway import Answer, Gateway
from app.demo.model_server import ModelFile
from app.demo.processes import Children, free_port
from app.demo.releases import World, train
from app.demo.screen import Screen, shares
from app.demo.traffic import Traffic

T = TypeVar("T")
POLL_S = 0.2
DAY_S = 86_400.0
MAGNIFIED = 1.35


class NotAsExpected(Exception):
    """Something that the demo shows did not happen; the message says what, and what was seen instead."""


@dataclasses.dataclass(frozen=True, slots=True)
class Pace:
    """How long things take at a given `speed`; seconds."""

    dwell_s: float
    label_delay_s: float
    horizon_s: float
    requests_per_s: float
    patience_s: float = 60.0

    @classmethod
    def at(cls, speed: float) -> Pace:
        return cls(
            dwell_s=2.0 / speed,
            label_delay_s=3.0 / speed,
            horizon_s=5.0 / speed,
            requests_per_s=min(150.0 * speed, 300.0),
        )


class Story:
    """Tells the chapters in order; `results` collects the rows of the closing table."""

    def __init__(
        self,
        screen: Screen,
        gateway: Gateway,
        traffic: Traffic,
        world: World,
        children: Children,
        directory: Path,
        pace: Pace,
    ) -> None:
        self.results: list[tuple[str, str]] = []
        self._screen = screen
        self._gateway = gateway
        self._traffic = traffic
        self._world = world
        self._children = children
        self._directory = directory
        self._pace = pace

    async def tell(self) -> None:
        await self.shadow_comparison()
        await self.ramp_and_promotion()
        await self.late_outcomes()
        await self.bad_release()
        await self.changed_world()
        await self.closed_loop()

    async def shadow_comparison(self) -> None:
        self._screen.chapter(
            "1. Shadow: v2 answers every request, and nobody sees it",
            "v1 is production. The gateway copies each request to v2 after the reply has left, and compares.",
        )
        enough = 300

        async def compared() -> Answer | None:
            shadow = await self._gateway.shadow("v2")
            return shadow if shadow["n"] >= enough else None

        shadow = await self._until(f"{enough} comparisons of v2 with v1", compared)
        self._tell_shadow("v2", shadow)

    async def ramp_and_promotion(self) -> None:
        self._screen.chapter(
            "2. Canary: v2 gets 5 %, then 10, 25, 50 and 100 % of the users",
            "The controller moves a stage on when its time and its requests are reached and the evidence is clean.",
        )
        seconds = await self._roll_out_to_promotion("v2")
        self.results.append(("v2 from 5 % to promoted by the controller", f"{seconds:.1f} s"))

    async def late_outcomes(self) -> None:
        self._screen.chapter(
            "3. Outcomes: the laboratory answers late",
            "Each truth arrives seconds (in real life: days) after its prediction and is joined to it.",
        )

        async def judged() -> Answer | None:
            performance = await self._gateway.performance()
            return performance if {"v1", "v2"} <= set(_accuracies(performance)) else None

        performance = await self._until("mature outcomes of v1 and v2", judged)
        self._tell_accuracies(performance)

    async def bad_release(self) -> None:
        self._screen.chapter(
            "4. A bad release: v3 breaks in the middle of its canary",
            "v3 looked as good as v2 in training. At 10 % of the users its server starts to answer 500.",
        )
        rollout = await self._gateway.start_rollout("v3")
        identifier = rollout["id"]
        await self._until("v3 at 10 %", lambda: self._at_least(identifier, 10.0))
        before = self._traffic.seen.fallbacks
        await self._break_v3()
        broken_at = time.monotonic()
        self._screen.fact("v3 now answers every request with 500")

        async def out() -> Answer | None:
            state = await self._gateway.rollout(identifier)
            return state if state["state"] == "rolled_back" else None

        state = await self._until("v3 rolled back", out, every_s=0.05)
        seconds = time.monotonic() - broken_at
        self._screen.good(f"rolled back {seconds:.2f} s after it broke: {_last_reason(state)}")
        saved = self._traffic.seen.fallbacks - before
        self._screen.fact(f"answers that v1's successor gave in v3's place: {saved}; failed answers: {self._failed()}")
        self.results.append(("v3 broken to rolled back", f"{seconds:.2f} s"))

    async def changed_world(self) -> None:
        self._screen.chapter(
            "5. The world changes: a new scanner measures lengths 35 % larger",
            "The inputs drift at once. Whether the answers got worse is known when the outcomes arrive.",
        )
        self._world.magnification = MAGNIFIED

        async def decided() -> Answer | None:
            decision = await self._gateway.decide_retraining()
            return decision if decision["should_retrain"] else None

        decision = await self._until("a decision to retrain", decided, every_s=1.0)
        self._screen.good(f"retrain, urgency {decision['urgency']}: {decision['reason']}")
        self.results.append(("retraining", f"{decision['urgency']}: {decision['reason']}"))

    async def closed_loop(self) -> None:
        self._screen.chapter(
            "6. The loop closes: v4, trained on what the gateway collected, recent days weighing most",
            "Export, train, register, shadow, canary, promotion: the cycle of chapter 1 begins again.",
        )
        model = await self._retrain("v4")
        url = await self.serve(model)
        await self._gateway.register("v4", url, {"trained_on": "training-set export"})
        await self._gateway.set_shadow(["v4"], "compare v4 before its canary")

        async def compared() -> Answer | None:
            shadow = await self._gateway.shadow("v4")
            return shadow if shadow["n"] >= 200 else None

        self._tell_shadow("v4", await self._until("200 comparisons of v4 with v2", compared))
        seconds = await self._roll_out_to_promotion("v4")
        self.results.append(("v4, the retrained model, promoted in", f"{seconds:.1f} s"))

        async def judged() -> Answer | None:
            performance = await self._gateway.performance()
            return performance if "v4" in _accuracies(performance) else None

        self._tell_accuracies(await self._until("mature outcomes of v4", judged))

    async def serve(self, model: ModelFile) -> str:
        """Starts a model server in a process of its own and returns its URL."""
        path = self._directory / f"{model.version}.joblib"
        model.save(path)
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        arguments = ("app.demo.model_server", "--model", str(path), "--port", str(port))
        await self._children.start(f"model-{model.version}", arguments, f"{url}/health", within_s=30.0)
        return url

    async def _roll_out_to_promotion(self, version: str) -> float:
        started = time.monotonic()
        identifier = (await self._gateway.start_rollout(version))["id"]
        percent = -1.0

        async def promoted() -> Answer | None:
            nonlocal percent
            state = await self._gateway.rollout(identifier)
            if state["state"] == "rolled_back":
                raise NotAsExpected(f"{version} was rolled back: {_last_reason(state)}")
            if state["percent"] != percent:
                percent = state["percent"]
                split = shares(self._traffic.recent_split())
                self._screen.fact(f"{time.monotonic() - started:5.1f} s  {version} at {percent:g} %  (clients: {split})")
            return state if state["state"] == "promoted" else None

        state = await self._until(f"{version} promoted", promoted)
        seconds = time.monotonic() - started
        self._screen.good(f"{version} promoted by the controller after {seconds:.1f} s: {_last_reason(state)}")
        return seconds

    async def _at_least(self, identifier: str, percent: float) -> Answer | None:
        state = await self._gateway.rollout(identifier)
        return state if state["percent"] >= percent else None

    async def _retrain(self, version: str) -> ModelFile:
        pace = self._pace
        export = await self._gateway.training_set(pace.horizon_s / DAY_S, 2 * pace.horizon_s / DAY_S)
        rows = [json.loads(line) for line in export.splitlines()]
        names = self._world.features
        matrix = np.array([[row["features"][name] for name in names] for row in rows])
        truth = np.array([int(row["ground_truth"]) for row in rows])
        weights = np.array([row["sample_weight"] for row in rows])
        self._screen.fact(
            f"training set: {len(rows)} labelled predictions, weights {weights.min():.2f} to {weights.max():.2f}"
        )
        return await asyncio.to_thread(train, version, names, matrix, truth, weights)

    async def _until(
        self,
        what: str,
        probe: Callable[[], Awaitable[T | None]],
        within_s: float | None = None,
        every_s: float = POLL_S,
    ) -> T:
        patience = self._pace.patience_s if within_s is None else within_s
        deadline = time.monotonic() + patience
        self._screen.waiting(what)
        while (found := await probe()) is None:
            if time.monotonic() > deadline:
                raise NotAsExpected(f"{what}: not within {patience:.0f} s")
            await asyncio.sleep(every_s)
        return found
