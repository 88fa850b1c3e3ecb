"""Many tests at one false-alarm rate, whatever their dependence: Benjamini and Yekutieli (Annals of
Statistics 29, 2001).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log

_EULER = 0.5772156649015329


def harmonic(n: int) -> float:
    """1 + 1/2 + … + 1/n."""
    return sum(1 / i for i in range(1, n + 1)) if n < 1000 else log(n) + _EULER + 1 / (2 * n)


def cutoff(p_values: Sequence[float], rate: float, planned: int = 0) -> float:
    """The p-value up to which to reject, so that the false discovery rate is at most `rate`.

    `planned` is the number of tests of the whole day, when more are to come. Those to come count as p =
    1, so later tests can only add rejections: what was rejected stays so, and the rate holds for the day
    however often one looks. Without any drift the false discovery rate is the probability of any alarm at
    all.
    """
    tests = max(planned, len(p_values))
    if tests == 0:
        return 0.0
    step = rate / (tests * harmonic(tests))
    rejected = 0
    for rank, p in enumerate(sorted(p_values), start=1):
        if p <= rank * step:
            rejected = rank
    return max(rejected, 1) * step
