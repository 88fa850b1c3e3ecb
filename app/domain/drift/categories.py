"""A test of two samples of categories: Pearson's χ², with rare categories pooled and unseen ones in a bin
of their own.

What the reference has never seen it has, by construction, counted zero times, while a fresh sample of a
feature with many categories always brings a few. So the unseen bin is held against the reference rows
whose category occurs only once: left out one at a time, these are the rows that were unseen (Good and
Turing; Good, Biometrika 40, 1953).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from app.domain.drift.psi import Floats, effective_rows, psi

MIN_EXPECTED = 5.0  # of a cell, in the smaller sample; rarer categories are pooled


@dataclass(frozen=True, slots=True)
class Contingency:
    """Counts by bin after pooling, shape (bins,) each; the last names are `(rare)` and `(unseen)` where
    there are any.
    """

    names: tuple[str, ...]
    reference: Floats
    live: Floats

    @property
    def divergence(self) -> float:
        """Pearson's χ² over n_eff: a divergence like PSI, to which it is equal for small changes."""
        n, m = float(self.live.sum()), float(self.reference.sum())
        pooled = (self.reference + self.live) / (n + m)
        p, q = self.reference / m, self.live / n
        return float(((q - p) ** 2 / pooled).sum())

    @property
    def psi(self) -> float:
        """The PSI of the bins."""
        return psi(self.reference, self.live)

    @property
    def effective_rows(self) -> float:
        """nm/(n + m)."""
        return effective_rows(float(self.live.sum()), float(self.reference.sum()))


def contingency(
    reference: Mapping[str, int], live: Mapping[str, int], unseen: int, rest: int = 0
) -> Contingency:
    """The table to test. `live` counts known categories only, `unseen` all others.

    `rest` is the number of reference rows whose category is not listed, when the reference kept only the
    most frequent; then what is not listed cannot be told from the unseen, and both are held against it.
    """
    single = sum(count for count in reference.values() if count == 1)
    known = {name: count for name, count in reference.items() if count > 1}
    m = sum(known.values()) + single + rest
    n = sum(live.values()) + unseen
    need = MIN_EXPECTED / (min(n, m) / (n + m)) if n and m else 0.0
    names, left, right = [], [], []
    rare_reference = rare_live = 0
    for name in sorted(reference):
        count, seen = known.get(name, 0), live.get(name, 0)
        if count + seen >= need:
            names.append(name)
            left.append(count)
            right.append(seen)
        else:
            rare_reference += count
            rare_live += seen
    tail = {"(rare)": (rare_reference, rare_live), "(unseen)": (single + rest, unseen)}
    if 0 < sum(tail["(unseen)"]) < need:  # too few to stand alone
        tail = {"(rare)": (rare_reference + single + rest, rare_live + unseen)}
    for name, (count, seen) in tail.items():
        if count + seen:
            names.append(name)
            left.append(count)
            right.append(seen)
    return Contingency(tuple(names), np.array(left, dtype=np.float64), np.array(right, dtype=np.float64))
