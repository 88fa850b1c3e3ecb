"""Which predictions people should label: ranked, thinned, and drawn with a known probability.

Labels that were picked for being uncertain are a biased sample. So every item carries its propensity, the
probability with which this draw picked it, and a share of each draw is random: then weighting by
1/propensity gives unbiased figures for the pool the draw was made from. Chance and time are arguments; a
selection never labels anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import floor, isfinite
from random import Random

STRATEGIES = ("uncertainty", "margin", "novelty", "disagreement", "random")
DEFAULT_MIXTURE: Mapping[str, float] = {
    "uncertainty": 0.5,
    "disagreement": 0.2,
    "novelty": 0.1,
    "random": 0.2,
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """An unlabelled prediction. Scores grow with the worth of a label; None where unknown, which ranks last.

    `fingerprint` is equal for near-duplicates (see `fingerprint`); empty for an item that is like no other.
    """

    prediction_id: str
    uncertainty: float | None = None
    margin: float | None = None  # closeness of the two best classes
    novelty: float | None = None
    disagreement: float | None = None
    fingerprint: str = ""

    def score(self, strategy: str) -> float | None:
        """The score that a strategy ranks by; None for `random`, for an unknown score and for one that is
        not finite.
        """
        match strategy:
            case "uncertainty":
                value = self.uncertainty
            case "margin":
                value = self.margin
            case "novelty":
                value = self.novelty
            case "disagreement":
                value = self.disagreement
            case _:
                value = None
        return value if value is not None and isfinite(value) else None


@dataclass(frozen=True, slots=True)
class ReviewItem:
    """A picked prediction: the strategy that ranks it highest, that score, and the probability of the
    pick.
    """

    prediction_id: str
    strategy: str
    score: float | None
    propensity: float
    duplicates: int  # pool members with the same fingerprint, itself included


@dataclass(frozen=True, slots=True)
class Selection:
    """The items, best first. `pool` is the number of candidates that the propensities refer to."""

    items: tuple[ReviewItem, ...]
    pool: int
    reason: str


# ---- scores


def least_confidence(confidence: float | None, probabilities: Sequence[float] = ()) -> float | None:
    """1 − the probability of the predicted class, 0 (sure) to 1; None when neither is known.

    `probabilities` (of all classes) go before `confidence`, which must be the predicted class's own.
    """
    if probabilities:
        return _unit(1.0 - max(probabilities))
    return None if confidence is None else _unit(1.0 - confidence)


def binary_uncertainty(probability: float | None) -> float | None:
    """2·min(p, 1−p) of the positive class's probability: 1 at 0.5, 0 at the ends."""
    return None if probability is None else _unit(2.0 * min(probability, 1.0 - probability))


def _unit(value: float) -> float | None:
    return min(1.0, max(0.0, value)) if isfinite(value) else None


def fingerprint(features: Mapping[str, float | str | bool | None], scale: Mapping[str, float]) -> str:
    """Equal for rows that fall into the same cell: numbers in steps of `scale` (say half a standard
    deviation).

    A number without a positive scale, and anything that is no number, must be equal as it stands.
    """
    cells = []
    for name in sorted(features):
        value = features[name]
        step = scale.get(name, 0.0)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and step > 0 and isfinite(value):
            cells.append(f"{name}={floor(value / step)}")
        else:
            cells.append(f"{name}={value!r}")
    return "\x1f".join(cells)


# ---- weights


def representing(propensities: Mapping[str, float], total: float) -> dict[str, float]:
    """The weight of each picked item: 1/propensity, scaled so that all weights add up to the `total` number
    of items that the draws were made from (Hájek, 1971). `ValueError` for a propensity outside 0 < p <= 1.

    Draws from overlapping pools would otherwise count the same items several times.
    """
    for key, propensity in propensities.items():
        if not 0 < propensity <= 1:
            raise ValueError(f"the propensity of {key} is {propensity}")
    share = sum(1.0 / propensity for propensity in propensities.values())
    return {key: total / (share * propensity) for key, propensity in propensities.items()}


def pool(
    scores: Mapping[str, float | None], certain: Iterable[str], ranked: int, even: int, chance: Random
) -> dict[str, float]:
    """Which items a draw is made from, each with the probability with which it came to be among them.

    The `ranked` best-scored and those of `certain` (if they are known) are there with probability 1; of all
    others `even` are drawn evenly. So a pool of bounded size still stands for everything.
    """
    scored = sorted(((s, key) for key, s in scores.items() if s is not None), reverse=True)
    sure = {key for _, key in scored[:ranked]} | {key for key in certain if key in scores}
    others = [key for key in scores if key not in sure]
    drawn = chance.sample(others, min(even, len(others)))
    return dict.fromkeys(sure, 1.0) | dict.fromkeys(drawn, len(drawn) / max(1, len(others)))


# ---- selection


def rank(pool: Sequence[Candidate], strategy: str) -> list[Candidate]:
    """The candidates that have a score for the strategy, best first; ties by id, newest first (ids carry
    their time).
    """
    scored = [(score, c) for c in pool if (score := c.score(strategy)) is not None]
    return [c for _, c in sorted(scored, key=lambda pair: (pair[0], pair[1].prediction_id), reverse=True)]


def select(
    pool: Sequence[Candidate], budget: int, chance: Random, mixture: Mapping[str, float] = DEFAULT_MIXTURE
) -> Selection:
    """Draw `budget` items (or the whole pool, if smaller) by a mixture of strategies.

    `mixture` gives each strategy's share of the budget; shares are made to add up to 1. A strategy spends
    its share on its best-ranked items, `random` spreads its share evenly over the pool, and what a
    strategy cannot spend (too few items with a score, overlap with another) goes to the even spread.
    Near-duplicates are thinned first: one member of each cell, drawn at random, stands for its cell.

    The propensity is that of this draw from this pool: weight by its inverse within one draw, and combine
    draws as strata. With a positive share of `random` no propensity is 0, so the whole pool is
    represented; without it, only the top is.
    """
    shares = _shares(mixture)
    cells = _cells(pool)
    representatives = [chance.choice(cell) for cell in cells]
    sizes = {c.prediction_id: len(cell) for c, cell in zip(representatives, cells, strict=True)}
    if budget <= 0 or not representatives:
        return Selection((), len(pool), "nothing to review" if not representatives else "no budget left")
    inclusion, origin = _inclusion(representatives, min(budget, len(representatives)), shares)
    drawn = _systematic(inclusion, chance)
    items = [
        ReviewItem(
            prediction_id=representatives[i].prediction_id,
            strategy=origin[i],
            score=representatives[i].score(origin[i]),
            propensity=inclusion[i] / sizes[representatives[i].prediction_id],
            duplicates=sizes[representatives[i].prediction_id],
        )
        for i in drawn
    ]
    places = {name: place for place, name in enumerate(STRATEGIES)}
    items.sort(key=lambda item: (places[item.strategy], -(item.score or 0.0), item.prediction_id))
    thinned = len(pool) - len(representatives)
    reason = f"{len(items)} of {len(pool)} candidates" + (
        f", {thinned} near-duplicates thinned" if thinned else ""
    )
    return Selection(tuple(items), len(pool), reason)


def _shares(mixture: Mapping[str, float]) -> dict[str, float]:
    unknown = sorted(set(mixture) - set(STRATEGIES))
    if unknown:
        raise ValueError(f"strategy {unknown[0]!r} is none of {', '.join(STRATEGIES)}")
    if (
        any(not (isfinite(share) and share >= 0) for share in mixture.values())
        or not sum(mixture.values()) > 0
    ):
        raise ValueError("the shares of a mixture must be finite, not negative, and not all zero")
    total = sum(mixture.values())
    return {name: mixture[name] / total for name in STRATEGIES if mixture.get(name, 0.0) > 0}


def _cells(pool: Sequence[Candidate]) -> list[list[Candidate]]:
    cells: dict[str, list[Candidate]] = {}
    for candidate in pool:
        # An empty fingerprint stands alone; the id cannot collide with a fingerprint, which holds a "=".
        cells.setdefault(candidate.fingerprint or candidate.prediction_id, []).append(candidate)
    return list(cells.values())


def _inclusion(
    pool: Sequence[Candidate], budget: int, shares: Mapping[str, float]
) -> tuple[list[float], list[str]]:
    """Each candidate's inclusion probability, adding up to the budget (as far as the mixture allows), and
    its strategy.
    """
    place = {c.prediction_id: i for i, c in enumerate(pool)}
    chosen = [0.0] * len(pool)
    origin = ["random"] * len(pool)
    even = shares.get("random", 0.0) * budget
    for strategy, share in shares.items():
        if strategy == "random":
            continue
        left = share * budget
        for candidate in rank(pool, strategy):
            if left <= 1e-12:
                break
            i = place[candidate.prediction_id]
            step = min(1.0 - chosen[i], left)
            if step > 0:
                if chosen[i] == 0.0:
                    origin[i] = strategy
                chosen[i] += step
                left -= step
        even += left
    return _spread(chosen, even), origin


def _spread(chosen: list[float], extra: float) -> list[float]:
    """Add `extra` evenly to all that are below 1; exact because the room is used up from the fullest item
    on.
    """
    filled = list(chosen)
    order = sorted((i for i in range(len(filled)) if filled[i] < 1.0), key=lambda i: filled[i], reverse=True)
    for rank_, i in enumerate(order):
        step = min(extra / (len(order) - rank_), 1.0 - filled[i])
        filled[i] += step
        extra -= step
    return filled


def _systematic(inclusion: Sequence[float], chance: Random) -> list[int]:
    """Draw a sample of fixed size with exactly these inclusion probabilities (systematic sampling, Madow
    1949).

    The order is shuffled first, so that neighbours in the pool are not tied to each other.
    """
    order = list(range(len(inclusion)))
    chance.shuffle(order)
    threshold = chance.random()
    total = 0.0
    drawn = []
    for i in order:
        if inclusion[i] >= 1.0 - 1e-12:
            drawn.append(i)
            continue
        total += inclusion[i]
        if total > threshold:
            drawn.append(i)
            threshold += 1.0
    return drawn
