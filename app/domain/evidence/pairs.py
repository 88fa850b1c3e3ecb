"""One input answered by both versions: bets on which of the two did worse, free of what the input itself
does.

A key that always fails or is always slow fails and is slow on both sides, so pairs need no random assignment.
What they do need is the order effect: production called second on the same input is faster by its warm
caches, or slower. It is measured on pairs of production with itself (A/A) and becomes the margin. Latency is
not bet on before: of servers that answer within a millisecond the second call may take half as long.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from app.domain.evidence.bets import Floats
from app.domain.evidence.tick import LEAST_MS

SIDES = (0.55, 0.65, 0.75, 0.9)  # probability that the candidate is the worse of two that differ
LAMBDAS = (0.1, 0.2, 0.4, 0.8, 0.95)  # part of the stake put on a pair
SIDE_STAKES: Floats = np.full(len(SIDES), 1.0 / len(SIDES))
SCORE_STAKES: Floats = np.full(2 * len(LAMBDAS), 0.5 / len(LAMBDAS))
LEAST_US = int(LEAST_MS * 1000)  # shorter latencies count as this one
CLIP = 0.5  # |log ratio| from which a pair counts fully
ENOUGH = 50  # A/A pairs, for a first margin; it is wide then, and narrows with each further pair
SURE = 3.72  # standard errors: one-sided 1e-4


class Pair(Protocol):
    """One pair as a worker reports it. `version` is the first one's; production there means A/A."""

    @property
    def version(self) -> str: ...
    @property
    def error(self) -> bool: ...
    @property
    def control_error(self) -> bool: ...
    @property
    def latency_us(self) -> int: ...
    @property
    def control_latency_us(self) -> int: ...


@dataclass(frozen=True, slots=True)
class PairBatch:
    """One replica's pairs of one tick."""

    replica: str
    tick: int
    pairs: Sequence[Pair]


def log_ratio(pair: Pair) -> float | None:
    """Log of first over second latency; None when either failed, since a refusal is no fast answer.

    Below `LEAST_US` there is no difference: a tenth of a millisecond on half a one is a fifth, and nobody's concern.
    """
    if pair.error or pair.control_error or pair.latency_us <= 0 or pair.control_latency_us <= 0:
        return None
    return math.log(max(pair.latency_us, LEAST_US) / max(pair.control_latency_us, LEAST_US))


def side_growth(worse: ArrayLike, better: ArrayLike, null: float = 0.5) -> Floats:
    """Log growth of sign bets: counts (…) of pairs where only the candidate, or only the other, was bad; (…,
    J).

    `2θ` and `2(1 − θ)` at null 0.5. With a null above that, as an order effect makes it, each side keeps its
    distance.
    """
    sides = null + (np.asarray(SIDES) - 0.5) * (1.0 - null) / 0.5
    w, b = np.asarray(worse, dtype=np.float64)[..., None], np.asarray(better, dtype=np.float64)[..., None]
    growth: Floats = w * np.log(sides / null) + b * np.log((1.0 - sides) / (1.0 - null))
    return growth


def score_growth(differences: ArrayLike, margin_of_sign: float = 0.0, margin_of_size: float = 0.0) -> Floats:
    """Log growth of `Π(1 + λ·g)` over pairs, larger is worse for the candidate. (…, N) gives (…, 2·L); NaN is
    no pair.

    g is the sign of d − margin, then its size as a part of `CLIP`, at most 1: mean at most 0 under the null.
    """
    d = np.asarray(differences, dtype=np.float64)
    lambdas = np.asarray(LAMBDAS)
    sign = np.nan_to_num(np.sign(d - margin_of_sign))
    size = np.nan_to_num(np.clip((d - margin_of_size) / CLIP, -1.0, 1.0))
    grown = [np.log1p(lambdas * g[..., None]).sum(-2) for g in (sign, size)]
    return np.concatenate(grown, axis=-1)


@dataclass(slots=True)
class OrderEffect:
    """What pairs of production with itself show: constant memory, log ratios in bins of 0.01."""

    bins: dict[int, int] = field(default_factory=dict)
    first_only: int = 0  # errors of the first call alone
    second_only: int = 0

    def add(self, pair: Pair) -> None:
        """Take in one A/A pair."""
        self.first_only += pair.error and not pair.control_error
        self.second_only += pair.control_error and not pair.error
        d = log_ratio(pair)
        if d is not None:
            index = round(100.0 * min(max(d, -3.0), 3.0))
            self.bins[index] = self.bins.get(index, 0) + 1

    @property
    def pairs(self) -> int:
        """How many latency pairs are known."""
        return sum(self.bins.values())

    def latency_margins(self) -> tuple[float, float] | None:
        """Margins of log latency for the sign and for the size bet; None before `ENOUGH` A/A pairs are known.

        Each is the smallest shift at which production against itself would, surely enough, not win the bet:
        the mean score plus `SURE` standard errors is not above 0.
        """
        if self.pairs < ENOUGH:
            return None
        d = np.array(sorted(self.bins)) / 100.0
        n = np.array([self.bins[i] for i in sorted(self.bins)], dtype=np.float64)
        shifts = np.arange(-1.0, 3.001, 0.01)

        def margin(scores: Floats) -> float:  # (shifts, bins)
            mean = scores @ n / n.sum()
            deviation = np.sqrt(np.maximum((scores**2) @ n / n.sum() - mean**2, 0.0) / n.sum())
            fair = np.nonzero(mean + SURE * deviation <= 0.0)[0]
            return float(shifts[fair[0]]) if len(fair) else float(shifts[-1])

        distance = d[None, :] - shifts[:, None]
        return margin(np.sign(np.round(distance, 3))), margin(np.clip(distance / CLIP, -1.0, 1.0))

    def error_side(self) -> float:
        """How often, of the A/A pairs with one error, it was the first call's: 0.5 unless the pairs surely
        show more.
        """
        n = self.first_only + self.second_only
        part = self.first_only / n if n else 0.5
        error = math.sqrt(0.25 / n) if n else 0.0
        return min(part + 2.0 * error, 0.95) if part - SURE * error > 0.5 else 0.5

    def state(self) -> dict[str, object]:
        """For storing."""
        return {
            "bins": {str(k): v for k, v in self.bins.items()},
            "errors": [self.first_only, self.second_only],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, object]) -> OrderEffect:
        """Read back what `state` gave."""
        bins, errors = state["bins"], state["errors"]
        if not isinstance(bins, Mapping) or not isinstance(errors, Sequence):
            raise ValueError("order effect: bins must be a mapping, errors a list")
        return cls({int(k): int(v) for k, v in bins.items()}, int(errors[0]), int(errors[1]))
