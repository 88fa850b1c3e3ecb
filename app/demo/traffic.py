"""The demo's clients and its label source: users who ask for predictions, and a laboratory that answers days
later.

Requests are sent at a fixed rate whether or not earlier ones have been answered (an open loop), each as one
of a fixed set of users. A second of the demo stands for a day of the laboratory. What a client saw is counted
here and nowhere else, so that no figure about failed answers depends on the gateway's own word.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import random
import time
from collections.abc import Callable

import httpx2

from app.demo.releases import Case, World

USERS = 300
AT_ONCE = 64
POST_EVERY_S = 0.5


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """Where requests and outcomes go; the token must have the scope `feedback`."""

    predict_url: str
    feedback_url: str
    token: str


@dataclasses.dataclass(slots=True)
class Seen:
    """What the clients saw, since the start."""

    answered: int = 0
    failed: int = 0
    by_version: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    fallbacks: int = 0
    last_failure: str = ""
    feedback_failure: str = ""

    def trouble(self) -> str:
        """What went wrong last for the clients or the label source, as the end of a sentence; empty if
        nothing.
        """
        told = (("client", self.last_failure), ("outcomes", self.feedback_failure))
        return "".join(f"; {who}: {what}" for who, what in told if what)


class Traffic:
    """Drives `rate` requests a second through `url` until cancelled, and hands in the truth
    `label_delay_s` later.
    """

    def __init__(self, target: Target, world: World, rate: float, label_delay_s: float) -> None:
        self.seen = Seen()
        self.outcomes_sent = 0
        self.rate = rate
        self._target = target
        self._world = world
        self._label_delay_s = label_delay_s
        self._awaiting: collections.deque[tuple[float, str, int]] = collections.deque()
        self._chance = random.Random(11)
        self._recent: collections.deque[str] = collections.deque(maxlen=400)

    def recent_split(self) -> dict[str, float]:
        """The share of each version in the last answers, by what the reply headers said."""
        counts = collections.Counter(self._recent)
        return {version: count / len(self._recent) for version, count in sorted(counts.items())}

    async def run(self) -> None:
        limits = httpx2.Limits(max_connections=AT_ONCE, max_keepalive_connections=AT_ONCE)
        async with (
            httpx2.AsyncClient(timeout=10.0, limits=limits, trust_env=False) as client,
            asyncio.TaskGroup() as tasks,
        ):
            tasks.create_task(self._hand_in_outcomes(client))
            await self._ask_on_schedule(client, tasks)

    async def _ask_on_schedule(self, client: httpx2.AsyncClient, tasks: asyncio.TaskGroup) -> None:
        slots = asyncio.Semaphore(AT_ONCE)
        due = time.monotonic()
        while True:
            for case in self._world.cases(50):
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                await slots.acquire()
                tasks.create_task(self._ask(client, case, slots.release))
                due = max(due + 1.0 / self.rate, time.monotonic() - 1.0)

    async def _ask(self, client: httpx2.AsyncClient, case: Case, done: Callable[[], None]) -> None:
        user = f"user-{self._chance.randrange(USERS)}"
        try:
            reply = await client.post(
                self._target.predict_url, json={"features": case.features}, headers={"X-User-Id": user}
            )
        except httpx2.HTTPError as error:
            self._failed(f"{type(error).__name__}: {error}")
            return
        finally:
            done()
        if reply.status_code != 200:
            self._failed(f"{reply.status_code} {reply.text[:200]}")
            return
        self._answered(reply.headers)
        self._awaiting.append(
            (time.monotonic() + self._label_delay_s, reply.headers["x-prediction-id"], case.truth)
        )

    def _failed(self, why: str) -> None:
        self.seen.failed += 1
        self.seen.last_failure = why

    def _answered(self, headers: httpx2.Headers) -> None:
        version = headers["x-model-version"]
        self.seen.answered += 1
        self.seen.by_version[version] += 1
        self.seen.fallbacks += headers["x-model-role"] == "fallback"
        self._recent.append(version)

    async def _hand_in_outcomes(self, client: httpx2.AsyncClient) -> None:
        while True:
            await asyncio.sleep(POST_EVERY_S)
            due = self._take_due()
            if due and not await self._accepted(client, due):
                self._awaiting.extendleft(reversed(due))  # not taken: hand the same ones in again

    async def _accepted(self, client: httpx2.AsyncClient, due: list[tuple[float, str, int]]) -> bool:
        outcomes = [{"prediction_id": identifier, "ground_truth": truth} for _, identifier, truth in due]
        headers = {"Authorization": f"Bearer {self._target.token}"}
        try:
            reply = await client.post(self._target.feedback_url, json={"outcomes": outcomes}, headers=headers)
        except httpx2.HTTPError as error:
            self.seen.feedback_failure = f"{type(error).__name__}: {error}"
            return False
        if reply.status_code != 202:
            self.seen.feedback_failure = f"{reply.status_code} {reply.text[:200]}"
            return False
        self.outcomes_sent += reply.json()["accepted"]
        return True

    def _take_due(self) -> list[tuple[float, str, int]]:
        now, due = time.monotonic(), []
        while self._awaiting and self._awaiting[0][0] <= now:
            due.append(self._awaiting.popleft())
        return due
