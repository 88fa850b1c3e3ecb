"""Weeks of labelled rows from worlds that change in different ways; the true probability of each row is known.

Four features, a binary label. A world may also say when a label comes, and with which probability there is one at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

WEEKS = 52
FIRST_MODEL = 20  # weeks that the first model learns from; it is live from then on
ROWS = 200  # a week
SCORED = 400  # fresh rows a week on which regret is measured
WORLDS = (
    "steady",
    "transient incident",
    "broken feature",
    "immature labels",
    "selective labels",
    "season",
    "concept drift",
)


@dataclass(frozen=True, slots=True)
class Week:
    """`rows` and `holdout` of shape (n, 4), all others (n,). `delay` in weeks until a label is known."""

    rows: Floats
    truth: Floats  # 0.0 or 1.0
    delay: Floats
    chance: Floats  # uniform; a label exists when it lies below the row's propensity
    holdout: Floats
    holdout_p: Floats


def horizon(world: str) -> int:
    """Weeks after which labels are mature."""
    return 4 if world == "immature labels" else 1


def propensity(world: str, probability: Floats) -> Floats:
    """With which probability a row is labelled: in one world mostly where the live model is unsure. Never so seldom that a
    row's weight passes the bound that the gateway's export puts on it.
    """
    if world != "selective labels":
        return np.ones(len(probability))
    return np.where(np.abs(probability - 0.5) < 0.2, 0.9, 0.1)


def weeks(world: str, seed: int) -> list[Week]:
    """All weeks of a world; the same seed gives the same."""
    chance = np.random.default_rng([WORLDS.index(world), seed])
    made = []
    for week in range(WEEKS):
        rows, p = _drawn(world, week, chance, ROWS)
        holdout, holdout_p = _drawn(world, week, chance, SCORED)
        truth = (chance.random(ROWS) < p).astype(np.float64)
        delay = np.ones(ROWS)
        if world == "immature labels":  # positives are known early, a negative when nothing has come
            delay = np.where(truth == 1, np.minimum(chance.exponential(1.0, ROWS), 4.0), 4.0)
        made.append(Week(rows, truth, delay, chance.random(ROWS), holdout, holdout_p))
    return made


def _drawn(world: str, week: int, chance: np.random.Generator, count: int) -> tuple[Floats, Floats]:
    rows = chance.normal(size=(count, 4))
    x, y, z, _ = rows.T
    logit = 1.5 * x - 1.0 * y + 0.5 * z - 1.0
    match world:
        case "transient incident" if 24 <= week < 28:  # for a month the labels mean something else
            logit = -1.5 * x + 1.0 * y + 1.0
        case "broken feature" if 24 <= week < 30:  # the label is as before, the input is not
            rows = rows.copy()
            rows[:, 0] = 0.0
        case "selective labels":
            # The world turns when the first model goes live, so that what was labelled without choice before is of no more
            # use; and no straight line fits, so that which rows are labelled decides where the next model is right.
            turn = 1.0 if week < FIRST_MODEL else -1.0
            logit = 1.2 * x - turn * y + 1.0 * x * y + 0.7 * x * x - 1.0
        case "season":  # half a year, back and forth
            logit = (1.0 + 1.5 * np.cos(2 * np.pi * week / 26)) * x - 1.0 * y + 0.5 * z - 1.0
        case "concept drift":
            turn = np.pi / 2 * np.clip((week - FIRST_MODEL) / 24, 0.0, 1.0)
            logit = 1.8 * (np.cos(turn) * x - np.sin(turn) * y) + 0.5 * z - 1.0
    return rows, 1 / (1 + np.exp(-logit))
