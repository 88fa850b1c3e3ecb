"""Batches: what one replica counted in one tick, in both arms; and their exact, order-independent merging.

The key of a batch is (replica, tick): the same batch twice counts once. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from app.domain.routing import canary_share

WINDOW = 600  # ticks for which a batch may be late, and for which its key is remembered


class Counts(Protocol):
    """One second of one version in one role under one percentage, as a worker publishes it.

    `errors` includes the `shared_errors`: those of a canary where production failed on the same request too. Latency
    holds answers and timeouts by `tick.latency_bucket`; a refusal has none. Forced requests and those that the client
    left are no evidence.
    """

    @property
    def version(self) -> str: ...
    @property
    def role(self) -> str: ...
    @property
    def percent(self) -> float: ...
    @property
    def requests(self) -> int: ...
    @property
    def errors(self) -> int: ...
    @property
    def shared_errors(self) -> int: ...
    @property
    def latency(self) -> Mapping[int, int]: ...


@dataclass(frozen=True, slots=True)
class Arm:
    """Votes of one version. `errors` are those that count: a canary's that production shares is none."""

    requests: int = 0
    errors: int = 0
    latency: Mapping[int, int] = field(default_factory=dict)  # bucket -> count, of answers and timeouts

    def __add__(self, other: Arm) -> Arm:
        latency = dict(self.latency)
        for bucket, count in other.latency.items():
            latency[bucket] = latency.get(bucket, 0) + count
        return Arm(self.requests + other.requests, self.errors + other.errors, latency)


@dataclass(frozen=True, slots=True)
class Stratum:
    """Both arms under one canary percentage: within it, each request had the same chance to be a canary."""

    percent: float
    production: Arm = field(default_factory=Arm)
    candidate: Arm = field(default_factory=Arm)

    def __add__(self, other: Stratum) -> Stratum:
        return Stratum(self.percent, self.production + other.production, self.candidate + other.candidate)

    @property
    def share(self) -> float:
        """The configured share, known before any request came."""
        return canary_share(self.percent)

    @property
    def information(self) -> float:
        """Expected number of canary requests, or of production's if they are fewer; 0 where nothing is
        compared.
        """
        return (self.production.requests + self.candidate.requests) * self.share * (1.0 - self.share)


@dataclass(frozen=True, slots=True)
class Batch:
    """One replica's tick. `shadow_requests`: answers of the candidate that no client saw."""

    replica: str
    tick: int
    strata: tuple[Stratum, ...]
    shadow_requests: int = 0


def batch_of(replica: str, tick: int, counts: Iterable[Counts], *, candidate: str, production: str) -> Batch:
    """A worker's counts of one model as a batch for the rollout of `candidate` against `production`.

    Counts of other versions and of control mirrors are left out; latency buckets are `tick.latency_bucket`'s.
    """
    strata: dict[float, Stratum] = {}
    shadow_requests = 0
    for c in counts:
        arm = Arm(c.requests, c.errors - c.shared_errors, c.latency)
        if c.role == "production" and c.version == production:
            stratum = Stratum(c.percent, production=arm)
        elif c.role == "canary" and c.version == candidate:
            stratum = Stratum(c.percent, candidate=arm)
        else:
            shadow_requests += c.requests if c.role == "shadow" and c.version == candidate else 0
            continue
        strata[c.percent] = strata[c.percent] + stratum if c.percent in strata else stratum
    return Batch(replica, tick, tuple(strata[p] for p in sorted(strata)), shadow_requests)


class Seen:
    """Which batches have been counted. Memory is bounded by the replicas of the last `WINDOW` ticks."""

    __slots__ = ("_marks",)

    def __init__(self, marks: Mapping[str, tuple[int, int]] | None = None) -> None:
        self._marks: dict[str, tuple[int, int]] = dict(
            marks or {}
        )  # replica -> newest tick, bits of those before

    def admit(self, replica: str, tick: int, now: int) -> bool:
        """Whether this batch is to be counted: not counted yet, neither too old nor of the far future."""
        if not now - WINDOW < tick <= now + WINDOW:
            return False
        newest, bits = self._marks.get(replica, (tick, 0))
        if tick > newest:
            bits, newest = (bits << (tick - newest)) & ((1 << 3 * WINDOW) - 1), tick
        mask = 1 << (newest - tick)
        if bits & mask:
            return False
        self._marks[replica] = (newest, bits | mask)
        return True

    def forget(self, now: int) -> None:
        """Drop the replicas whose batches would all be refused as too old by now."""
        self._marks = {r: m for r, m in self._marks.items() if m[0] > now - WINDOW}

    def marks(self) -> dict[str, tuple[int, int]]:
        """The state, for storing."""
        return dict(self._marks)
