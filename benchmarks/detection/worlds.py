"""What happens to the two versions while a canary runs, as curves over the time of the rollout."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from app.domain.evidence.tick import BELOW_10_MS, BUCKETS, RATIO

Floats = NDArray[np.float64]
SCENARIOS = ("steady", "incident", "ramp", "better", "bursts", "sticky", "order", "drip50k")
MEDIAN_MS = 80.0
INCIDENT = (0.3, 0.6)  # part of the time during which the incident lasts
INCIDENT_ERRORS, INCIDENT_LATENCY = 0.06, 5.0
RAMP = (0.05, 0.10, 0.25, 0.50)


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. Rates are probabilities; `ratio` is the candidate's median latency over production's."""

    mode: str = "errors"  # errors | latency | both | shadow | labels
    scenario: str = "steady"
    p0: float = 0.005
    p1: float = 0.005  # equal to p0: a good candidate, as far as errors go
    rho: float = 0.05
    sigma: float = 0.5  # of log latency
    ratio: float = 1.0
    alpha: float = 1e-4
    runs: int = 1000
    seed: int = 1
    horizon: int = 10_000  # canary requests, at the first share
    rate: int = 0  # requests a tick; 0: about one canary request a tick, so that the delay is fine-grained
    overlap: float = 0.8  # shadow: how often the candidate is wrong where production is
    keys: int = 1000  # sticky
    order: float = 0.05  # how much faster the second of two calls is
    drip: int = 50_000  # good requests before the candidate goes bad, in drip50k

    @property
    def is_good(self) -> bool:
        """Whether the candidate is no worse, so that a rollback would be false."""
        errors, latency = self.p1 <= self.p0, self.ratio <= 1.0
        return {"latency": latency, "both": errors and latency}.get(self.mode, errors)

    def with_rate(self) -> Setting:
        """With the rate that 0 stands for: a quarter of a canary request a tick, so that delays are fine-
        grained.
        """
        return self if self.rate else replace(self, rate=max(int(0.25 / self.rho), 1))


@dataclass(frozen=True, slots=True)
class Moment:
    """What is in force in one tick."""

    share: float
    errors: float  # of production
    candidate_errors: float
    latency: float  # factor on both versions
    candidate_latency: float
    is_bad: bool  # whether the candidate is worse by now


def ticks(setting: Setting) -> int:
    """How many ticks a run lasts."""
    lasting = int(np.ceil(setting.horizon / (setting.rho * setting.rate)))
    return lasting + bad_from(setting)


def bad_from(setting: Setting) -> int:
    """The tick in which the candidate turns bad."""
    return int(np.ceil(setting.drip / setting.rate)) if setting.scenario == "drip50k" else 0


def moment(setting: Setting, tick: int, lasting: int) -> Moment:
    """What is in force in `tick` of `lasting`. The candidate's own faults come on top of what both suffer."""
    progress = tick / max(lasting, 1)
    share, errors, latency = setting.rho, setting.p0, 1.0
    if setting.scenario in ("incident", "ramp") and INCIDENT[0] <= progress < INCIDENT[1]:
        errors, latency = max(INCIDENT_ERRORS, errors), INCIDENT_LATENCY
    if setting.scenario == "ramp":  # rises in the midst of the incident
        share = RAMP[min(int(max(progress - 0.35, 0.0) / 0.05), len(RAMP) - 1)]
    bad = tick >= bad_from(setting) and not setting.is_good
    extra, slower = (setting.p1 - setting.p0) / (1.0 - setting.p0), setting.ratio
    if setting.scenario == "better":
        extra, slower = -0.6 * errors / (1.0 - errors), 0.8
    elif not bad:
        extra, slower = 0.0, 1.0
    candidate = min(max(errors + extra * (1.0 - errors), 0.0), 1.0)
    return Moment(share, errors, candidate, latency, latency * slower, bad)


def latency_cells(median_ms: float, sigma: float) -> Floats:
    """Probabilities of the ladder's buckets for a lognormal latency."""
    edges = np.log(10.0) + (np.arange(1, BUCKETS) - BELOW_10_MS) * np.log(RATIO)
    z = (edges - np.log(median_ms)) / sigma
    below = np.concatenate([[0.0], _normal_cdf(z), [1.0]])
    return np.diff(below)


def _normal_cdf(z: Floats) -> Floats:
    from scipy.special import ndtr

    result: Floats = ndtr(z)
    return result
