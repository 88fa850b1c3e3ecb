"""The goals: ratios of cells of one round, judged by the median. Pure: samples in, verdicts out."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from benchmarks.peers.measure import Sample

Round = dict[str, Sample]  # cell name -> its sample in one round
LEAST_SHADOWED = 0.99  # of the answered requests; below it a cheap figure is bought with dropped shadows


class Verdict(StrEnum):
    """`invalid`: the cells did not do the same work, so the ratio says nothing."""

    MET = "met"
    MISSED = "missed"
    REPORTED = "reported"
    INVALID = "invalid"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Spread:
    """Of the values of all rounds."""

    least: float
    median: float
    most: float

    def __str__(self) -> str:
        return f"{figure(self.median)} ({figure(self.least)} to {figure(self.most)})"


@dataclass(frozen=True, slots=True)
class Goal:
    """`value` of a round, None when it cannot be had; without a bound it is only reported."""

    title: str
    cells: tuple[str, ...]
    value: Callable[[Round], float | None]
    at_most: float | None = None
    at_least: float | None = None
    shadowed: tuple[str, ...] = ()  # cells that must have delivered their shadows
    worst: bool = False  # judge the worst round instead of the median

    @property
    def limit(self) -> str:
        if self.at_most is not None:
            return f"≤ {figure(self.at_most)}"
        return f"≥ {figure(self.at_least)}" if self.at_least is not None else "report"


@dataclass(frozen=True, slots=True)
class Judged:
    """A goal with what was measured."""

    goal: Goal
    spread: Spread | None
    rounds: int
    verdict: Verdict


def figure(value: float) -> str:
    """Three significant digits without exponent."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def spread(values: Sequence[float]) -> Spread:
    """Least, median and most of at least one value."""
    return Spread(min(values), statistics.median(values), max(values))


def by_round(samples: Iterable[Sample]) -> list[Round]:
    """Samples of each round, in the order of the rounds."""
    rounds: dict[int, Round] = {}
    for sample in samples:
        rounds.setdefault(sample["round"], {})[sample["cell"]] = sample
    return [rounds[number] for number in sorted(rounds)]


def proxy_cpu(sample: Sample) -> float:
    """Microseconds a request of the processes that carry client bytes."""
    return sample["cpu_us"].get("proxy", 0.0)


def shadowed(sample: Sample) -> float:
    """Shadows that arrived, divided by the answered requests: a request whose client left needs no shadow."""
    return sample["shares"]["shadow"] * sample["carried"] / sample["requests"]


def _cpu_ratio(over: str, under: str) -> Callable[[Round], float | None]:
    def ratio(seen: Round) -> float | None:
        below = proxy_cpu(seen[under])
        return proxy_cpu(seen[over]) / below if below else None

    return ratio


def _control_share(seen: Round) -> float | None:
    cpu = seen["ours"]["cpu_us"]
    return cpu.get("control", 0.0) / cpu["proxy"] if cpu.get("proxy") else None


def _added_p99_ratio(seen: Round) -> float | None:
    direct = seen["direct-paced"]["p99_ms"]
    below = seen["envoy-paced"]["p99_ms"] - direct
    return (seen["ours-paced"]["p99_ms"] - direct) / below if below > 0 else None


def _cpu_goal(
    title: str, over: str, under: str, *, at_most: float | None = None, at_least: float | None = None
) -> Goal:
    shadowed = tuple(name for name in (over, under) if "plain" not in name and "unshadowed" not in name)
    return Goal(title, (over, under), _cpu_ratio(over, under), at_most, at_least, shadowed)


GOALS = (
    _cpu_goal(
        "split + shadow + journal + metrics ÷ Envoy weighted + mirror, CPU a request",
        "ours",
        "envoy",
        at_most=0.80,
    ),
    _cpu_goal("the same ÷ nginx split_clients + mirror", "ours", "nginx", at_most=1.30),
    _cpu_goal("÷ Envoy weighted + mirror, model servers of 20 ms", "ours-20ms", "envoy-20ms", at_most=0.80),
    _cpu_goal(
        "÷ nginx split_clients + mirror, model servers of 20 ms", "ours-20ms", "nginx-20ms", at_most=1.30
    ),
    _cpu_goal("no shadow, journal on ÷ nginx plain proxy", "ours-unshadowed", "nginx-plain", at_most=3.0),
    _cpu_goal("FastAPI + httpx with the source text's classes ÷ ours", "fastapi", "ours", at_least=20),
    Goal("control process ÷ proxy workers, CPU a request", ("ours",), _control_share, at_most=1.0),
    Goal(
        "added p99 at half of saturation ÷ Envoy's, 20 ms model servers",
        ("direct-paced", "envoy-paced", "ours-paced"),
        _added_p99_ratio,
        at_most=1.2,
        shadowed=("envoy-paced", "ours-paced"),
    ),
    _cpu_goal("1,000 configured models ÷ 1, CPU a request", "ours-1000-models", "ours", at_most=1.05),
    Goal(
        "1,000 open connections, 20 ms model servers: failed requests",
        ("ours-crowd",),
        lambda seen: float(seen["ours-crowd"]["failed"]),
        at_most=0,
        worst=True,
    ),
    Goal(
        "1,000 open connections, 20 ms model servers: worker memory (RSS), MB",
        ("ours-crowd",),
        lambda seen: seen["ours-crowd"]["rss_mb"]["proxy"],
        at_most=90,
        worst=True,
    ),
    Goal(
        "two workers ÷ one, throughput",
        ("ours-two-workers", "ours"),
        lambda seen: seen["ours-two-workers"]["throughput"] / seen["ours"]["throughput"],
    ),
)


def judge(goal: Goal, rounds: Sequence[Round]) -> Judged:
    """`goal` over the rounds that have all its cells."""
    complete = [seen for seen in rounds if all(name in seen for name in goal.cells)]
    values = [value for value in map(goal.value, complete) if value is not None]
    if not values:
        return Judged(goal, None, 0, Verdict.NOT_MEASURED)
    found = spread(values)
    return Judged(goal, found, len(values), _verdict(goal, found, complete))


def _verdict(goal: Goal, found: Spread, rounds: Sequence[Round]) -> Verdict:
    for name in goal.shadowed:
        if statistics.median(shadowed(seen[name]) for seen in rounds) < LEAST_SHADOWED:
            return Verdict.INVALID
    if goal.at_most is not None:
        return Verdict.MET if (found.most if goal.worst else found.median) <= goal.at_most else Verdict.MISSED
    if goal.at_least is not None:
        return (
            Verdict.MET if (found.least if goal.worst else found.median) >= goal.at_least else Verdict.MISSED
        )
    return Verdict.REPORTED
