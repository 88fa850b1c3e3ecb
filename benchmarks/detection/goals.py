"""The table of goals: what must hold, what was measured, and whether it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from app.domain.evidence.batch import Arm, Batch, Stratum
from app.domain.evidence.bets import label_factors
from app.domain.evidence.engine import Engine, Look
from app.domain.evidence.metrics import EngineConfig
from benchmarks.detection.deployed import deployed
from benchmarks.detection.paired import MEASURED, NONE, order, shadow_labels
from benchmarks.detection.report import quantile
from benchmarks.detection.simulate import Course, course
from benchmarks.detection.sticky import CONFIGURED, OURS, OURS_ERRORS, OURS_LATENCY, TWO_SAMPLE, sticky
from benchmarks.detection.worlds import Floats, Setting

SURE = 0.999  # of the binomial quantile that counts of false rollbacks are held against
ALPHAS = (0.05, 0.01, 1e-4)


@dataclass(frozen=True, slots=True)
class Goal:
    """One line of the table. `holds` is None for a line that only shows something for comparison."""

    name: str
    goal: str
    measured: str
    holds: bool | None


@dataclass(frozen=True, slots=True)
class Effort:
    """How much to simulate."""

    runs: int = 1000
    unseen: int = 10
    seed: int = 1
    good_rate: int = 1000  # requests a tick while the candidate is good
    horizon: int = 10_000

    @classmethod
    def short(cls) -> Effort:
        """A few seconds: for tests."""
        return cls(runs=40, unseen=2, good_rate=1000, horizon=2_000)


def goals(effort: Effort) -> Iterator[Goal]:
    """Every line of the table, one after the other, as they are measured."""
    yield _identity(effort.seed)
    yield _merge(effort.seed)
    yield from _false_rollbacks(effort)
    yield from _known_delays(effort)
    yield from _unseen_delays(effort)
    yield from _turning_bad(effort)
    yield from _labels(effort)


def divided(effort: Effort) -> Iterator[Goal]:
    """What it costs that the gateway divides its stake over the default metrics; for comparison, at two rates."""
    for p1 in (0.05, 0.2, 1.0):
        for rate in (20, 5):
            setting = Setting(p1=p1, rate=rate, metrics="default", runs=effort.runs, seed=effort.seed)
            name = f"errors .5 → {100 * p1:g} %, default metrics, {rate} requests a tick"
            yield _delay(name, setting, (2.0, 3.0), (4.0, 5.0), judged=False)


def _identity(seed: int) -> Goal:
    rng = np.random.default_rng(seed)
    weight, share = np.exp(rng.normal(0.0, 4.0, 10_000)), rng.random(10_000)
    candidate, production = label_factors(weight, share)
    worst = float(np.abs(share * candidate + (1.0 - share) * production - 1.0).max())
    return Goal("identity, 10,000 random weights and shares", "≤ 1e-12", f"{worst:.1e}", worst <= 1e-12)


def _merge(seed: int) -> Goal:
    """The same batches at once, in shards, in any order, and some of them twice."""
    rng = np.random.default_rng(seed)
    batches = [_random_batch(rng, replica, tick) for tick in range(1, 21) for replica in range(4)]
    config = EngineConfig(metrics=("errors", "latency"))
    log_es = []
    for _ in range(4):
        engine = Engine(config, candidate="v2", production="v1", started=0)
        for tick in range(1, 21):
            due = [b for b in batches if b.tick == tick]
            due = [due[i] for i in rng.permutation(len(due))]
            engine.advance(tick, Look(batches=[*due, due[0]]))
        log_es.append(engine.snapshot().log_e)
    spread = max(log_es) - min(log_es)
    return Goal("merge of 4 replicas in any order, some twice", "≤ 1e-9", f"{spread:.1e}", spread <= 1e-9)


def _random_batch(rng: np.random.Generator, replica: int, tick: int) -> Batch:
    def arm(mean: float) -> Arm:
        n = int(rng.poisson(mean))
        bad = int(rng.binomial(n, 0.1))
        buckets = rng.integers(50, 80, n - bad).tolist()
        return Arm(n, bad, {b: buckets.count(b) for b in set(buckets)})

    return Batch(f"replica-{replica}", tick, (Stratum(5.0, production=arm(95.0), candidate=arm(5.0)),))


def _allowed(runs: int, alpha: float) -> int:
    """Most hits among the runs that are still likely at alpha; none at 1e-4."""
    from scipy.stats import binom

    return int(binom.ppf(SURE, runs, alpha)) if alpha > 1e-3 else 0


def _good(name: str, runs: int, hits: Callable[[float], int]) -> Goal:
    counts = {alpha: hits(alpha) for alpha in ALPHAS}
    holds = all(n <= _allowed(runs, alpha) for alpha, n in counts.items())
    goal = ", ".join(f"≤ {_allowed(runs, a)}" for a in ALPHAS)
    measured = ", ".join(str(n) for n in counts.values())
    return Goal(f"false rollbacks of {runs} at .05, .01, 1e-4: {name}", goal, measured, holds)


def _false_rollbacks(effort: Effort) -> Iterator[Goal]:
    good = Setting(
        mode="both", runs=effort.runs, seed=effort.seed, rate=effort.good_rate, horizon=effort.horizon
    )
    worlds = [(f"steady {100 * p:g} % errors", replace(good, p0=p, p1=p)) for p in (0.005, 0.04, 0.06)]
    worlds += [
        ("shared incident with 5x latency", replace(good, scenario="incident")),
        ("share ramps up during an incident", replace(good, scenario="ramp")),
        ("better candidate", replace(good, scenario="better")),
        ("bursts, one vote a key", replace(good, scenario="bursts", mode="errors")),
    ]
    for name, setting in worlds:
        yield _good(name, setting.runs, course(setting).hits)
    raw = course(replace(good, scenario="bursts", mode="errors"), raw=True)
    yield Goal("— bursts, one vote a request", "(for comparison)", _part(raw.hits(1e-4) / effort.runs), None)
    for keys in (1_000, 10_000):
        setting = replace(good, scenario="sticky", keys=keys, rate=0)
        found = sticky(setting)
        for detector in (OURS, OURS_ERRORS, OURS_LATENCY):
            hits = lambda alpha, d=detector: round(found.hits(d, alpha) * setting.runs)  # noqa: B023, E731
            yield _good(f"sticky, {keys:,} keys: {detector}", setting.runs, hits)
        for detector in (CONFIGURED, TWO_SAMPLE):
            measured = _part(found.hits(detector, 1e-4))
            yield Goal(f"— sticky, {keys:,} keys: {detector}", "(for comparison)", measured, None)
    paired = order(replace(good, scenario="order"))
    yield _good(
        "order effect of 5 %", effort.runs, lambda alpha: round(paired.hits(MEASURED, alpha) * effort.runs)
    )
    yield Goal("— order effect of 5 %, no margin", "(for comparison)", _part(paired.hits(NONE, 1e-4)), None)


def _part(part: float) -> str:
    return f"{part:.3f} of the runs at 1e-4"


def _delays(found: Course) -> Floats:
    return np.concatenate([found.delays, np.full(found.missed, np.inf)])


def _figure(value: float | None) -> str:
    return "not found" if value is None else f"{value:.0f}"


def _delay(
    name: str, setting: Setting, median: tuple[float, float], p95: tuple[float, float], *, judged: bool = True
) -> Goal:
    """Goals of the form a·B + b for the median and the 95th percentile."""
    found = deployed(setting) if setting.metrics == "default" else course(setting)
    b, values = setting.bound or np.inf, _delays(found)
    m, p = quantile(values, 0.5), quantile(values, 0.95)
    most = median[0] * b + median[1], p95[0] * b + p95[1]
    holds = m is not None and p is not None and m <= most[0] and p <= most[1]
    goal = f"≤ {most[0]:.0f} / {most[1]:.0f} (B = {b:.1f})"
    measured = f"{_figure(m)} / {_figure(p)}"
    if not judged:
        return Goal(f"— delay, median / p95: {name}", f"(B = {b:.1f})", measured, None)
    return Goal(f"delay, median / p95: {name}", goal, measured, holds)


def _known_delays(effort: Effort) -> Iterator[Goal]:
    base = Setting(runs=effort.runs, seed=effort.seed)
    for p1 in (0.02, 0.05, 0.2):
        setting = replace(base, p1=p1)
        yield _delay(f"errors .5 → {100 * p1:g} %", setting, (2.0, 3.0), (4.0, 5.0))
    yield _delay("errors .5 → 100 %", replace(base, p1=1.0), (0.0, 6.0), (0.0, 6.0))
    for ratio in (1.2, 2.0, 10.0):
        setting = replace(base, mode="latency", ratio=ratio)
        yield _delay(f"latency {ratio:g}x", setting, (2.0, 3.0), (4.0, 5.0))
    both = replace(base, mode="both", p1=0.05)
    yield _delay("errors .5 → 5 %, stake shared with latency", both, (2.0, 3.0), (4.0, 5.0))


def _unseen_delays(effort: Effort) -> Iterator[Goal]:
    """Settings drawn at random; the seed decides which."""
    rng = np.random.default_rng(effort.seed + 1000)
    drawn = 0
    while drawn < effort.unseen:
        share, alpha = float(rng.choice([0.01, 0.02, 0.1, 0.25, 0.5])), float(rng.choice([1e-3, 1e-4, 1e-5]))
        if rng.random() < 0.67:
            p0, odds = (
                float(np.exp(rng.uniform(np.log(1e-3), np.log(0.4)))),
                float(np.exp(rng.uniform(0.3, 5.0))),
            )
            setting = Setting(p0=p0, p1=odds * p0 / (1.0 + (odds - 1.0) * p0), rho=share, alpha=alpha)
            name = f"errors {100 * p0:.2g} → {100 * setting.p1:.2g} %, share {share:g}, alpha {alpha:g}"
        else:
            sigma, ratio = float(rng.uniform(0.2, 1.0)), float(np.exp(rng.uniform(0.15, 2.0)))
            setting = Setting(mode="latency", sigma=sigma, ratio=ratio, rho=share, alpha=alpha)
            name = f"latency {ratio:.2f}x, sigma {sigma:.2f}, share {share:g}, alpha {alpha:g}"
        if (setting.bound or np.inf) > 1500.0:  # hours of simulation would tell nothing more
            continue
        drawn += 1
        yield _delay(name, replace(setting, runs=effort.runs, seed=effort.seed), (2.0, 3.0), (4.0, 5.0))


def _turning_bad(effort: Effort) -> Iterator[Goal]:
    for drip, rate, name in ((50_000, 20, "50,000 requests"), (1_000_000, 400, "50,000 canary requests")):
        setting = Setting(
            p1=0.05, scenario="drip50k", drip=drip, rate=rate, runs=effort.runs, seed=effort.seed
        )
        yield _delay(f"errors .5 → 5 % after {name}", setting, (2.5, 0.0), (4.5, 0.0))


def _labels(effort: Effort) -> Iterator[Goal]:
    found = shadow_labels(
        Setting(mode="shadow", p0=0.10, p1=0.13, runs=min(effort.runs, 400), seed=effort.seed)
    )
    paired, unpaired = quantile(found.labels, 0.5), quantile(found.unpaired, 0.5)
    measured = f"{_figure(paired)} (B = {found.bound:.0f})"
    goal = f"< {_figure(unpaired)} unpaired (B = {found.unpaired_bound:.0f})"
    holds = paired is not None and (unpaired is None or paired < unpaired)
    yield Goal("labels until 3 points less accuracy is found, in shadow", goal, measured, holds)
