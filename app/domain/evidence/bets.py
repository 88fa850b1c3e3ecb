"""What one batch makes of each bet: the arithmetic of the evidence, and the grids it is done on.

Every function takes counts and gives log growth, one figure a bet; leading axes broadcast, so a simulation of
a thousand rollouts runs through the very code that decides about one. Nothing here keeps state.

Null hypothesis throughout: within a batch, which answers came from the candidate says nothing about how bad
they are. A batch therefore cancels whatever both arms share: an incident, a busy hour, another percentage.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

ODDS = (1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0)  # how many times likelier a bad event may be
IMMEDIATE_ODDS = (30.0, 100.0)  # of bets at the known share, which need no company: see `immediate_growth`
TILTS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)  # shifts of the whole distribution, in standard normal scores
TAILS = (0.9, 0.99, 0.999)  # quantiles of production beyond which a tail bet pays
TAIL_WEIGHTS = (2.0, 5.0, 20.0)


def label_factors(weight: ArrayLike, share: ArrayLike) -> tuple[Floats, Floats]:
    """What a stake becomes by one observation of weight w > 0, by the arm it came from: (candidate,
    production).

    A bet on the arm's label: with share rho of the candidate, `rho·candidate + (1 − rho)·production = 1`
    whatever w is, so the stake neither grows nor shrinks on average when the label is a coin flip.
    """
    w, rho = np.asarray(weight, dtype=np.float64), np.asarray(share, dtype=np.float64)
    production = 1.0 / (rho * w + (1.0 - rho))
    return w * production, production


def bucket_growth(candidate: ArrayLike, production: ArrayLike, log_weights: ArrayLike) -> Floats:
    """Log growth of label bets on bucketed values. Shapes (…, K), (…, K), (…, J, K) give (…, J).

    The share is the realised one of the batch. Mean at most 1 under the null for any weights when the values
    of a batch are drawn alike: with a, b the means of the two factors, `rho·a + (1 − rho)·b = 1` and so
    `a^rho·b^(1−rho) ≤ 1`. For weights that are all ≥ 1 exchangeable labels are enough (negative association).
    """
    c, p = np.asarray(candidate, dtype=np.float64), np.asarray(production, dtype=np.float64)
    log_w = np.asarray(log_weights, dtype=np.float64)
    n_c, both = c.sum(-1), c + p
    share = (n_c / np.maximum(both.sum(-1), 1.0))[..., None, None]
    share_of_bucket = np.log(share * np.exp(log_w) + (1.0 - share))  # (…, J, K)
    growth: Floats = np.einsum("...k,...jk->...j", c, log_w) - np.einsum(
        "...k,...jk->...j", both, share_of_bucket
    )
    return growth


def binary_growth(
    candidate: ArrayLike, candidate_bad: ArrayLike, production: ArrayLike, production_bad: ArrayLike,
    odds: ArrayLike = ODDS, margin: float = 1.0,
) -> Floats:  # fmt: skip
    """Log growth of bets that a bad event is `odds` times likelier in the candidate. Four (…) and (J,) give
    (…, J).

    The product of label factors, `r^x / (rho·r + 1 − rho)^s` for x of the s bad events on the candidate,
    bounds its own mean over exchangeable labels from above (Hoeffding 1963, section 6). Here the mean itself
    stands below the line, that of the hypergeometric distribution of x: exact, hence never worse, and much
    better when bad events are common. Odds are multiplied by `margin`, and the null is then an odds ratio of
    at most `margin` (Fisher's noncentral hypergeometric distribution): `(r/m)^x·H(m)/H(r)`, mean at most 1
    for every odds ratio ≤ m.
    """
    n, x = np.asarray(candidate, dtype=np.float64), np.asarray(candidate_bad, dtype=np.float64)
    total, bad = (
        n + np.asarray(production, dtype=np.float64),
        x + np.asarray(production_bad, dtype=np.float64),
    )
    log_null = np.log(margin)
    log_odds = np.log(np.asarray(odds, dtype=np.float64)) + log_null
    means = _log_hypergeometric_means(n, bad, total, np.append(log_odds, log_null))
    growth: Floats = x[..., None] * (log_odds - log_null) - means[..., :-1] + means[..., -1:]
    return growth


def immediate_growth(
    candidate_bad: ArrayLike, production_bad: ArrayLike, share: ArrayLike, margin: float = 1.0
) -> Floats:
    """Log growth of label bets on bad events at a share that is known beforehand. Three (…) give (…, J).

    Only where requests are assigned one by one, each by chance: then the share is the configured one,
    whatever was realised, and a single request can be bet on. `(r/m)·(rho·m + 1 − rho)/(rho·r + 1 − rho)` for
    a bad event of the candidate, without r/m for one of production. Fewer canary requests than configured
    only cost evidence.
    """
    x, y = np.asarray(candidate_bad, dtype=np.float64), np.asarray(production_bad, dtype=np.float64)
    rho = np.asarray(share, dtype=np.float64)[..., None]
    odds = np.asarray(IMMEDIATE_ODDS) * margin
    drag = np.log(rho * margin + 1.0 - rho) - np.log(rho * odds + 1.0 - rho)
    growth: Floats = x[..., None] * np.log(odds / margin) + (x + y)[..., None] * drag
    return growth


def _log_hypergeometric_means(drawn: Floats, bad: Floats, total: Floats, log_odds: Floats) -> Floats:
    """log E[r^X] for X bad ones of `drawn`, out of `total` with `bad` bad ones. (…), (J,) give (…, J)."""
    low = np.maximum(drawn - (total - bad), 0.0)
    high = np.minimum(drawn, bad)
    steps = np.arange(int(np.max(high - low, initial=0.0)))
    x = low[..., None] + steps
    with np.errstate(divide="ignore"):
        rises = np.log(np.maximum((bad[..., None] - x) * (drawn[..., None] - x), 0.0))
    falls = np.log((x + 1.0) * np.maximum((total - bad - drawn)[..., None] + x + 1.0, 1.0))
    ratios = np.where(x < high[..., None], rises - falls, -np.inf)
    log_mass = np.concatenate([np.zeros((*low.shape, 1)), np.cumsum(ratios, axis=-1)], axis=-1)
    log_mass -= log_sum(log_mass)[..., None]
    values = np.concatenate([x, x[..., -1:] + 1.0], axis=-1) if len(steps) else low[..., None]
    return log_sum(log_mass[..., None, :] + log_odds[:, None] * values[..., None, :])


def floor_growth(bad: ArrayLike, n: ArrayLike, floor: float, odds: ArrayLike = ODDS) -> Floats:
    """Log growth of bets against "bad events have probability at most `floor`", one sample. (…), (…) give (…,
    J).

    Odds that would make the alternative a probability above 1 are cut to the largest possible one.
    """
    worse = np.minimum(np.asarray(odds, dtype=np.float64) * floor, 0.5 * (1.0 + floor))
    hit, miss = np.log(worse / floor), np.log((1.0 - worse) / (1.0 - floor))
    x, total = np.asarray(bad, dtype=np.float64)[..., None], np.asarray(n, dtype=np.float64)[..., None]
    growth: Floats = x * hit + (total - x) * miss
    return growth


def reference_weights(reference: ArrayLike) -> tuple[Floats, Floats]:
    """Bets on larger values, made from production's histogram (K,): log weights (J, K) and stakes (J,) that
    sum to 1.

    Half of the stake is on shifts, `exp(δz − δ²/2)` with z the normal score of the bucket's middle rank; half
    on tails, weight r beyond a quantile.
    """
    counts = np.asarray(reference, dtype=np.float64) + 1e-9
    total = float(counts.sum()) + 1.0
    ranks = (np.cumsum(counts) - 0.5 * counts + 0.5) / total
    normal = NormalDist()
    z = np.array([normal.inv_cdf(min(max(u, 0.5 / total), 1.0 - 0.5 / total)) for u in ranks.tolist()])
    shifts = [d * z - 0.5 * d * d for d in TILTS]
    tails = [np.where(ranks >= q, np.log(r), 0.0) for q in TAILS for r in TAIL_WEIGHTS]
    return np.array(shifts + tails), REFERENCE_STAKES


REFERENCE_STAKES: Floats = np.array(
    [0.5 / len(TILTS)] * len(TILTS)
    + [0.5 / (len(TAILS) * len(TAIL_WEIGHTS))] * (len(TAILS) * len(TAIL_WEIGHTS))
)
EVEN_STAKES: Floats = np.full(len(ODDS), 1.0 / len(ODDS))
# Twelve parts: one for each of the odds, then those of the immediate bets, more on the larger.
ERROR_STAKES: Floats = np.array([1.0] * len(ODDS) + [1.0, 2.0]) / (len(ODDS) + 3.0)


def log_sum(values: Floats) -> Floats:
    """log Σ exp over the last axis, without overflow; -inf for a sum of zeros."""
    top = np.max(values, axis=-1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        total: Floats = np.log(np.exp(values - top).sum(-1)) + top[..., 0]
    return total
