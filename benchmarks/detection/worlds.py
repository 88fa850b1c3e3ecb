"""What happens to the two versions while a canary runs, as curves over the time of the rollout."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from app.domain.evidence.tick import BELOW_10_MS, BUCKETS, RATIO
from benchmarks.detection.bound import error_bound, latency_bound

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
    horizon: int = 0  # canary requests, at the first share; 0: see `fitted`
    rate: int = 0  # requests a tick; 0: see `fitted`
    overlap: float = 0.8  # shadow: how often the candidate is wrong where production is
    keys: int = 1000  # sticky
    order: float = 0.05  # how much faster the second of two calls is
    drip: int = 50_000  # good requests before the candidate goes bad, in drip50k
    metrics: str = "one"  # one: the whole stake on the mode's | default: the gateway's, see `deployed`

    @property
    def is_good(self) -> bool:
        """Whether the candidate is no worse, so that a rollback would be false."""
        errors, latency = self.p1 <= self.p0, self.ratio <= 1.0
        return {"latency": latency, "both": errors and latency}.get(self.mode, errors)

    @property
    def bound(self) -> float | None:
        """B for what the setting is about, in canary requests; None for a good candidate."""
        bounds = []
        if self.mode != "latency":
            bounds.append(error_bound(self.p0, self.p1, self.rho, self.alpha))
        if self.mode in ("latency", "both"):
            bounds.append(latency_bound(self.ratio, self.sigma, self.rho, self.alpha))
        best = min(bounds)
        return best if np.isfinite(best) and not self.is_good else None

    def fitted(self) -> Setting:
        """With the horizon and the rate that 0 stands for.

        A bad candidate is given ten times the bound, and looks so frequent that delays are fine-grained: a
        quarter of a canary request a tick, or a four-hundredth of a long bound. A good one is watched for
        10,000 requests.
        """
        if self.bound is None:
            horizon, a_tick = 10_000.0, 1.0 if self.mode in ("errors", "labels") else 10.0
        else:
            horizon, a_tick = 10.0 * self.bound + 100.0, max(0.25, self.bound / 400.0)
        rate = self.rate or max(int(a_tick / self.rho), 1)
        return replace(self, rate=rate, horizon=self.horizon or int(horizon))


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
