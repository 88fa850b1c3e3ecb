"""Label bets: is the candidate less often right, by outcomes that are mature in both arms?

Takes what was labelled, at the same age in both arms; it never guesses what was not. Whether answers are
right at all is a yes or no, like errors: `bets.binary_growth` on two arms. In shadow both versions answered
the same request, which needs far fewer labels than two separate groups: use `pairs.side_growth` on the pairs
where one of the two is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from app.domain.evidence.bets import Floats, bucket_growth, reference_weights
from app.domain.evidence.pairs import LAMBDAS

ENOUGH_LOSSES = 200  # of production, to make the loss ladder from
LOSS_BUCKETS = 32
SCORE_STAKES: Floats = np.full(len(LAMBDAS), 1.0 / len(LAMBDAS))


def brier(probability: float, positive: bool) -> float:
    """Squared error of a probability."""
    return (probability - positive) ** 2


def log_loss(probability: float, positive: bool, tiny: float = 1e-6) -> float:
    """−log of the probability given to what happened, cut at −log(tiny)."""
    p = probability if positive else 1.0 - probability
    return float(-np.log(min(max(p, tiny), 1.0)))


@dataclass(frozen=True, slots=True)
class LossLadder:
    """Buckets of a loss, cut at production's quantiles, and the bets on them. Frozen once made."""

    edges: tuple[float, ...]  # rising
    counts: tuple[float, ...]  # of production when it was made, one more than edges
    log_weights: Floats

    @classmethod
    def of(cls, production_losses: ArrayLike) -> LossLadder:
        """From at least `ENOUGH_LOSSES` losses, which then count no more; `ValueError` for fewer."""
        losses = np.asarray(production_losses, dtype=np.float64)
        if len(losses) < ENOUGH_LOSSES:
            raise ValueError(f"{len(losses)} losses; {ENOUGH_LOSSES} are needed for a ladder")
        edges = np.unique(np.quantile(losses, np.arange(1, LOSS_BUCKETS) / LOSS_BUCKETS))
        return cls.from_counts(edges, _counts(edges, losses))

    @classmethod
    def from_counts(cls, edges: ArrayLike, counts: ArrayLike) -> LossLadder:
        """From edges (K − 1,) and production's counts (K,)."""
        log_weights, _ = reference_weights(counts)
        known = tuple(np.asarray(counts, dtype=np.float64).tolist())
        return cls(tuple(np.asarray(edges, dtype=np.float64).tolist()), known, log_weights)

    def growth(self, candidate: ArrayLike, production: ArrayLike) -> Floats:
        """Log growth of bets that the candidate's losses are larger, whichever loss they are."""
        c, p = _counts(self.edges, candidate), _counts(self.edges, production)
        return bucket_growth(c, p, self.log_weights)


def _counts(edges: ArrayLike, losses: ArrayLike) -> Floats:
    ends = np.asarray(edges, dtype=np.float64)
    place = np.searchsorted(ends, np.asarray(losses, dtype=np.float64), "left")
    return np.bincount(place, minlength=len(ends) + 1).astype(np.float64)


def misordered(positives: Sequence[float], negatives: Sequence[float]) -> tuple[int, int]:
    """Disjoint (positive, negative) pairs of one arm in the order given: (pairs, those scored in the wrong
    order).

    1 − AUC is the probability of a wrong order; disjoint pairs are independent, all pairs are not. Ties are
    wrong.
    """
    n = min(len(positives), len(negatives))
    return n, sum(p <= q for p, q in zip(positives[:n], negatives[:n], strict=True))


@dataclass(frozen=True, slots=True)
class Confusion:
    """Counts of one arm's answers to a binary task; true negatives tell F1 nothing."""

    true_positives: int = 0
    false_positives: int = 0
    false_negatives: int = 0


def f1_growth(counts: Confusion, goal: float) -> Floats:
    """Log growth of bets that F1 is below `goal`, one sample.

    F1 ≥ f exactly when the mean of `2·TP − f·(2·TP + FP + FN)` is ≥ 0: a linear score, so `Π(1 + λ·g)` with g
    its negative, scaled into [−1, 1], has mean at most 1 while the goal is met.
    """
    hit, miss = -(2.0 - 2.0 * goal), goal
    scale = max(-hit, miss)
    lambdas = np.asarray(LAMBDAS)
    wrong = counts.false_positives + counts.false_negatives
    growth: Floats = counts.true_positives * np.log1p(lambdas * hit / scale)
    growth += wrong * np.log1p(lambdas * miss / scale)
    return growth


class LossScale:
    """Bets that the candidate's mean loss on the same requests is larger: `Π(1 + λ·d/s)`, |d| cut at s.

    Only means are compared, never which of two losses is larger: a model that is less sure and better calibrated
    has the larger loss on most requests and the smaller one in the mean. s is given where losses have an end;
    else it is four times production's mean loss, as far as that was known before.
    """

    __slots__ = ("fixed", "n", "total")

    def __init__(self, fixed: float = 0.0, n: int = 0, total: float = 0.0) -> None:
        self.fixed = fixed  # 0: from production's losses
        self.n = n
        self.total = total

    def add(self, production: Sequence[float]) -> None:
        """Take in production's losses of a tick, after the tick was bet on."""
        self.n += len(production)
        self.total += float(sum(production))

    def growth(self, losses: Sequence[tuple[float, float]]) -> Floats | float:
        """Log growth by pairs (candidate's, production's loss), (L,); 0 while the scale is not known."""
        scale = self.fixed or (4.0 * self.total / self.n if self.n >= ENOUGH_LOSSES else 0.0)
        if scale <= 0.0 or not losses:
            return 0.0
        both = np.asarray(losses, dtype=np.float64)
        g = np.clip((both[:, 0] - both[:, 1]) / scale, -1.0, 1.0)
        growth: Floats = np.log1p(np.asarray(LAMBDAS) * g[:, None]).sum(0)
        return growth

    def state(self) -> dict[str, float]:
        """For storing; what is fixed is configuration."""
        return {"n": self.n, "total": self.total}

    @classmethod
    def from_state(cls, state: Mapping[str, float], fixed: float) -> LossScale:
        """Read back what `state` gave."""
        return cls(fixed, int(state["n"]), float(state["total"]))
