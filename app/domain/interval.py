"""Ranges that hold a true value in 95 % of samples, without resampling. Standard library only.

Each function names its assumption; which one a figure uses is stated beside the figure.
"""

from __future__ import annotations

from math import exp, log, sqrt

Z95 = 1.959963984540054  # two-sided 95 % point of the standard normal distribution


def wilson(successes: float, n: float, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval for a proportion (JASA 22, 1927), 95 % by default; (0, 1) for n = 0.

    Assumes independent rows. `n` may be an effective sample size, then `successes` is the share times it.
    """
    if n <= 0:
        return 0.0, 1.0
    p, z2 = min(1.0, max(0.0, successes / n)), z * z
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def normal(value: float, variance: float, z: float = Z95) -> tuple[float, float]:
    """value ± z·σ: for means and smooth functions of them in samples that are not small."""
    half = z * sqrt(max(0.0, variance))
    return value - half, value + half


def logit(value: float, variance: float, z: float = Z95) -> tuple[float, float]:
    """A normal interval on the log-odds, for a value strictly between 0 and 1 that is near an end: never
    leaves (0, 1).
    """
    centre = log(value / (1 - value))
    half = z * sqrt(max(0.0, variance)) / (value * (1 - value))
    return _expit(centre - half), _expit(centre + half)


def _expit(x: float) -> float:
    return 1 / (1 + exp(-x)) if x >= 0 else exp(max(x, -700.0)) / (1 + exp(max(x, -700.0)))
