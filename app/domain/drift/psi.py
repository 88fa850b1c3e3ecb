"""The population stability index, and a threshold for it that knows how many rows it rests on.

PSI = Σ(q − p)·ln(q/p) over bins. Without drift, n_eff·PSI is about χ² with B − 1 degrees of freedom,
n_eff = nm/(n + m) for n live and m reference rows (Yurdakul and Naranjo, Journal of Risk Model Validation
14, 2020). So a fixed threshold fires by chance on small samples and is blind on large ones. Here the null
hypothesis is PSI ≤ tolerance: under it n_eff·PSI is at most about non-central χ² with non-centrality
n_eff·tolerance, which gives p-value and threshold.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

TOLERANCE = 0.02  # a PSI that no one needs to hear of


def psi(reference: Floats, live: Floats) -> float:
    """The PSI of two arrays of counts of shape (bins,), each bin smoothed by half a row."""
    p = (reference + 0.5) / (reference.sum() + 0.5 * len(reference))
    q = (live + 0.5) / (live.sum() + 0.5 * len(live))
    return float(((q - p) * np.log(q / p)).sum())


def effective_rows(n: float, m: float) -> float:
    """nm/(n + m): how much two samples can tell about a difference between them."""
    return n * m / (n + m) if n + m else 0.0


def exceeds(statistic: float, bins: int, n_eff: float, tolerance: float) -> float:
    """P(a χ²-like statistic of `bins` bins ≥ n_eff·`statistic`) when the true divergence is `tolerance`;
    1 for one bin.
    """
    from scipy.special import chdtrc, chndtr

    if bins < 2:
        return 1.0
    scaled = n_eff * statistic
    if tolerance == 0:
        return float(chdtrc(bins - 1, scaled))
    return max(0.0, 1.0 - float(chndtr(scaled, bins - 1, n_eff * tolerance)))


def critical(p: float, bins: int, n_eff: float, tolerance: float) -> float:
    """The statistic that is exceeded with probability p at the tolerance: the threshold of a test at
    level p.
    """
    from scipy.special import chdtri, chndtrix

    if bins < 2 or n_eff <= 0:
        return float("inf")
    scaled = chdtri(bins - 1, p) if tolerance == 0 else chndtrix(1.0 - p, bins - 1, n_eff * tolerance)
    return float(scaled) / n_eff
