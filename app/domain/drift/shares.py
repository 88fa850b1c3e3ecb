"""Exact tests of findings about single rows: did a kind of row become more frequent than the reference
explains?

All rest on exchangeability alone: without change, any n of the n + m rows could have been the live ones.
"""

from __future__ import annotations

from math import exp, log


def more_often(live: int, n: int, reference: int, m: int) -> float:
    """P(at least `live` of all such rows fall among the n live ones), hypergeometric (Fisher, one-sided)."""
    from scipy.stats import hypergeom

    if live == 0 or n == 0:
        return 1.0
    return float(hypergeom.sf(live - 1, n + m, live + reference, n))


def all_live(rows: int, n: int, m: int) -> float:
    """P(`rows` given rows are all among the n live ones of n + m): C(n, rows)/C(n + m, rows).

    For the `rows` largest numbers it is the chance that so many live numbers exceed all of the reference;
    for the rows of one new category, that the reference missed them all.
    """
    if rows > n:
        raise ValueError(f"{rows} of {n} live rows")
    return exp(
        sum(log(n - i) - log(n + m - i) for i in range(min(rows, 5000)))
    )  # further factors only shrink it
