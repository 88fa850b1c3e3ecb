"""The stake of many runs, tick by tick, when the growth of all ticks is known beforehand."""

from __future__ import annotations

import numpy as np

from app.domain.evidence.bets import log_sum
from app.domain.evidence.stake import Drip, grown, opening
from benchmarks.detection.worlds import Floats


def log_es(growth: Floats, stakes: Floats) -> Floats:
    """Log e of each run after each tick: (runs, ticks, J) and (J,) give (runs, ticks)."""
    runs, ticks, _ = growth.shape
    log_m, drip, result = np.tile(opening(stakes), (runs, 1)), Drip(), np.empty((runs, ticks))
    for tick in range(ticks):
        entering = drip.entered(tick + 1) - drip.entered(tick)
        log_m = grown(log_m, growth[:, tick], stakes, entering)
        result[:, tick] = log_sum(log_m)
    return result


def delays(log_e: Floats, counts: Floats, alpha: float) -> Floats:
    """The count (runs, ticks) at which each run crosses log(1/alpha); infinite for those that do not."""
    crossed = log_e >= np.log(1.0 / alpha)
    first = crossed.argmax(-1)
    return np.where(crossed.any(-1), np.take_along_axis(counts, first[:, None], -1)[:, 0], np.inf)
