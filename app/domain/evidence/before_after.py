"""A candidate that answers everything, held against what the former production did before it.

For the time in which nothing compares the two: the stage of 100 %, and the watch over a promoted version, without
pairs. Bets that twice as many answers fail, or are slow, as the former version can have had. It cannot tell a bad
version from an incident that the former one would have suffered too; so it bets only while no pairs come, and must
never be asked while there are some.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field

import numpy as np

from app.domain.evidence.batch import Arm
from app.domain.evidence.bets import Floats, log_sum
from app.domain.evidence.pairs import LAMBDAS
from app.domain.evidence.stake import Drip, Stake
from app.domain.evidence.tick import BUCKETS, RATIO, bucket_floor_ms, latency_bucket

TIMES = 2.0  # how many times the former version's part of bad answers is tolerated, and its latency
SLOW = 0.01  # a p99 leaves this part beyond it
REMEMBERED = 10_000  # answers of the former version; from twice as many on, all counts are halved
SURE_PAIRS = 20.0  # so many were due and none came (by chance: e^-20): there are none
SLOW_SECONDS = 5  # make one vote on latency: a late answer is still one, and a stall passes
STAKES: Floats = np.full(len(LAMBDAS), 1.0 / len(LAMBDAS))
_TWICE = math.ceil(math.log(TIMES) / math.log(RATIO))  # buckets


@dataclass(frozen=True, slots=True)
class Limits:
    """What is tolerated however good the former version was, and how sure its figures have to be."""

    error_rate: float = 0.05
    latency_ms: float = 500.0
    alpha: float = 1e-4
    margin: float = 1.0  # times the former version's failures, where that is more than `TIMES`


@dataclass(frozen=True, slots=True)
class Tolerated:
    """Parts of a second's answers. From 1 on nothing can be too much: too little is known of the former version."""

    errors: float
    slow: float
    slow_beyond: int  # bucket: what is above it is slow


def upper_bound(k: float, n: float, alpha: float) -> float:
    """The largest p with n·KL(k/n ‖ p) ≤ ln(1/alpha); 1 for n = 0.

    A true probability is above it with probability at most alpha (Chernoff 1952, Hoeffding 1963).
    """
    if n <= 0.0:
        return 1.0
    part, limit = min(k / n, 1.0), -math.log(alpha) / n
    low, high = part, 1.0
    for _ in range(60):
        p = 0.5 * (low + high)
        hit = part * math.log(part / p) if part > 0.0 else 0.0
        miss = (1.0 - part) * math.log((1.0 - part) / (1.0 - p)) if part < 1.0 else 0.0
        low, high = (p, high) if hit + miss <= limit else (low, p)
    return high


@dataclass(slots=True)
class Former:
    """The former version's answers, as production and before the other answered everything; older ones count less."""

    requests: float = 0.0
    errors: float = 0.0
    latency: Floats = field(default_factory=lambda: np.zeros(BUCKETS))

    def add(self, arm: Arm) -> None:
        """Take in what it answered since the last time."""
        self.requests += arm.requests
        self.errors += arm.errors
        for bucket, count in arm.latency.items():
            self.latency[min(max(bucket, 0), BUCKETS - 1)] += count
        if self.requests >= 2 * REMEMBERED:
            self.requests, self.errors, self.latency = self.requests / 2, self.errors / 2, self.latency / 2

    def tolerated(self, limits: Limits) -> Tolerated:
        """Twice what it had at the most, and never less than the limits."""
        errors = max(TIMES, limits.margin) * upper_bound(self.errors, self.requests, limits.alpha)
        n = float(self.latency.sum())
        p99 = int(np.searchsorted(np.cumsum(self.latency), (1.0 - SLOW) * n)) if n else 0
        beyond = max(p99 + _TWICE, latency_bucket(limits.latency_ms))
        slow = TIMES * max(SLOW, upper_bound(float(self.latency[beyond + 1 :].sum()), n, limits.alpha))
        return Tolerated(max(errors, limits.error_rate), slow, beyond)


@dataclass(slots=True)
class Since:
    """Counts of the answers that were bet on, for people."""

    requests: int = 0
    errors: int = 0
    timed: int = 0
    slow: int = 0


class BeforeAfter:
    """One vote a second, the part of its requests that failed, however many they were: whoever is away for a moment
    fails all of them, and that is one event. So for slow answers, a vote in five seconds. `Π(1 + λ·(y − p)/p)` over
    votes has mean at most 1 while the expected part y of bad answers is at most the tolerated p, however the requests
    behind a vote hang together (Waudby-Smith and Ramdas 2024, betting on bounded means).
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.former = Former()
        self.tolerated: Tolerated | None = None  # fixed by the first vote
        self.unpaired = 0  # answers of the candidate alone since the last pair
        self.since = Since()
        self._timed = self._late = 0  # of the vote on latency under way
        self._votes = 0
        self._errors, self._slow = Stake(STAKES), Stake(STAKES)

    def before(self, arm: Arm) -> None:
        """What the former version answered as production. Once there was a vote it is too late to change its mind."""
        if self.tolerated is None:
            self.former.add(arm)

    def after(self, arm: Arm, *, pairs: int, share: float) -> None:
        """A second of the candidate alone. `share`: the part of its answers that is to be compared in pairs; `pairs`:
        how many came. Whether to bet is decided by what was known before this second.
        """
        bets = not are_expected(self.unpaired, share)
        self.unpaired = 0 if pairs else self.unpaired + arm.requests
        if not bets or not arm.requests:
            return
        if self.tolerated is None:
            self.tolerated = self.former.tolerated(self.limits)
        timed = sum(arm.latency.values())
        slow = sum(count for bucket, count in arm.latency.items() if bucket > self.tolerated.slow_beyond)
        drip = Drip()
        entering = drip.entered(self._votes + 1) - drip.entered(self._votes)
        self._votes += 1
        self._errors.grow(_growth(arm.errors, arm.requests, self.tolerated.errors), entering)
        self._timed, self._late = self._timed + timed, self._late + slow
        if self._votes % SLOW_SECONDS == 0:
            self._slow.grow(_growth(self._late, self._timed, self.tolerated.slow), entering)
            self._timed = self._late = 0
        else:
            self._slow.grow(_growth(0, 0, self.tolerated.slow), entering)
        s = self.since
        self.since = Since(s.requests + arm.requests, s.errors + arm.errors, s.timed + timed, s.slow + slow)

    @property
    def log_e(self) -> float:
        """Log of the e-value against "no worse than tolerated": half the stake on errors, half on slow answers."""
        return float(log_sum(np.array([self._errors.log_e, self._slow.log_e])) - math.log(2.0))

    @property
    def log_es(self) -> dict[str, float]:
        """Log of what a unit of each half has become."""
        return {"errors": self._errors.log_e, "slow": self._slow.log_e}

    @property
    def finding(self) -> str:
        """The figures behind it, those of the metric that holds more; empty before the first vote."""
        if self.tolerated is None:
            return ""
        s, former, limit = self.since, self.former, self.tolerated
        if self._errors.log_e >= self._slow.log_e:
            known = f"the former version failed on {former.errors:.0f} of {former.requests:.0f}"
            return f"{s.errors} of {s.requests} requests failed, up to {_percent(limit.errors)} are tolerated ({known})"
        beyond = bucket_floor_ms(limit.slow_beyond + 1)
        known = f"{former.latency[limit.slow_beyond + 1 :].sum():.0f} of {former.latency.sum():.0f} of the former version"
        return (
            f"{s.slow} of {s.timed} answers took more than {beyond:.0f} ms, up to {_percent(limit.slow)} are tolerated "
            f"({known})"
        )

    def state(self) -> dict[str, object]:
        """For storing, limits included: a rollout is judged to its end by the rules it began with."""
        f, t, s = self.former, self.tolerated, self.since
        return {
            "limits": list(astuple(self.limits)),
            "former": [f.requests, f.errors],
            "latency": {str(i): float(f.latency[i]) for i in np.nonzero(f.latency)[0].tolist()},
            "tolerated": None if t is None else [t.errors, t.slow, t.slow_beyond],
            "unpaired": self.unpaired,
            "since": [s.requests, s.errors, s.timed, s.slow],
            "waiting": [self._timed, self._late],
            "votes": self._votes,
            "stakes": [self._errors.log_m.tolist(), self._slow.log_m.tolist()],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, object]) -> BeforeAfter:
        """Read back what `state` gave; `ValueError`, `TypeError` or `KeyError` for anything else."""
        limits, former, latency = state["limits"], state["former"], state["latency"]
        tolerated, since, stakes = state["tolerated"], state["since"], state["stakes"]
        unpaired, votes, waiting = state["unpaired"], state["votes"], state["waiting"]
        if not (
            isinstance(limits, list)
            and isinstance(former, list)
            and isinstance(latency, dict)
            and isinstance(since, list)
            and isinstance(stakes, list)
            and isinstance(waiting, list)
            and isinstance(unpaired, int)
            and isinstance(votes, int)
        ):
            raise ValueError("before and after: lists, a histogram and two counts")
        found = cls(Limits(*(float(x) for x in limits)))
        found.former = Former(float(former[0]), float(former[1]))
        for bucket, count in latency.items():
            found.former.latency[int(bucket)] = float(count)
        if isinstance(tolerated, list):
            found.tolerated = Tolerated(float(tolerated[0]), float(tolerated[1]), int(tolerated[2]))
        found.unpaired, found._votes = unpaired, votes
        found._timed, found._late = (int(x) for x in waiting)
        found.since = Since(*(int(x) for x in since))
        errors, slow = (np.array(m, dtype=np.float64) for m in stakes)
        if errors.shape != STAKES.shape or slow.shape != STAKES.shape:
            raise ValueError(f"before and after: {STAKES.shape} stakes for each metric")
        found._errors, found._slow = Stake(STAKES, errors), Stake(STAKES, slow)
        return found


def are_expected(unpaired: int, share: float) -> bool:
    """Whether pairs can still be expected of a candidate that has answered so many requests since the last one, a `share`
    of which were to be compared.
    """
    return share > 0.0 and unpaired * share < SURE_PAIRS


def _growth(bad: int, n: int, tolerated: float) -> Floats:
    """Log growth of the bets of one second, (L,); 0 where nothing was counted or nothing can be too much."""
    if not n or tolerated >= 1.0:
        return np.zeros(len(LAMBDAS))
    growth: Floats = np.log1p(np.asarray(LAMBDAS) * (bad / n - tolerated) / tolerated)
    return growth


def _percent(part: float) -> str:
    return f"{100.0 * min(part, 1.0):.3g} %"
