"""The story of the demo, chapter by chapter, against a real gateway.

A chapter acts like an operator, then waits until the gateway says that the expected thing has happened. What
it prints is what the gateway or the clients report at that moment; when the expected thing does not happen
before its deadline, the story ends with `NotAsExpected`. It must never print a figure that was not measured.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import httpx2
import numpy as np

from app.demo import readings
from app.demo.gateway import Answer, Gateway
from app.demo.model_server import Fault, ModelFile
from app.demo.processes import Children
from app.demo.releases import World, train
from app.demo.screen import Screen, shares
from app.demo.traffic import Traffic

T = TypeVar("T")
POLL_S = 0.2
PATIENCE_S = 60.0
DAY_S = 86_400.0
MAGNIFIED = 1.35
MATURE = 300  # outcomes that a stated accuracy rests on, at least


class NotAsExpected(Exception):
    """Something that the demo shows did not happen; the message says what."""


@dataclasses.dataclass(frozen=True, slots=True)
class Pace:
    """How long things take; seconds."""

    dwell_s: float
    label_delay_s: float
    horizon_s: float
    requests_per_s: float

    @classmethod
    def at(cls, speed: float) -> Pace:
        """All waiting times divided by `speed`; at most 150 requests a second, which two cores carry beside all else even
        while something else keeps them busy.
        """
        return cls(2.0 / speed, 3.0 / speed, 5.0 / speed, 150.0 * min(speed, 1.0))


class Story:
    """Tells the chapters in order."""

    def __init__(
        self,
        screen: Screen,
        gateway: Gateway,
        traffic: Traffic,
        world: World,
        children: Children,
        pace: Pace,
        v2_accuracy: float,
    ) -> None:
        self._measured: dict[str, str] = {}
        self._screen = screen
        self._gateway = gateway
        self._traffic = traffic
        self._world = world
        self._children = children
        self._pace = pace
        self._v2_accuracy = v2_accuracy

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
        await self._gateway.set_shadow(["v2"], "compare v2 before its canary")
        await self._compare("v2", 300)

    async def ramp_and_promotion(self) -> None:
        self._screen.chapter(
            "2. Canary: v2 gets 5 %, then 10, 25, 50 and 100 % of the users",
            "The controller moves on when a stage's time and requests are reached and the evidence is clean.",
        )
        await self._roll_out_to_promotion("v2")

    async def late_outcomes(self) -> None:
        self._screen.chapter(
            "3. Outcomes: the laboratory answers late",
            "Each truth arrives seconds (in real life: days) after its prediction and is joined to it.",
        )
        self._tell_accuracies(await self._judged("v1", "v2"))
        baseline = await self._gateway.set_baseline("v2", self._v2_accuracy)
        self._screen.fact(f"reference for drift from now on: {baseline['rows']:,} requests that v2 answered")

    async def bad_release(self) -> None:
        self._screen.chapter(
            "4. A bad release: v3 breaks in the middle of its canary",
            "v3 did as well as v2 in training. At 10 % of the users its server starts to answer 500.",
        )
        identifier = await self._start_rollout("v3")

        async def in_the_middle() -> Answer | None:
            rollout = await self._gateway.rollout(identifier)
            if rollout["state"] == "rolled_back":
                raise NotAsExpected(f"v3 was rolled back before it broke: {rollout['reason']}")
            return rollout if rollout["percent"] >= 10 else None

        await self._until("v3 at 10 %", in_the_middle)
        fallbacks = self._traffic.seen.fallbacks
        await self._gateway.break_version("v3", Fault(error_rate=1.0))
        broken_at = time.monotonic()
        self._screen.fact("v3 now answers every request with 500")

        async def taken_out() -> Answer | None:
            rollout = await self._gateway.rollout(identifier)
            return rollout if rollout["state"] == "rolled_back" else None

        rollout = await self._until("v3 rolled back", taken_out, every_s=0.05)
        seconds = time.monotonic() - broken_at
        self._screen.good(f"rolled back {seconds:.2f} s after it broke: {rollout['reason']}")
        self._screen.fact(
            f"{self._traffic.seen.fallbacks - fallbacks} answers came from production in v3's place; "
            f"failed answers to clients so far: {self._traffic.seen.failed}"
        )
        self._measured["v3 broken to rolled back"] = f"{seconds:.2f} s"

    async def changed_world(self) -> None:
        self._screen.chapter(
            "5. The world changes: a new scanner measures lengths 35 % larger",
            "The inputs drift at once. Whether the answers got worse is known when the outcomes arrive.",
        )
        self._world.magnification = MAGNIFIED
        changed_at = time.monotonic()

        async def drifting() -> Answer | None:
            drift = await self._gateway.drift()
            return drift if drift["detected"] else None

        drift = await self._until("drift", drifting, every_s=1.0, within_s=2 * PATIENCE_S)
        self._screen.fact(
            f"after {time.monotonic() - changed_at:.1f} s drift of {readings.drifted(drift)}; "
            f"largest PSI {drift['severity']:.2f}"
        )

        async def decided() -> Answer | None:
            decision = await self._gateway.decide_retraining()
            return decision if decision["should_retrain"] else None

        decision = await self._until("a decision to retrain", decided, every_s=1.0)
        seconds = time.monotonic() - changed_at
        self._screen.good(
            f"after {seconds:.1f} s: retrain, urgency {decision['urgency']}: {decision['reason']}"
        )
        self._measured["world changed to decision to retrain"] = f"{seconds:.1f} s ({decision['urgency']})"

    async def closed_loop(self) -> None:
        self._screen.chapter(
            "6. The loop closes: v4 learns from what the gateway collected",
            "Export with recent days weighing most, train, register, shadow, canary, promotion. "
            "From here on the samples come from patients that no model has met.",
        )
        model = await self._retrain("v4")
        self._world.meet_later_patients()
        url = await self._children.serve(model)
        await self._gateway.register("v4", url, {"trained_on": "the gateway's training-set export"})
        await self._gateway.set_shadow(["v4"], "compare v4 before its canary")
        await self._compare("v4", 200)
        await self._roll_out_to_promotion("v4")
        self._tell_accuracies(await self._judged("v4"))

    async def closing_rows(self) -> list[tuple[str, str]]:
        """The table at the end: what the chapters measured, what clients saw, and whether the records add
        up.
        """
        seen = self._traffic.seen
        accounting = await self._until("the records to add up", self._adding_up)
        rollbacks = await self._gateway.metric("gateway_rollbacks_total")
        failed = f"{seen.failed}; the last: {seen.last_failure}" if seen.failed else "0"
        if seen.failed:
            raise NotAsExpected(f"clients saw failed answers: {failed}")
        return [
            *self._measured.items(),
            ("answers to clients", f"{seen.answered:,}"),
            ("failed answers to clients", failed),
            ("canary failures answered by production", f"{seen.fallbacks:,}"),
            ("outcomes handed in late", f"{self._traffic.outcomes_sent:,}"),
            ("automatic rollbacks", f"{rollbacks:.0f}"),
            ("journal records received", f"{accounting['received']:,}"),
            ("of these stored, on their way", f"{accounting['stored']:,}, {accounting['pending']:,}"),
        ]

    async def _adding_up(self) -> Answer | None:
        accounting = await self._gateway.accounting()
        lost = sum(accounting["dropped"].values()) + accounting["quarantined"]
        if lost:
            raise NotAsExpected(f"{lost} records were dropped or quarantined: {accounting}")
        return accounting if accounting["received"] == accounting["stored"] + accounting["pending"] else None

    async def _compare(self, version: str, pairs: int) -> None:
        async def enough() -> Answer | None:
            shadow = await self._gateway.shadow(version)
            return shadow if shadow["n"] >= pairs else None

        shadow = await self._until(f"{pairs} comparisons of {version} with production", enough)
        for line in readings.shadow_lines(version, shadow):
            self._screen.good(line)
        self._measured[f"{version} agrees with production"] = f"{shadow['agreement_rate']:.1%}"

    async def _start_rollout(self, version: str) -> str:
        rollout = await self._until(
            f"the rollout of {version} to begin", lambda: self._gateway.start_rollout(version)
        )
        return str(rollout["id"])

    async def _roll_out_to_promotion(self, version: str) -> None:
        identifier = await self._start_rollout(version)
        started = time.monotonic()
        percent = 0.0

        async def promoted() -> Answer | None:
            nonlocal percent
            rollout = await self._gateway.rollout(identifier)
            if rollout["state"] == "rolled_back":
                raise NotAsExpected(f"{version} was rolled back: {rollout['reason']}")
            if rollout["percent"] > percent:
                percent = rollout["percent"]
                split = shares(self._traffic.recent_split())
                at = time.monotonic() - started
                self._screen.fact(f"after {at:4.1f} s  {version} at {percent:g} %  (clients saw: {split})")
            return rollout if rollout["state"] == "promoted" else None

        rollout = await self._until(f"{version} promoted", promoted)
        seconds = time.monotonic() - started
        self._screen.good(f"{version} promoted by the controller after {seconds:.1f} s: {rollout['reason']}")
        self._measured[f"{version} from first users to promoted"] = f"{seconds:.1f} s"

    async def _judged(self, *versions: str) -> dict[str, readings.Accuracy]:
        async def known() -> dict[str, readings.Accuracy] | None:
            found = readings.accuracies(await self._gateway.performance())
            enough = all(version in found and found[version].n >= MATURE for version in versions)
            return {version: found[version] for version in versions} if enough else None

        return await self._until(f"{MATURE} mature outcomes of {' and '.join(versions)}", known)

    def _tell_accuracies(self, found: dict[str, readings.Accuracy]) -> None:
        for version, accuracy in found.items():
            self._screen.good(
                f"{version}: {accuracy.value:.1%} right "
                f"(95 % interval {accuracy.low:.1%} to {accuracy.high:.1%}), "
                f"{accuracy.n:,.0f} mature outcomes, coverage {accuracy.coverage:.0%}"
            )
            self._measured[f"accuracy of {version}"] = f"{accuracy.value:.1%}"

    async def _retrain(self, version: str) -> ModelFile:
        horizon_days = self._pace.horizon_s / DAY_S
        export = await self._gateway.training_set(flat_days=horizon_days, half_life_days=2 * horizon_days)
        rows = [json.loads(line) for line in export.splitlines()]
        names = self._world.features
        matrix = np.array([[row["features"][name] for name in names] for row in rows])
        truth = np.array([int(row["ground_truth"]) for row in rows])
        weights = np.array([row["sample_weight"] for row in rows])
        self._screen.fact(
            f"training set: {len(rows):,} labelled predictions, "
            f"weights {weights.min():.3f} to {weights.max():.2f}"
        )
        return await asyncio.to_thread(train, version, names, matrix, truth, weights)

    async def _until(
        self,
        what: str,
        probe: Callable[[], Awaitable[T | None]],
        every_s: float = POLL_S,
        within_s: float = PATIENCE_S,
    ) -> T:
        deadline = time.monotonic() + within_s
        self._screen.waiting(what)
        while (found := await _unhurried(probe)) is None:
            if time.monotonic() > deadline:
                raise NotAsExpected(f"{what}: not within {within_s:.0f} s{self._traffic.seen.trouble()}")
            await asyncio.sleep(every_s)
        return found


async def _unhurried(probe: Callable[[], Awaitable[T | None]]) -> T | None:
    """None for an answer that came too late as well: a busy machine is asked again until the deadline."""
    try:
        return await probe()
    except httpx2.TimeoutException:
        return None
