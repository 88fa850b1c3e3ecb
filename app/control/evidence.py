"""The evidence of one rollout as it comes in from the workers: gathered between looks, then given to the
domain's engine.

What a worker counts is dated by the look that takes it in, not by the worker's clock: a clock that jumps
costs nothing.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import structlog

from app.domain.evidence.batch import Arm, batch_of
from app.domain.evidence.before_after import BeforeAfter, Limits, are_expected
from app.domain.evidence.engine import Engine, LabelBatch, Look, ShadowBatch, Snapshot
from app.domain.evidence.labelling import BY_TASK, TINY, loss_of
from app.domain.evidence.metrics import EngineConfig, default_metrics
from app.domain.evidence.pairs import PairBatch
from app.domain.evidence.shadow import Severity, ShadowPair
from app.domain.evidence.storage import dump, load
from app.domain.model import Model
from app.domain.rollout import Evidence, Figure
from app.link.messages import Pair, Pairs, Tick, VersionTick

log = structlog.get_logger(__name__)

MAX_PENDING = 20_000  # counts and pairs between two looks; beyond it the newest are no data


_LOSS_SCALES = {
    "brier": 1.0,
    "log_loss": -math.log(TINY),
}  # the largest difference of two; others have no end


def label_kinds(model: Model) -> tuple[str, ...]:
    """What labels are compared by."""
    return model.evidence.labels or BY_TASK[model.task]


def engine_config(model: Model, *, shadow: bool = False) -> EngineConfig:
    """How a rollout of this model is judged; fixed when it begins. `shadow`: the candidate gets copies of requests."""
    control = model.canary.control.sample > 0 and model.canary.control.max_share > 0
    sticky = model.routing_key.source != "prediction_id"
    kinds = label_kinds(model)
    return EngineConfig(
        alpha=model.evidence.alpha,
        margin=model.evidence.margin,
        floor=model.evidence.floor,
        metrics=default_metrics(
            sticky=sticky, control=control, shadow=shadow, alike=model.evidence.same_answers, labels=kinds
        ),
        sticky=sticky,
        severity=Severity.of(model.shadow.agreement_threshold),
        own_noise=model.shadow.noise_sample > 0.0,
        loss_scale=_LOSS_SCALES.get(loss_of(kinds), 0.0),
        f1_goal=model.evidence.f1_goal or 0.0,
    )


def limits(model: Model) -> Limits:
    """What is tolerated of a candidate that nothing compares, whatever the former version did."""
    error_rate = max(model.guard.error_rate, model.evidence.floor)
    return Limits(error_rate, model.guard.latency_p99_ms, model.evidence.alpha, model.evidence.margin)


@dataclass(slots=True)
class Stored:
    """What the store told since the last look."""

    pairs: list[ShadowPair] = field(default_factory=list)
    own: list[float] = field(default_factory=list)
    labels: list[LabelBatch] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ReadUntil:
    """How far the store has been read, in seconds since the epoch: answers, and mature labels."""

    answers: float
    labels: float


class TrialEvidence:
    """`add` and `add_pairs` as messages come, `advance` once a look, then `figures`."""

    def __init__(
        self,
        engine: Engine,
        before_after: BeforeAfter,
        *,
        promoted_requests: int = 0,
        last_promoted_at: float | None = None,
        read_until: ReadUntil | None = None,
    ) -> None:
        self._engine = engine
        self._before_after = before_after
        self._former, self._alone = (
            Arm(),
            Arm(),
        )  # between two looks: before, and since the candidate is alone
        self.pair_share = 0.0  # of what it answers alone; see `rollouts.pair_share`
        self.read_until = read_until or ReadUntil(engine.started, engine.started)
        self._stored = Stored()
        self._promoted_requests = promoted_requests
        self._last_promoted_at = last_promoted_at
        self._counts: dict[str, list[VersionTick]] = defaultdict(list)
        self._pairs: dict[str, list[Pair]] = defaultdict(list)
        self._pending = 0
        self._looked_at = engine.last

    @classmethod
    def begin(
        cls,
        model: Model,
        candidate: str,
        production: str,
        now: float,
        *,
        shadow: bool = False,
        former: Arm | None = None,
    ) -> TrialEvidence:
        """`former`: what production answered just before."""
        config = engine_config(model, shadow=shadow)
        before_after = BeforeAfter(limits(model))
        before_after.before(former or Arm())
        engine = Engine(config, candidate=candidate, production=production, started=int(now))
        return cls(engine, before_after)

    @property
    def config(self) -> EngineConfig:
        return self._engine.config

    def add(self, writer: str, tick: Tick, rollout_id: str, now: float) -> None:
        """What a worker counted under this rollout since it last reported."""
        candidate, production = self._engine.candidate, self._engine.production
        for one in tick.versions:
            if one.rollout_id != rollout_id or self._pending >= MAX_PENDING:
                continue
            arm = Arm(one.requests, one.errors - one.shared_errors, one.latency)
            if one.version == candidate and one.role == "production":  # promoted: answers everything
                self._promoted_requests += one.requests
                self._last_promoted_at = now if one.requests else self._last_promoted_at
                self._alone += arm
            elif one.version in (candidate, production):
                self._counts[writer].append(one)
                self._pending += 1
                if one.role == "canary" and one.percent >= 100.0:
                    self._alone += arm
                elif one.role == "production" and one.percent < 100.0:
                    self._former += arm

    def add_pairs(self, writer: str, pairs: Pairs, rollout_id: str) -> None:
        """Requests that both versions answered, or production twice. Of a promoted candidate the former production is
        the second.
        """
        candidate, production = self._engine.candidate, self._engine.production
        for pair in pairs.pairs:
            compared = pair.version in (candidate, production) and pair.second in ("", production)
            if compared and pair.rollout_id in (rollout_id, "") and self._pending < MAX_PENDING:
                self._pairs[writer].append(pair)
                self._pending += 1

    def add_stored(
        self,
        read_until: ReadUntil,
        pairs: Sequence[ShadowPair] = (),
        own: Sequence[float] = (),
        labels: Sequence[LabelBatch] = (),
    ) -> None:
        """What the store has of a span of time, whole: it is not read again."""
        self.read_until = read_until
        self._stored.pairs += pairs
        self._stored.own += own
        self._stored.labels += labels
        self._pending += bool(pairs or own or labels)

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
        stored, self._stored = self._stored, Stored()
        shadows = [ShadowBatch("store", tick, stored.pairs, stored.own)] if stored.pairs or stored.own else []
        labels = [replace(one, source=f"store {n}", tick=tick) for n, one in enumerate(stored.labels)]
        self._engine.advance(tick, Look(batches, pairs, shadows, labels))
        paired = sum(pair.version == candidate for some in self._pairs.values() for pair in some)
        self._before_after.before(self._former)
        self._before_after.after(self._alone, pairs=paired, share=self._pair_share())
        self._former, self._alone = Arm(), Arm()
        self._looked_at = tick
        self._counts.clear()
        self._pairs.clear()
        self._pending = 0

    def _pair_share(self) -> float:
        """Pairs that nothing is bet on compare nothing."""
        return self.pair_share if "paired_errors" in self.config.metrics else 0.0

    def figures(self) -> Evidence:
        """What a step looks at."""
        snapshot = self._engine.snapshot()
        tally, alone, share = self._engine.tally, self._before_after, self._pair_share()
        seen = [float(at) for at in (tally.last_request_tick, self._last_promoted_at) if at is not None]
        return Evidence(
            requests=tally.candidate_requests + self._promoted_requests,
            shadow_requests=tally.shadow_requests,
            last_request_at=max(seen, default=None),
            log_e=snapshot.log_e,
            threshold=snapshot.threshold,
            labels=tally.labels,
            decisive_metric=snapshot.decisive_metric,
            pairs=tally.pairs,
            pair_share=share,
            unpaired_requests=alone.unpaired,
            pairs_expected=are_expected(alone.unpaired, share),
            former_log_e=alone.log_e,
            former_finding=alone.finding,
        )

    def snapshot(self) -> Snapshot:
        """Each metric's part, for people."""
        return self._engine.snapshot()

    def breakdown(self) -> dict[str, Figure]:
        """What `log_e` is made of: `log_e = log Σ part · exp(log_e.METRIC)`, and the plain counts of either arm. And so
        for `former_log_e`, in two halves, with what was counted since nothing compared the candidate.
        """
        snapshot = self._engine.snapshot()
        parts: dict[str, Figure] = {f"part.{one.name}": one.part for one in snapshot.metrics}
        parts |= {f"log_e.{one.name}": one.log_e for one in snapshot.metrics}
        alone = self._before_after
        if alone.tolerated is not None:
            parts |= {f"former_log_e.{name}": log_e for name, log_e in alone.log_es.items()}
            parts |= {f"alone.{name}": count for name, count in asdict(alone.since).items()}
            parts |= {f"tolerated.{name}": part for name, part in asdict(alone.tolerated).items()}
            parts |= {"former.requests": alone.former.requests, "former.errors": alone.former.errors}
        names = (
            "candidate_requests",
            "candidate_errors",
            "production_requests",
            "production_errors",
            "pairs",
        )
        return parts | {name: snapshot.counts[name] or 0 for name in names}

    def state(self) -> dict[str, Any]:
        return {
            "engine": dump(self._engine),
            "promoted_requests": self._promoted_requests,
            "last_promoted_at": self._last_promoted_at,
            "read_until": [self.read_until.answers, self.read_until.labels],
            "before_after": self._before_after.state(),
            "pair_share": self.pair_share,
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
            answers, labels = state.get("read_until") or (engine.last, engine.last)
            before_after = BeforeAfter(limits(model))
            if "before_after" in state:  # earlier versions stored none
                before_after = BeforeAfter.from_state(state["before_after"])
            found = cls(
                engine,
                before_after,
                promoted_requests=promoted,
                last_promoted_at=None if last is None else float(last),
                read_until=ReadUntil(float(answers), float(labels)),
            )
            found.pair_share = float(state.get("pair_share", 0.0))
            return found
        except (ValueError, KeyError, TypeError) as error:
            log.warning("stored evidence cannot be read; it begins anew", model=model.name, error=str(error))
            return cls.begin(model, candidate, production, now)
