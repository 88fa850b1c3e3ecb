"""The evidence of one rollout as it comes in from the workers: gathered between looks, then given to the
domain's engine.

What a worker counts is dated by the look that takes it in, not by the worker's clock: a clock that jumps
costs nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import structlog

from app.domain.evidence.batch import batch_of
from app.domain.evidence.engine import Engine, Look, Snapshot
from app.domain.evidence.metrics import EngineConfig, default_metrics
from app.domain.evidence.pairs import PairBatch
from app.domain.evidence.storage import dump, load
from app.domain.model import Model
from app.domain.rollout import Evidence
from app.link.messages import Pair, Pairs, Tick, VersionTick

log = structlog.get_logger(__name__)

MAX_PENDING = 20_000  # counts and pairs between two looks; beyond it the newest are no data


def engine_config(model: Model) -> EngineConfig:
    """How a rollout of this model is judged; fixed when it begins."""
    control = model.canary.control.sample > 0 and model.canary.control.max_share > 0
    sticky = model.routing_key.source != "prediction_id"
    return EngineConfig(
        alpha=model.evidence.alpha,
        margin=model.evidence.margin,
        floor=model.evidence.floor,
        metrics=default_metrics(sticky=sticky, control=control),
        sticky=sticky,
    )


class TrialEvidence:
    """`add` and `add_pairs` as messages come, `advance` once a look, then `figures`."""

    def __init__(
        self, engine: Engine, *, promoted_requests: int = 0, last_promoted_at: float | None = None
    ) -> None:
        self._engine = engine
        self._promoted_requests = promoted_requests
        self._last_promoted_at = last_promoted_at
        self._counts: dict[str, list[VersionTick]] = defaultdict(list)
        self._pairs: dict[str, list[Pair]] = defaultdict(list)
        self._pending = 0
        self._looked_at = engine.last

    @classmethod
    def begin(cls, model: Model, candidate: str, production: str, now: float) -> TrialEvidence:
        engine = Engine(engine_config(model), candidate=candidate, production=production, started=int(now))
        return cls(engine)

    def add(self, writer: str, tick: Tick, rollout_id: str, now: float) -> None:
        """What a worker counted under this rollout since it last reported."""
        candidate, production = self._engine.candidate, self._engine.production
        for one in tick.versions:
            if one.rollout_id != rollout_id or self._pending >= MAX_PENDING:
                continue
            if one.version == candidate and one.role == "production":  # promoted: answers everything
                self._promoted_requests += one.requests
                self._last_promoted_at = now if one.requests else self._last_promoted_at
            elif one.version in (candidate, production):
                self._counts[writer].append(one)
                self._pending += 1

    def add_pairs(self, writer: str, pairs: Pairs, rollout_id: str) -> None:
        """Requests that both versions answered, or production twice."""
        for pair in pairs.pairs:
            if pair.rollout_id in (rollout_id, "") and self._pending < MAX_PENDING:
                self._pairs[writer].append(pair)
                self._pending += 1

    def advance(self, now: float) -> None:
        """Give what was gathered to the engine, as of this second. Twice in a second without news does
        nothing.
        """
        tick = max(int(now), self._looked_at + (1 if self._pending else 0))
        if tick <= self._looked_at:
            return
        candidate, production = self._engine.candidate, self._engine.production
        batches = [
            batch_of(writer, tick, counts, candidate=candidate, production=production)
            for writer, counts in self._counts.items()
        ]
        pairs = [PairBatch(writer, tick, some) for writer, some in self._pairs.items()]
        self._engine.advance(tick, Look(batches=batches, pairs=pairs))
        self._looked_at = tick
        self._counts.clear()
        self._pairs.clear()
        self._pending = 0

    def figures(self) -> Evidence:
        """What a step looks at."""
        snapshot = self._engine.snapshot()
        tally = self._engine.tally
        seen = [float(at) for at in (tally.last_request_tick, self._last_promoted_at) if at is not None]
        return Evidence(
            requests=tally.candidate_requests + self._promoted_requests,
            shadow_requests=tally.shadow_requests,
            last_request_at=max(seen, default=None),
            log_e=snapshot.log_e,
            threshold=snapshot.threshold,
            decisive_metric=snapshot.decisive_metric,
        )

    def snapshot(self) -> Snapshot:
        """Each metric's part, for people."""
        return self._engine.snapshot()

    def state(self) -> dict[str, Any]:
        return {
            "engine": dump(self._engine),
            "promoted_requests": self._promoted_requests,
            "last_promoted_at": self._last_promoted_at,
        }

    @classmethod
    def from_state(
        cls, state: Mapping[str, Any], model: Model, candidate: str, production: str, now: float
    ) -> TrialEvidence:
        """As `state` gave it. Evidence that cannot be read begins anew: it may cost time, never a wrong
        rollback.
        """
        try:
            engine = load(str(state["engine"]))
            promoted, last = int(state["promoted_requests"]), state["last_promoted_at"]
            return cls(
                engine, promoted_requests=promoted, last_promoted_at=None if last is None else float(last)
            )
        except (ValueError, KeyError, TypeError) as error:
            log.warning("stored evidence cannot be read; it begins anew", model=model.name, error=str(error))
            return cls.begin(model, candidate, production, now)
