"""The control process's parts over a real SQLite store, put together for a test; time that can be turned,
and a store that can be down.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import httpx2
from fastapi import FastAPI
from msgspec import structs

from app.adapters import migrations
from app.adapters.local import LocalDistribution, LocalLease
from app.adapters.stores import open_store
from app.api.app import create_app
from app.api.auth import Authenticator
from app.api.services import Services
from app.control.controller import Controller
from app.control.extraction import document
from app.control.flags import FlagsService
from app.control.last_known import LastKnown
from app.control.link_server import LinkServer
from app.control.monitor import Monitor
from app.control.outcomes import OutcomeIntake
from app.control.ports import Batch, OutcomeRow, PredictionRow, Store
from app.control.registry import Registry
from app.control.statistics import WorkerTotals
from app.domain.model import Model, Version
from app.domain.policy import AuthPolicy, JournalPolicy, Token
from app.domain.prediction import format_id, uuid7
from app.errors import UnavailableError
from app.journal.writer import Writer
from app.link.messages import GuardTrip, Tick, VersionTick

ADMIN = {"Authorization": "Bearer admin-secret"}
START = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)  # a Monday


def model(name: str = "credit", **changes: Any) -> Model:
    """A model with versions v1 (production), v2 and v3."""
    versions = tuple(Version(f"v{n}", (f"http://127.0.0.1:{9000 + n}",)) for n in (1, 2, 3))
    return Model(**{"name": name, "production": "v1", "versions": versions, "task": "binary", **changes})


class TurnedClock:
    """Both clocks stand still until they are turned."""

    def __init__(self, now: datetime = START) -> None:
        self._now = now
        self._monotonic = 1000.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def turn(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)
        self._monotonic += seconds

    def jump(self, seconds: float) -> None:
        """The wall clock alone, as when somebody sets it."""
        self._now += timedelta(seconds=seconds)


class FlakyStore:
    """The real store; while `down` every call fails as it does without a database."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.down = False

    def __getattr__(self, name: str) -> Any:
        if self.down and name != "close":
            raise UnavailableError("the database cannot be reached")
        return getattr(self._store, name)


@cache
def tables() -> bytes:
    """An SQLite file with all tables and no rows: migrated once a process, written for each test."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "gateway.db"
        migrations.upgrade(f"sqlite:///{file}")
        return file.read_bytes()


@dataclass
class Control:
    directory: Path
    clock: TurnedClock
    store: FlakyStore
    registry: Registry
    flags: FlagsService
    controller: Controller
    link: LinkServer
    outcomes: OutcomeIntake
    monitor: Monitor
    writer: Writer
    application: FastAPI

    def client(self, **headers: str) -> httpx2.AsyncClient:
        """Calls the application without a socket, as the operator unless other headers are given."""
        transport = httpx2.ASGITransport(app=self.application, raise_app_exceptions=False)
        return httpx2.AsyncClient(transport=transport, base_url="http://gateway", headers=headers or ADMIN)

    def count(
        self,
        rollout_id: str,
        *,
        canary: int = 0,
        bad: int = 0,
        production: int = 0,
        production_bad: int = 0,
        percent: float = 5.0,
    ) -> None:
        """One second of a worker: requests and errors of v2 as canary and v1 as production."""
        rows = [
            VersionTick("credit", "v2", "canary", percent, 1, rollout_id, canary, bad, 0, {60: canary - bad}),
            VersionTick(
                "credit",
                "v1",
                "production",
                percent,
                1,
                rollout_id,
                production,
                production_bad,
                0,
                {60: production - production_bad},
            ),
        ]
        self.controller.tick(
            "w0", Tick(int(self.clock.now().timestamp()), [row for row in rows if row.requests])
        )

    async def second(self, rollout_id: str, **counts: Any) -> None:
        """A worker's second, and then the controller's look."""
        self.count(rollout_id, **counts)
        self.clock.turn(1.0)
        await self.controller.look()

    def trip(self, rollout_id: str = "", version: str = "v2") -> None:
        self.controller.guard_trip(
            "w0",
            GuardTrip(
                "credit", version, rollout_id, 1, "Error rate 100.0% exceeds threshold 5.0%.", 20, 20, 0
            ),
        )


@contextlib.asynccontextmanager
async def control(
    directory: Path,
    *models: Model,
    clock: TurnedClock | None = None,
    tokens: tuple[Token, ...] = (),
    journal: JournalPolicy | None = None,
    store: FlakyStore | None = None,
    down: bool = False,
    distribution: LocalDistribution | None = None,
) -> AsyncIterator[Control]:
    """Everything started; the same directory again is the same gateway restarted. Given a store, it is
    another host's.
    """
    clock = clock or TurnedClock()
    directory.mkdir(exist_ok=True)
    own = store is None
    file = directory / "gateway.db"
    if own and not file.exists():
        file.write_bytes(tables())
    store = store or FlakyStore(await open_store(f"sqlite:///{file}"))
    store.down = down
    registry = Registry(models or (model(),), store)
    flags = FlagsService(
        store, registry, distribution or LocalDistribution(), clock, LastKnown(directory / "flags.json")
    )
    await flags.start()
    ids = itertools.count(int(clock.now().timestamp() * 1000))
    controller = Controller(registry, flags, store, LocalLease(), clock, lambda: f"rollout-{next(ids)}")
    await controller.start()
    link = LinkServer(directory / "link.sock", registry, flags, WorkerTotals(), controller)
    await link.start()
    writer = Writer(journal or JournalPolicy(str(directory / "journal")), "c0")
    outcomes = OutcomeIntake(writer, registry, store, clock)
    monitor = Monitor(registry, flags, store, outcomes, clock)

    async def accounting() -> dict[str, Any]:
        return {
            "received": writer.received,
            "stored": 0,
            "pending": writer.received,
            "dropped": {},
            "quarantined": 0,
        }

    services = Services(
        registry=registry,
        flags=flags,
        store=store,
        link=link,
        controller=controller,
        monitor=monitor,
        outcomes=outcomes,
        auth=Authenticator(AuthPolicy((token("ops", "admin-secret", "admin"), *tokens)), clock),
        accounting=accounting,
        clock=clock,
        data_dir=directory,
    )
    try:
        yield Control(
            directory,
            clock,
            store,
            registry,
            flags,
            controller,
            link,
            outcomes,
            monitor,
            writer,
            create_app(services),
        )
    finally:
        await controller.close()
        await flags.close()
        await link.close()
        writer.close()
        if own:
            await store.close()


def token(name: str, secret: str, *scopes: str) -> Token:
    return Token(name, hashlib.sha256(secret.encode()).hexdigest(), scopes)


def prediction_id(at: datetime, number: int) -> str:
    return format_id(uuid7(int(at.timestamp() * 1000), (number << 8).to_bytes(10, "big")).bytes)


def prediction(at: datetime, number: int, **changes: Any) -> PredictionRow:
    """A stored answer of v1; its id follows from time and number."""
    values: dict[str, Any] = {
        "prediction_id": prediction_id(at, number),
        "model": "credit",
        "model_version": "v1",
        "role": "production",
        "timestamp": at,
        "features": {"age": 30.0 + number % 40, "region": "north" if number % 2 else "south"},
        "prediction": 0.9 if number % 2 else 0.1,
        "confidence": 0.9,
        "latency_ms": 12.0,
        "status": 200,
        "request_id": None,
        "routing_key": None,
        "bucket": None,
        "canary_percent": 0.0,
        "flags_revision": 0,
        "rollout_id": None,
        "forced": False,
        "propensity": 1.0,
        "reason": "no candidate",
        "ended": "complete",
        "error": None,
    }
    values |= changes
    if isinstance(values["features"], dict):
        values["features"] = document(values["features"])
    return PredictionRow(**values)


def features_of(row: PredictionRow) -> dict[str, Any]:
    assert row.features is not None
    found: dict[str, Any] = json.loads(row.features)
    return found


def with_features(row: PredictionRow, **changes: Any) -> PredictionRow:
    return structs.replace(row, features=document(features_of(row) | changes))


def outcome(row: PredictionRow, truth: float | str | bool, at: datetime) -> OutcomeRow:
    return OutcomeRow(
        f"o-{row.prediction_id}-{truth}", row.prediction_id, None, None, truth, at, at, "test", "test"
    )


async def store_rows(
    store: Any,
    rows: list[PredictionRow],
    truth: Callable[[int], float | str | bool | None] = lambda _: None,
    delay_s: float = 60.0,
) -> None:
    """Store predictions and, where `truth` of the index gives one, their outcomes."""
    outcomes = [
        outcome(row, known, row.timestamp + timedelta(seconds=delay_s))
        for index, row in enumerate(rows)
        if (known := truth(index)) is not None
    ]
    for start in range(0, len(rows), 1000):
        await store.load(Batch(rows[start : start + 1000], (), (), (), ()))
    for start in range(0, len(outcomes), 1000):
        await store.load(Batch((), (), outcomes[start : start + 1000], (), ()))
    while await store.join_waiting_outcomes(1000):
        pass


async def until(holds: Callable[[], object], deadline_s: float = 5.0) -> None:
    """Poll for a state; `TimeoutError` when it does not come."""
    async with asyncio.timeout(deadline_s):
        while not holds():
            await asyncio.sleep(0.005)
