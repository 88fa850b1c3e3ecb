"""Labelled scores of a binary model by score: what ROC curves, calibration and expected performance are
made of.

Exact while there are few distinct scores, then on a grid of log-odds; either way the size is bounded, and
the state depends only on which rows were added, not on their order or sharding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from app.domain import interval
from app.domain import state as states
from app.domain.performance.moments import Floats

EXACT = 4096  # distinct scores kept as they are; beyond, the grid
_STEP = 0.01  # of the grid, in log-odds: neighbouring cells differ by 1 % in odds
_EDGE = 2000  # cells each side of even odds: scores from 2e-9 to 1 − 2e-9; 0 and 1 have their own


@dataclass(frozen=True, slots=True)
class Auc:
    """`resolution` is by how much binning can have moved the value: half the share of pairs that share a
    cell.
    """

    value: float
    low: float
    high: float
    resolution: float


class ScoreCells:
    """Sums of weights by score. Columns: weight and squared weight of positives, then of negatives."""

    __slots__ = ("_keys", "cells", "on_grid")

    def __init__(self) -> None:
        self._keys: Floats = np.empty(0)  # ascending: scores, or whole cell numbers once on the grid
        self.cells: Floats = np.empty((0, 4))
        self.on_grid = False

    def add(self, scores: Floats, positive: Floats, weights: Floats) -> None:
        """Take in a batch of shape (k,): scores within 0..1, labels 1.0 or 0.0, positive weights."""
        squares = weights * weights
        columns = (weights * positive, squares * positive, weights * (1 - positive), squares * (1 - positive))
        self._absorb(_cell_of(scores) if self.on_grid else scores, np.column_stack(columns))

    def merge(self, other: ScoreCells) -> None:
        """Add another's rows."""
        if other.on_grid and not self.on_grid:
            self._go_on_grid()
        self._absorb(
            _cell_of(other._keys) if self.on_grid and not other.on_grid else other._keys, other.cells
        )

    def _absorb(self, keys: Floats, cells: Floats) -> None:
        self._collect(np.concatenate((self._keys, keys)), np.concatenate((self.cells, cells)))
        if not self.on_grid and len(self._keys) > EXACT:
            self._go_on_grid()

    def _go_on_grid(self) -> None:
        self.on_grid = True
        self._collect(_cell_of(self._keys), self.cells)

    def _collect(self, keys: Floats, cells: Floats) -> None:
        self._keys, place = np.unique(keys, return_inverse=True)
        self.cells = np.zeros((len(self._keys), 4))
        np.add.at(self.cells, place, cells)

    @property
    def scores(self) -> Floats:
        """A score for each cell, ascending: itself, or the middle of its grid cell."""
        return _score_of(self._keys) if self.on_grid else self._keys

    def auc(self) -> Auc | None:
        """Area under the ROC curve, ties counted half, with DeLong's interval on the log-odds; None
        without both classes.

        DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988), here over cells, so linear in their
        number; for weighted rows the sums of squares are weighted by w². Where the variance is nil
        (perfect separation) Wilson's interval for as many trials as the smaller class has rows stands in.
        """
        positive, positive2, negative, negative2 = self.cells.T
        p, n = float(positive.sum()), float(negative.sum())
        if p <= 0 or n <= 0:
            return None
        below = (
            np.cumsum(negative) - negative / 2
        ) / n  # for a positive in this cell: share of negatives it beats
        above = (
            1 - (np.cumsum(positive) - positive / 2) / p
        )  # for a negative: share of positives that beat it
        value = float((positive * below).sum() / p)
        p_eff, n_eff = p * p / float(positive2.sum()), n * n / float(negative2.sum())
        variance = 0.0
        for squares, parts, total, size in (
            (positive2, below, p, p_eff),
            (negative2, above, n, n_eff),
        ):
            if size > 1:
                variance += float((squares * (parts - value) ** 2).sum()) / total**2 * size / (size - 1)
        resolution = float((positive * negative).sum()) / (2 * p * n) if self.on_grid else 0.0
        if variance <= 0 or not 0 < value < 1:
            size = min(p_eff, n_eff)
            low, high = interval.wilson(value * size, size)
        else:
            low, high = interval.logit(value, variance)
        return Auc(value, low, high, resolution)

    def state(self) -> states.State:
        """Plain values; `from_state` restores the cells."""
        return {
            "on_grid": self.on_grid,
            "keys": [float(k) for k in self._keys],
            "cells": [float(c) for c in self.cells.ravel()],
        }

    @classmethod
    def from_state(cls, state: states.State) -> Self:
        """The cells of a `state`; `ValueError` when it is none."""
        made = cls()
        keys = states.numbers(state, "keys")
        made._keys = np.array(keys, dtype=np.float64)
        made.cells = np.array(states.numbers(state, "cells", 4 * len(keys)), dtype=np.float64).reshape(-1, 4)
        made.on_grid = state.get("on_grid") is True
        if len(keys) > 1 and not bool((np.diff(made._keys) > 0).all()):
            raise ValueError("state field 'keys' does not ascend")
        return made


def _cell_of(scores: Floats) -> Floats:
    with np.errstate(divide="ignore"):
        odds = np.log(scores) - np.log1p(-scores)
    return np.where(
        scores <= 0,
        -_EDGE - 1.0,
        np.where(scores >= 1, _EDGE + 1.0, np.clip(np.rint(odds / _STEP), -_EDGE, _EDGE)),
    )


def _score_of(cells: Floats) -> Floats:
    inner = 1 / (1 + np.exp(-np.clip(cells, -_EDGE, _EDGE) * _STEP))
    return np.where(cells < -_EDGE, 0.0, np.where(cells > _EDGE, 1.0, inner))
