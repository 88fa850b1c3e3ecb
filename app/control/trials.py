"""The open rollouts in memory, and how they agree with the store: begun and changed on any host, saved
without ever holding up a rollback.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

import structlog

from app.control.clock import Clock
from app.control.ports import Row, Store
from app.control.registry import Registry
from app.control.rollouts import Trial, event_rows
from app.domain.rollout import Event
from app.errors import GatewayError, NotFoundError, UnavailableError

log = structlog.get_logger(__name__)

SAVE_S = 5.0  # how much evidence a crash may cost
REFRESH_S = 2.0  # how often rollouts begun or changed on other hosts are looked for
PATIENCE_S = 2.0  # for what can be done again at the next look


class Trials:
    """One open rollout a model. The caller sees to it that only one coroutine at a time changes anything."""

    def __init__(self, registry: Registry, store: Store, clock: Clock) -> None:
        self._registry = registry
        self._store = store
        self._clock = clock
        self._open: dict[str, Trial] = {}
        self._refreshed_at = float("-inf")
        # The domain's time: the wall clock at the start, carried on by the monotonic one, so that a jump
        # moves nothing.
        self._epoch = clock.now().timestamp() - clock.monotonic()

    def now(self) -> float:
        return self._epoch + self._clock.monotonic()

    def __iter__(self) -> Iterator[Trial]:
        return iter(list(self._open.values()))

    def of(self, model: str) -> Trial | None:
        return self._open.get(model)

    def hold(self, trial: Trial) -> None:
        """Take up a rollout that has just begun."""
        self._open[trial.rollout.model] = trial

    async def find(self, model: str, rollout_id: str) -> Trial:
        """The rollout as it stands, open or over; `NotFoundError` when the model has none of that id."""
        known = self._registry.model(model)
        held = self._open.get(model)
        if held is not None and held.rollout.id == rollout_id:
            return held
        row = await self._store.rollout(rollout_id)
        if row is None or row["model"] != model:
            raise NotFoundError(f"there is no rollout {rollout_id[:50]!r} of {model!r}")
        return Trial.from_row(row, known, self.now())

    async def newest(self, model: str, limit: int) -> list[Trial]:
        """The model's rollouts, open and over, the newest first."""
        known = self._registry.model(model)
        held = self._open.get(model)
        return [
            held
            if held is not None and held.rollout.id == row["id"]
            else Trial.from_row(row, known, self.now())
            for row in await self._store.rollouts(model, limit)
        ]

    async def refresh(self, *, leads: bool, at_once: bool = False) -> None:
        """Agree with the store on which rollouts are open, and in which state. Who leads knows the
        evidence better than the store.
        """
        if not at_once and self._clock.monotonic() - self._refreshed_at < REFRESH_S:
            return
        try:
            async with asyncio.timeout(PATIENCE_S):
                rows = {str(row["model"]): row for row in await self._store.open_rollouts()}
        except TimeoutError:
            raise UnavailableError("the store does not answer in time") from None
        self._refreshed_at = self._clock.monotonic()
        for model, trial in list(self._open.items()):
            if model not in rows and not trial.unsaved:
                del self._open[model]
        for model, row in rows.items():
            self._agree(model, row, leads)

    def _agree(self, model: str, row: Row, leads: bool) -> None:
        known = self._registry.get(model)
        held = self._open.get(model)
        if known is None or (held is not None and held.unsaved):
            return
        stored = Trial.from_row(row, known, self.now())
        if held is None or held.rollout.id != stored.rollout.id or not leads:
            self._open[model] = stored
        elif stored.events > held.events:
            held.rollout, held.events, held.carried_out = stored.rollout, stored.events, stored.carried_out

    async def store(self, trial: Trial, events: Sequence[Event]) -> None:
        """Save it with its new events; any error leaves nothing done."""
        waiting = [*trial.unsaved, *events]
        trial.events += len(waiting)
        try:
            await self._store.save_rollout(trial.row(), event_rows(waiting))
        except GatewayError:
            trial.events -= len(waiting)
            raise
        trial.unsaved = []
        trial.saved_at = self._clock.monotonic()

    async def save(self, trial: Trial, events: Sequence[Event] = ()) -> None:
        """As `store`, but what the store does not take now is kept and tried again. One that is over is
        then let go.
        """
        try:
            await self.store(trial, events)
        except UnavailableError as error:
            trial.unsaved += events
            log.warning("a rollout could not be saved yet", rollout=trial.rollout.id, error=str(error))
        self.let_go(trial)

    async def save_evidence(self, trial: Trial) -> None:
        """Now and then, or as soon as something waits for the store."""
        if not trial.unsaved and self._clock.monotonic() - trial.saved_at < SAVE_S:
            return
        if trial.unsaved:
            await self.save(trial)
            return
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self.store(trial, ())
        except TimeoutError:
            raise UnavailableError("the store does not answer in time") from None

    def let_go(self, trial: Trial) -> None:
        """A rollout that is over is held only until the store knows."""
        model = trial.rollout.model
        if trial.unsaved:
            self._open[model] = trial
        elif not trial.rollout.is_open and self._open.get(model) is trial:
            del self._open[model]
