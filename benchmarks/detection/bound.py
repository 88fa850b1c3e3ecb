"""What information theory allows: the expected delay that no test of this alpha can beat.

B = rho·ln(1/alpha) / [rho·KL(Pc‖P) + (1 − rho)·KL(Pp‖P)], P = rho·Pc + (1 − rho)·Pp, in canary requests: the
information in an arm's label, given the value (Wald 1945 for the bound on sequential tests).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def bound(candidate: ArrayLike, production: ArrayLike, share: float, alpha: float) -> float:
    """B for two distributions over the same cells; infinite when they are equal."""
    c, p = np.asarray(candidate, dtype=np.float64), np.asarray(production, dtype=np.float64)
    mixed = share * c + (1.0 - share) * p
    information = share * _divergence(c, mixed) + (1.0 - share) * _divergence(p, mixed)
    return float(share * np.log(1.0 / alpha) / information) if information > 1e-15 else float("inf")


def error_bound(p0: float, p1: float, share: float, alpha: float) -> float:
    """B for error rates."""
    return bound([1.0 - p1, p1], [1.0 - p0, p0], share, alpha)


def latency_bound(ratio: float, sigma: float, share: float, alpha: float) -> float:
    """B for lognormal latencies whose medians differ by `ratio`, not bucketed."""
    shift = np.log(ratio) / sigma
    z = np.linspace(-9.0, 9.0 + shift, 20_001)
    c, p = np.exp(-0.5 * (z - shift) ** 2), np.exp(-0.5 * z**2)
    return bound(c / c.sum(), p / p.sum(), share, alpha)


def pair_bound(worse: float, better: float, alpha: float) -> float:
    """B, in pairs, when the candidate alone is bad with probability `worse` and the other alone with
    `better`.
    """
    differ = worse + better
    null = [differ / 2.0, differ / 2.0, 1.0 - differ]
    information = _divergence(np.array([worse, better, 1.0 - differ]), np.array(null))
    return float(np.log(1.0 / alpha) / information) if information > 1e-15 else float("inf")


def _divergence(p: np.ndarray, q: np.ndarray) -> float:
    some = p > 0.0
    return float(np.sum(p[some] * np.log(p[some] / q[some])))
