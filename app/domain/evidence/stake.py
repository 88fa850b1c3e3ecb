"""A stake that is spread over bets and enters partly at once, partly later. One e-value for a whole
deployment.

Whatever a bet does, no stake is ever added beyond the 1 that was there at the start: that is what makes
`P(the e-value ever reaches 1/alpha) ≤ alpha` hold for a candidate that is no worse.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from app.domain.evidence.bets import Floats, log_sum

AT_ONCE = 0.6
STEADILY = 0.28  # evenly over the horizon
LATER = 0.12  # after the horizon, ever more slowly and without end


@dataclass(frozen=True, slots=True)
class Drip:
    """When the stake enters.

    What is bet loses while the candidate is fine; what enters later has not lost yet.
    """

    horizon: int = 3600  # ticks

    def entered(self, age: float) -> float:
        """The part of the stake that is in play `age` ticks after the start; rises to 1."""
        steadily = STEADILY * min(max(age, 0.0) / self.horizon, 1.0)
        later = LATER * (1.0 - math.sqrt(self.horizon / age)) if age > self.horizon else 0.0
        return AT_ONCE + steadily + later


def opening(weights: Floats) -> Floats:
    """Log stakes at the start. `weights` (J,) sum to 1."""
    log_m: Floats = np.log(AT_ONCE * weights)
    return log_m


def grown(log_m: Floats, growth: Floats, weights: Floats, entering: float) -> Floats:
    """Log stakes (…, J) after a batch: what enters is spread by `weights` and takes part in the batch."""
    if entering > 0.0:
        log_m = np.logaddexp(log_m, np.log(entering * weights))
    result: Floats = log_m + growth
    return result


class Stake:
    """The stake of one metric."""

    __slots__ = ("log_m", "weights")

    def __init__(self, weights: Floats, log_m: Floats | None = None) -> None:
        self.weights = weights
        self.log_m = opening(weights) if log_m is None else log_m

    def grow(self, growth: Floats, entering: float) -> None:
        """Take in one tick; see `grown`."""
        self.log_m = grown(self.log_m, growth, self.weights, entering)

    @property
    def log_e(self) -> float:
        """Log of the e-value, what is in play; below 0 as long as nothing speaks against the candidate."""
        return float(log_sum(self.log_m))
