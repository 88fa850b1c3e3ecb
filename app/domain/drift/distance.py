"""Distances between two distributions of numbers that are counted on the same edges.

On edges at the reference's fine quantiles the Kolmogorov-Smirnov distance is known to within one bin's
share, from below, so its test stays on the safe side.
"""

from __future__ import annotations

from math import sqrt

import numpy as np

from app.domain.drift.psi import Floats, effective_rows


def kolmogorov_smirnov(reference: Floats, live: Floats) -> float:
    """Largest distance between the two distribution functions at the edges; counts of shape (bins,),
    neither empty.
    """
    apart = np.cumsum(reference) / reference.sum() - np.cumsum(live) / live.sum()
    return float(abs(apart).max())


def kolmogorov_smirnov_exceeds(distance: float, n: float, m: float, tolerance: float) -> float:
    """P(a distance as large) when the true one is `tolerance`; an upper bound for a tolerance above 0.

    Kolmogorov's limit distribution for the part beyond the tolerance: by the triangle inequality the
    distance of the samples is at most the true one plus those of the samples from their own
    distributions.
    """
    from scipy.special import kolmogorov

    return float(kolmogorov(sqrt(effective_rows(n, m)) * max(0.0, distance - tolerance)))


def kolmogorov_smirnov_critical(p: float, n: float, m: float, tolerance: float) -> float:
    """The distance that is exceeded with probability p."""
    from scipy.special import kolmogi

    n_eff = effective_rows(n, m)
    return float(kolmogi(p)) / sqrt(n_eff) + tolerance if n_eff > 0 else float("inf")


def wasserstein(edges: Floats, reference: Floats, live: Floats, below: float, above: float) -> float:
    """Earth mover's distance, the area between the two distribution functions, in the numbers' own unit.

    `edges` (e,) ascend from the reference's smallest to its largest number; counts are of shape (e + 1,).
    Between edges the functions are taken as straight; `below` and `above` are the mean distances by which
    live numbers lie beyond the ends (mean of max(0, e₀ − x) and of max(0, x − e₋₁)), which are exact.
    """
    f = (np.cumsum(reference) / reference.sum())[:-1]
    g = (np.cumsum(live) / live.sum())[:-1]
    apart = f - g
    left, right, width = apart[:-1], apart[1:], np.diff(edges)
    same_side = left * right >= 0
    total = abs(left) + abs(right)
    # Where the functions cross within a bin the area is that of two triangles.
    crossed = (left**2 + right**2) / np.where(total > 0, 2 * total, 1.0)
    return float((width * np.where(same_side, total / 2, crossed)).sum()) + below + above
