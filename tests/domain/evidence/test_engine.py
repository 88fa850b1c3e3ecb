"""The engine finds what is worse, blames nobody for what both suffer, and gives the same answer however it is fed."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest

from app.domain.evidence.batch import WINDOW, Arm, Batch, Stratum
from app.domain.evidence.engine import Engine, LabelBatch, Labelled, Look, ShadowBatch, Snapshot
from app.domain.evidence.labels import Confusion
from app.domain.evidence.metrics import GROUPS, EngineConfig, bet_stakes, default_metrics, stake_parts
from app.domain.evidence.pairs import PairBatch
from app.domain.evidence.shadow import Severity, ShadowPair
from app.domain.evidence.storage import dump, load
from app.domain.evidence.tick import latency_bucket


@dataclass(frozen=True)
class Mirrored:
    version: str
    error: bool = False
    control_error: bool = False
    latency_us: int = 10_000
    control_latency_us: int = 10_000


def engine(**changes: object) -> Engine:
    config = EngineConfig(**changes)  # type: ignore[arg-type]
    return Engine(config, candidate="v2", production="v1", started=0)


def arm(rng: np.random.Generator, n: int, errors: float, median_ms: float = 80.0) -> Arm:
    bad = int(rng.binomial(n, errors))
    buckets = [latency_bucket(x) for x in median_ms * np.exp(rng.normal(0.0, 0.5, n - bad))]
    return Arm(n, bad, {b: buckets.count(b) for b in set(buckets)})


def batch(
    rng: np.random.Generator,
    tick: int,
    *,
    replica: str = "w0",
    n: int = 200,
    percent: float = 5.0,
    errors: tuple[float, float] = (0.005, 0.005),
    medians: tuple[float, float] = (80.0, 80.0),
) -> Batch:
    """Production first, the candidate second."""
    canary = int(rng.binomial(n, percent / 100.0))
    production, candidate = (
        arm(rng, n - canary, errors[0], medians[0]),
        arm(rng, canary, errors[1], medians[1]),
    )
    return Batch(replica, tick, (Stratum(percent, production, candidate),))


def run(found: Engine, ticks: int, seed: int = 1, first: int = 1, **world: object) -> Snapshot:
    rng = np.random.default_rng(seed)
    for tick in range(first, first + ticks):
        found.advance(tick, Look(batches=[batch(rng, tick, **world)]))  # type: ignore[arg-type]
    return found.snapshot()


def test_a_candidate_that_fails_more_is_found_and_the_metric_is_named() -> None:
    snapshot = run(engine(), 60, errors=(0.005, 0.2))
    assert snapshot.is_worse
    assert snapshot.decisive_metric == "errors"


def test_a_slower_candidate_is_found_and_the_metric_is_named() -> None:
    snapshot = run(engine(), 60, medians=(80.0, 160.0))
    assert snapshot.is_worse
    assert snapshot.decisive_metric == "latency"


@pytest.mark.parametrize(
    "older", [False, True], ids=["in one go", "stored when such latencies were told apart"]
)
def test_a_candidate_that_takes_two_milliseconds_instead_of_one_is_fast_enough(older: bool) -> None:
    found = engine(metrics=("latency",))
    assert not run(found, 60, medians=(1.0, 1.0)).is_worse
    if older:
        state = json.loads(dump(found))
        for name in ("collected", "reference"):
            count = sum(state[name].values())
            state[name] = {str(latency_bucket(ms)): count / 2 for ms in (0.8, 1.3)}
        found = load(json.dumps(state))
    assert not run(found, 240, first=61, medians=(1.0, 2.0)).is_worse
    slow = run(found, 60, first=301, medians=(1.0, 20.0))
    assert slow.is_worse
    assert slow.decisive_metric == "latency"


def test_an_incident_that_both_suffer_is_nobodys_fault() -> None:
    found = engine()
    run(found, 50)
    snapshot = run(found, 200, first=51, errors=(0.2, 0.2), medians=(800.0, 800.0))
    assert snapshot.log_e < math.log(100.0)


def test_a_rising_share_in_an_incident_is_nobodys_fault() -> None:
    found = engine()
    run(found, 50)
    for first, percent in ((51, 10.0), (101, 25.0), (151, 50.0)):
        snapshot = run(found, 50, seed=first, first=first, percent=percent, errors=(0.1, 0.1))
    assert snapshot.log_e < math.log(100.0)


def test_what_goes_bad_after_a_long_good_time_is_found() -> None:
    found = engine(metrics=("errors",), horizon=300)
    assert not run(found, 1500, n=50).is_worse
    assert run(found, 200, first=1501, n=50, errors=(0.005, 0.3)).is_worse


def test_a_few_requests_a_second_are_enough() -> None:
    """Far too few for a share to be realised in any one tick."""
    found = engine(metrics=("errors",))
    snapshot = run(found, 1200, n=2, errors=(0.005, 1.0))
    assert snapshot.is_worse


@pytest.mark.parametrize("sticky", [False, True])
def test_batches_of_many_replicas_count_the_same_in_any_order_and_twice(sticky: bool) -> None:
    rng = np.random.default_rng(5)
    metrics = ("errors",) if sticky else ("errors", "latency")
    batches = [
        batch(rng, tick, replica=f"w{r}", n=int(rng.integers(1, 60)), errors=(0.05, 0.1))
        for tick in range(1, 41)
        for r in range(5)
    ]
    snapshots = []
    for _ in range(3):
        found = engine(metrics=metrics, sticky=sticky)
        for tick in range(1, 41):
            due = [b for b in batches if b.tick == tick]
            again = [b for b in batches if b.tick == tick - 1]
            mixed = [*due, *again, due[0]]
            found.advance(tick, Look(batches=[mixed[i] for i in rng.permutation(len(mixed))]))
        snapshots.append(found.snapshot())
    assert max(s.log_e for s in snapshots) - min(s.log_e for s in snapshots) <= 1e-9
    assert all(s.counts["batches"] == len(batches) for s in snapshots)
    assert all(s.counts["candidate_requests"] == snapshots[0].counts["candidate_requests"] for s in snapshots)


def test_a_batch_that_comes_too_late_is_refused_and_counted() -> None:
    found = engine()
    found.advance(5000, Look(batches=[batch(np.random.default_rng(1), 5000 - WINDOW)]))
    assert found.snapshot().counts["refused"] == 1
    assert found.snapshot().counts["candidate_requests"] == 0


def test_a_restarted_engine_goes_on_where_it_stopped() -> None:
    config = {
        "metrics": default_metrics(
            sticky=False, control=True, shadow=True, alike=True, labels=("accuracy", "absolute_error", "auc")
        ),
        "severity": Severity.of(0.05),
        "own_noise": True,
    }
    rng = np.random.default_rng(6)
    whole, parts = engine(**config), engine(**config)
    for tick in range(1, 60):
        look = Look(
            batches=[batch(rng, tick, n=int(rng.integers(1, 100)))],
            pairs=[
                PairBatch(
                    "w0", tick, [Mirrored("v2", error=tick % 7 == 0), Mirrored("v1", latency_us=11_000)]
                )
            ],
            shadows=[ShadowBatch("shadow", tick, [ShadowPair(False, tick % 11 == 0, 0.1)], [0.0, 0.3] * 3)],
            labels=[
                LabelBatch(
                    "labels",
                    tick,
                    Labelled(3, 1, [0.5], 2, 1),
                    Labelled(30, 2, [0.1] * 9, 9, 1),
                    1,
                    0,
                    losses=[(2.0, 1.0)] * 5,
                )
            ],
        )
        whole.advance(tick, look)
        parts.advance(tick, look)
        parts = load(dump(parts))
    assert parts.snapshot() == whole.snapshot()
    assert dump(parts) == dump(whole)


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"format": 2}', '{"format": 1, "config": {}}'])
def test_what_is_no_stored_evidence_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        load(text)


def test_memory_does_not_grow_with_time() -> None:
    found = engine(metrics=default_metrics(sticky=False, control=True))
    rng = np.random.default_rng(7)
    sizes = []
    for tick in range(1, 1500):
        pairs = [Mirrored("v1", latency_us=int(rng.integers(5_000, 20_000))) for _ in range(20)]
        replicas = [batch(rng, tick, replica=f"w{tick // 100}", n=20)]  # ever new names
        found.advance(tick, Look(batches=replicas, pairs=[PairBatch("w0", tick, pairs)]))
        sizes.append(len(dump(found)))
    assert max(sizes[1000:]) <= 1.2 * max(sizes[:1000])


def test_a_fresh_candidates_warm_up_is_left_out() -> None:
    assert run(engine(metrics=("errors",), warmup_requests=10_000), 60, errors=(0.005, 0.5)).log_e < 0.0


def test_a_margin_accepts_what_is_within_it() -> None:
    strict = run(engine(metrics=("errors",)), 400, errors=(0.05, 0.09))
    lenient = run(engine(metrics=("errors",), margin=2.0), 400, errors=(0.05, 0.09))
    assert strict.is_worse
    assert lenient.log_e < 0.0


def test_errors_below_the_floor_are_accepted_however_good_production_is() -> None:
    strict = run(engine(metrics=("errors",)), 600, errors=(0.0, 0.02))
    floored = run(engine(metrics=("errors",), floor=0.03), 600, errors=(0.0, 0.02))
    above = run(engine(metrics=("errors",), floor=0.03), 600, errors=(0.0, 0.2))
    assert strict.is_worse
    assert floored.log_e < 0.0
    assert above.is_worse


@pytest.mark.parametrize("own", [0, 100])
def test_pairs_find_a_slow_candidate_when_nobody_else_is_left_to_compare_with(own: int) -> None:
    """And say nothing of latency while it is unknown how much slower the first of two calls is by itself."""
    found = engine(metrics=("errors", "paired_latency"), sticky=True)
    rng = np.random.default_rng(8)
    noise = np.exp(rng.normal(0.0, 0.3, (2, own)))
    twice = [Mirrored("v1", latency_us=int(1e4 * a), control_latency_us=int(1e4 * b)) for a, b in noise.T]
    found.advance(0, Look(pairs=[PairBatch("w0", 0, twice)]))
    for tick in range(1, 61):
        noise = np.exp(rng.normal(0.0, 0.3, (2, 5)))
        pairs = [Mirrored("v2", latency_us=int(2e4 * a), control_latency_us=int(1e4 * b)) for a, b in noise.T]
        everything = Stratum(100.0, candidate=Arm(50))
        found.advance(
            tick, Look(batches=[Batch("w0", tick, (everything,))], pairs=[PairBatch("w0", tick, pairs)])
        )
    assert found.snapshot().is_worse == (own > 0)
    assert (found.snapshot().latency_margins is None) == (own == 0)
    assert own == 0 or found.snapshot().decisive_metric == "paired_latency"


def test_pairs_of_another_candidate_are_nothing_to_this_one() -> None:
    found = engine(metrics=("paired_errors",), sticky=True)
    found.advance(1, Look(pairs=[PairBatch("w0", 1, [Mirrored("v3", error=True)] * 100)]))
    assert found.snapshot().log_e < 0.0
    assert found.snapshot().counts["pairs"] == 0


def test_severe_differences_and_labels_of_a_shadow_count() -> None:
    severity = Severity.of(0.05)
    found = engine(metrics=("shadow_errors", "shadow_severity", "shadow_shift"), severity=severity)
    pairs = [ShadowPair(False, False, 0.9 if i % 10 == 0 else 0.001) for i in range(100)]
    for tick in range(1, 6):
        found.advance(tick, Look(shadows=[ShadowBatch("shadow", tick, pairs)]))
    assert found.snapshot().is_worse
    assert found.snapshot().decisive_metric == "shadow_severity"


def test_labels_of_both_arms_their_pairs_and_their_losses_each_find_a_worse_model() -> None:
    rng = np.random.default_rng(9)
    kinds = "labels", "paired_labels", "label_loss", "paired_loss", "label_order", "paired_order", "label_f1"
    for metric in kinds:
        found = engine(metrics=(metric,), f1_goal=0.9, loss_scale=1.0)
        for tick in range(1, 31):
            good, bad = rng.beta(1.0, 9.0, 90).tolist(), rng.beta(3.0, 3.0, 10).tolist()
            batch_of_labels = LabelBatch(
                "labels",
                tick,
                Labelled(10, 5, bad, 5, 2),
                Labelled(90, 9, good, 40, 2),
                only_candidate_wrong=4,
                only_candidate_misordered=3,
                losses=list(zip(bad, good[:10], strict=True)),
                confusion=Confusion(5, 3, 2),
                answers=10,
            )
            found.advance(tick, Look(labels=[batch_of_labels]))
        assert found.snapshot().is_worse, metric
        assert found.snapshot().counts["labels"] == 300


def test_the_whole_stake_is_given_out_over_the_metrics_and_their_bets() -> None:
    config = EngineConfig(
        metrics=tuple(m for m in GROUPS if m != "latency"),
        sticky=True,
        severity=Severity.of(0.05),
        f1_goal=0.8,
    )
    assert sum(stake_parts(config.metrics).values()) == pytest.approx(1.0)
    for metric in config.metrics:
        assert bet_stakes(metric, config).sum() == pytest.approx(1.0)
    assert stake_parts(("errors", "latency")) == {"errors": 0.5, "latency": 0.5}
    shared = stake_parts(("errors", "paired_errors", "latency"))
    assert shared["errors"] == shared["paired_errors"] == pytest.approx(0.25)


def test_metrics_are_averaged_so_one_that_is_fine_cannot_hide_another() -> None:
    alone = run(engine(metrics=("errors",)), 60, errors=(0.005, 0.2))
    beside = run(engine(metrics=("errors", "paired_latency")), 60, errors=(0.005, 0.2))
    assert beside.log_e == pytest.approx(alone.log_e - math.log(2.0), abs=1e-3)


@pytest.mark.parametrize(
    "changes",
    [
        {"metrics": ()},
        {"metrics": ("errors", "errors")},
        {"metrics": ("beauty",)},
        {"alpha": 0.0},
        {"margin": 0.5},
        {"floor": 1.0},
        {"sticky": True, "metrics": ("latency",)},
        {"metrics": ("shadow_severity",)},
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"\w+"):
        replace(EngineConfig(), **changes)  # type: ignore[arg-type]


def test_a_stage_gets_its_own_reference_and_before_there_is_one_latency_says_nothing() -> None:
    found = engine(metrics=("latency",))
    run(found, 2, n=100, medians=(80.0, 800.0))
    assert found.reference is None
    run(found, 10, first=3, n=100)
    first = found.reference
    assert first is not None
    run(found, 10, first=13, n=100)
    assert found.reference is first
    run(found, 10, first=23, n=100, percent=25.0)
    assert found.reference is not first
