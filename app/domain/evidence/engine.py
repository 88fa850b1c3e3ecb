"""The evidence against one candidate, from the first batch of its rollout to the last. Constant memory.

Give it every tick's batches once a second; ask it for a snapshot. It never decides: `app.domain.rollout`
does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from app.domain.evidence.batch import Arm, Batch, Seen, Stratum
from app.domain.evidence.bets import (
    EVEN_STAKES,
    Floats,
    binary_growth,
    bucket_growth,
    floor_growth,
    immediate_growth,
    reference_weights,
)
from app.domain.evidence.labels import ENOUGH_LOSSES, Confusion, LossLadder, LossScale, f1_growth
from app.domain.evidence.metrics import EngineConfig, bet_stakes, stake_parts
from app.domain.evidence.pairs import OrderEffect, PairBatch, log_ratio, score_growth, side_growth
from app.domain.evidence.pooling import Pool
from app.domain.evidence.shadow import OwnNoise, ShadowPair, failure_growth, severity_growth, shift_growth
from app.domain.evidence.stake import Drip, Stake
from app.domain.evidence.tick import BUCKETS, LEAST

ENOUGH_LATENCIES = 500  # of production, to make bets on latency from
LABEL_METRICS = (
    "labels", "paired_labels", "label_loss", "paired_loss", "label_order", "paired_order", "label_f1",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ShadowBatch:
    """Shadow pairs that became known in a tick. `source` and tick are the key.

    `own` are differences of production's two answers to one request: the noise that no candidate is to blame for.
    """

    source: str
    tick: int
    pairs: Sequence[ShadowPair]
    own: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Labelled:
    """Mature labels of one arm: how many, how many of the answers were wrong, losses where the task has one,
    and disjoint (positive, negative) pairs with those that were scored in the wrong order.
    """

    n: int = 0
    wrong: int = 0
    losses: Sequence[float] = ()
    ordered: int = 0
    misordered: int = 0


@dataclass(frozen=True, slots=True)
class LabelBatch:
    """Labels that matured in a tick, at the same age in both arms. `source` and tick are the key."""

    source: str
    tick: int
    candidate: Labelled = field(default_factory=Labelled)
    production: Labelled = field(default_factory=Labelled)
    only_candidate_wrong: int = 0  # of pairs labelled on the same request
    only_production_wrong: int = 0
    only_candidate_misordered: int = 0  # of two requests that both versions answered
    only_production_misordered: int = 0
    losses: Sequence[tuple[float, float]] = ()  # candidate's and production's on the same request
    confusion: Confusion = field(default_factory=Confusion)  # of the candidate, wherever it answered
    answers: int = 0  # labelled answers of the candidate behind all of this


@dataclass(frozen=True, slots=True)
class Look:
    """What became known since the last look, in any order. What was given before is counted once."""

    batches: Sequence[Batch] = ()
    pairs: Sequence[PairBatch] = ()
    shadows: Sequence[ShadowBatch] = ()
    labels: Sequence[LabelBatch] = ()


@dataclass(slots=True)
class Tally:
    """Plain counts, for people; no bet reads them."""

    candidate_requests: int = 0
    candidate_errors: int = 0
    production_requests: int = 0
    production_errors: int = 0
    shadow_requests: int = 0
    pairs: int = 0
    labels: int = 0  # mature ones of the candidate's answers
    last_request_tick: int | None = None
    batches: int = 0
    refused: int = 0  # repeated, too old, or of the far future


@dataclass(frozen=True, slots=True)
class MetricSnapshot:
    """One metric: its part of the stake, and what a unit of that part has become."""

    name: str
    part: float
    log_e: float
    bets: tuple[float, ...]  # log of what each bet holds


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Why the engine thinks what it thinks. `log_e` is log of the sum of part · e over the metrics."""

    log_e: float
    threshold: float  # log(1/alpha)
    decisive_metric: str  # the largest term of the sum
    metrics: tuple[MetricSnapshot, ...]
    counts: Mapping[str, int | None]
    # Of the pairs, log ratios: for the sign and for the size. None while too few A/A pairs are known to bet on latency at all.
    latency_margins: tuple[float, float] | None
    order_effect_pairs: int  # A/A pairs behind them

    @property
    def is_worse(self) -> bool:
        """Whether the evidence is enough to roll back."""
        return self.log_e >= self.threshold


class Engine:
    """One process for the whole deployment, all stages. `config` never changes on the way."""

    def __init__(self, config: EngineConfig, *, candidate: str, production: str, started: int) -> None:
        self.config = config
        self.candidate, self.production = candidate, production
        self.started = self.last = started  # ticks
        self.tally = Tally()
        self.stakes = {m: Stake(bet_stakes(m, config)) for m in config.metrics}
        self.floor_stake = Stake(EVEN_STAKES)  # errors, against the absolute floor
        self.seen = Seen()
        self.pool = Pool()
        self.order_effect = OrderEffect()
        self.collected = np.zeros(BUCKETS)  # production's latencies since the reference was made
        self.reference: Floats | None = None  # those that the latency bets are made from
        self.percent = 0.0  # of the newest batch: a new stage gets a new reference
        self.losses: tuple[float, ...] = ()  # of production, until there are enough for the ladder
        self.loss_ladder: LossLadder | None = None
        self.loss_scale = LossScale(config.loss_scale)
        self.noise = OwnNoise(config.severity)

    def advance(self, tick: int, look: Look) -> None:
        """Take in what became known by `tick` (Unix seconds, or any count that rises by one a look)."""
        drip = Drip(self.config.horizon)
        entering = drip.entered(tick - self.started) - drip.entered(self.last - self.started)
        growth: dict[str, Floats] = {}
        floor = np.zeros(len(EVEN_STAKES))
        strata = self._admit_batches(tick, look.batches)
        if strata and self.tally.candidate_requests >= self.config.warmup_requests:
            floor = self._floor(strata)
            growth |= self._two_samples(strata, self.pool.ready(strata))
        self._collect(strata)
        growth |= self._pairs([b for b in look.pairs if self._admit(f"pairs:{b.replica}", b.tick, tick)])
        growth |= self._shadows([b for b in look.shadows if self._admit(f"shadow:{b.source}", b.tick, tick)])
        growth |= self._labels([b for b in look.labels if self._admit(f"labels:{b.source}", b.tick, tick)])
        for name, stake in self.stakes.items():
            stake.grow(growth.get(name, np.zeros(len(stake.weights))), entering)
        self.floor_stake.grow(floor, entering)
        self.seen.forget(tick)
        self.last = max(self.last, tick)

    def snapshot(self) -> Snapshot:
        """The evidence as it stands."""
        parts = stake_parts(self.config.metrics)
        log_es = {name: self._log_e(name) for name in self.stakes}
        terms = {name: math.log(parts[name]) + log_e for name, log_e in log_es.items()}
        top = max(terms, key=terms.__getitem__)
        total = terms[top] + math.log(sum(math.exp(t - terms[top]) for t in terms.values()))
        metrics = [
            MetricSnapshot(n, parts[n], log_es[n], tuple(s.log_m.tolist())) for n, s in self.stakes.items()
        ]
        t = self.tally
        counts = {name: getattr(t, name) for name in Tally.__slots__}
        margins, pairs = self.order_effect.latency_margins(), self.order_effect.pairs
        return Snapshot(total, -math.log(self.config.alpha), top, tuple(metrics), counts, margins, pairs)

    def _log_e(self, name: str) -> float:
        relative = self.stakes[name].log_e
        return (
            min(relative, self.floor_stake.log_e)
            if name == "errors" and self.config.floor > 0.0
            else relative
        )

    def _admit(self, key: str, tick: int, now: int) -> bool:
        admitted = self.seen.admit(key, tick, now)
        self.tally.batches += admitted
        self.tally.refused += not admitted
        return admitted

    def _admit_batches(self, now: int, batches: Sequence[Batch]) -> list[Stratum]:
        """The strata of batches not counted before, in the order of their keys."""
        strata: list[Stratum] = []
        t = self.tally
        for batch in sorted(batches, key=lambda b: (b.tick, b.replica)):
            if not self._admit(batch.replica, batch.tick, now):
                continue
            strata += batch.strata
            t.shadow_requests += batch.shadow_requests
            answered = sum(s.candidate.requests for s in batch.strata)
            t.candidate_requests += answered
            t.candidate_errors += sum(s.candidate.errors for s in batch.strata)
            t.production_requests += sum(s.production.requests for s in batch.strata)
            t.production_errors += sum(s.production.errors for s in batch.strata)
            if answered or batch.shadow_requests:
                t.last_request_tick = max(t.last_request_tick or batch.tick, batch.tick)
        return strata

    def _two_samples(self, strata: Sequence[Stratum], ready: Sequence[Stratum]) -> dict[str, Floats]:
        """Growth by comparing the arms: of strata large enough at their realised share, of all at the known
        one.
        """
        growth: dict[str, Floats] = {}
        c, p = [s.candidate for s in ready], [s.production for s in ready]
        if "errors" in self.stakes:
            m = self.config.margin
            growth["errors"] = np.zeros(len(EVEN_STAKES))
            for a, b in zip(c, p, strict=True):  # one at a time: the memory of one is that of its errors
                if a.errors + b.errors:
                    growth["errors"] += binary_growth(a.requests, a.errors, b.requests, b.errors, margin=m)
            if not self.config.sticky:
                bad = ([s.candidate.errors for s in strata], [s.production.errors for s in strata])
                at_once = immediate_growth(*bad, [s.share for s in strata], m).sum(0)
                growth["errors"] = np.concatenate([growth["errors"], at_once])
        if ready and "latency" in self.stakes and self.reference is not None:
            log_weights, _ = reference_weights(self.reference)
            growth["latency"] = bucket_growth(_histograms(c), _histograms(p), log_weights).sum(0)
        return growth

    def _floor(self, strata: Sequence[Stratum]) -> Floats:
        if self.config.floor <= 0.0:
            return np.zeros(len(EVEN_STAKES))
        n, bad = sum(s.candidate.requests for s in strata), sum(s.candidate.errors for s in strata)
        return floor_growth(bad, n, self.config.floor)

    def _collect(self, strata: Sequence[Stratum]) -> None:
        """Production's latencies make the reference of the latency bets: at the start, and anew with each
        stage.
        """
        if "latency" not in self.stakes or not strata:
            return
        self.collected += _histograms([s.production for s in strata]).sum(0)
        percent = strata[-1].percent
        if (self.reference is None or percent != self.percent) and self.collected.sum() >= ENOUGH_LATENCIES:
            self.reference, self.collected = self.collected, np.zeros(BUCKETS)
            self.percent = percent

    def _pairs(self, batches: Sequence[PairBatch]) -> dict[str, Floats]:
        """Growth by pairs with the margins known before this tick; then the tick's A/A pairs refine them."""
        ordered = [p for b in sorted(batches, key=lambda b: (b.tick, b.replica)) for p in b.pairs]
        trial = [p for p in ordered if p.version == self.candidate]
        growth: dict[str, Floats] = {}
        if trial and "paired_errors" in self.stakes:
            worse = sum(p.error and not p.control_error for p in trial)
            better = sum(p.control_error and not p.error for p in trial)
            growth["paired_errors"] = side_growth(worse, better, self.order_effect.error_side())
        margins = self.order_effect.latency_margins()
        if trial and "paired_latency" in self.stakes and margins is not None:
            differences = [math.nan if (d := log_ratio(p)) is None else d for p in trial]
            growth["paired_latency"] = score_growth(differences, *margins)
        self.tally.pairs += len(trial)
        for pair in ordered:
            if pair.version == self.production:
                self.order_effect.add(pair)
        return growth

    def _shadows(self, batches: Sequence[ShadowBatch]) -> dict[str, Floats]:
        """Growth by what the shadow answered differently, beyond what production differs from itself."""
        pairs = [p for b in batches for p in b.pairs]
        differences = np.array([math.nan if p.difference is None else p.difference for p in pairs])
        growth: dict[str, Floats] = {}
        if pairs and "shadow_errors" in self.stakes:
            growth["shadow_errors"] = failure_growth(pairs)
        accepted = self.noise.accepted(measured=self.config.own_noise)
        if pairs and "shadow_severity" in self.stakes and accepted is not None:
            growth["shadow_severity"] = severity_growth(differences, accepted)
        if pairs and "shadow_shift" in self.stakes:
            growth["shadow_shift"] = shift_growth(np.where(np.isfinite(differences), differences, math.nan))
        for b in batches:
            self.noise.add(b.own)
        return growth

    def _labels(self, batches: Sequence[LabelBatch]) -> dict[str, Floats]:
        """Growth by outcomes, each batch with its own share."""
        growth = {m: np.zeros(len(s.weights)) for m, s in self.stakes.items() if m in LABEL_METRICS}
        for b in sorted(batches, key=lambda b: (b.tick, b.source)):
            self.tally.labels += b.answers
            for metric in growth:
                growth[metric] += self._label_growth(metric, b)
            self.loss_scale.add([production for _, production in b.losses])
            if "label_loss" in growth and self.loss_ladder is None:
                self.losses += tuple(b.production.losses)
                if len(self.losses) >= ENOUGH_LOSSES:
                    self.loss_ladder, self.losses = LossLadder.of(self.losses), ()
        return growth

    def _label_growth(self, metric: str, b: LabelBatch) -> Floats | float:
        """One batch's growth of one metric; 0 where it says nothing about it yet."""
        c, p = b.candidate, b.production
        match metric:
            case "labels":
                return binary_growth(c.n, c.wrong, p.n, p.wrong)
            case "paired_labels":
                return side_growth(b.only_candidate_wrong, b.only_production_wrong)
            case "label_order":
                return binary_growth(c.ordered, c.misordered, p.ordered, p.misordered)
            case "paired_order":
                return side_growth(b.only_candidate_misordered, b.only_production_misordered)
            case "label_f1":
                return f1_growth(b.confusion, self.config.f1_goal)
            case "paired_loss":
                return self.loss_scale.growth(b.losses)
            case "label_loss" if self.loss_ladder is not None:
                return self.loss_ladder.growth(c.losses, p.losses)
        return 0.0


def _histograms(arms: Sequence[Arm]) -> Floats:
    """Latency counts (len(arms), BUCKETS); a bucket beyond the ladder counts as its end, all below `LEAST` as that one."""
    result = np.zeros((len(arms), BUCKETS))
    for row, arm in zip(result, arms, strict=True):
        for bucket, count in arm.latency.items():
            row[min(max(bucket, LEAST), BUCKETS - 1)] += count
    return result
