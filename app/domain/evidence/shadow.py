"""Shadow pairs: bets on how a shadow's answers differ from production's on the same requests.

A difference alone does not say who is right: only failures, labels, and differences too large to be an
improvement speak against a candidate. Without labels nothing here claims that a candidate is less accurate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import ArrayLike

from app.domain.evidence.bets import Floats, floor_growth
from app.domain.evidence.pairs import LAMBDAS, side_growth

EPSILON = 0.005  # part of the answers that may differ severely
SEVERE_ODDS = (2.0, 5.0, 20.0)
ENOUGH_OWN = 100  # requests that production answered twice
_SURE = 2.33  # standard errors: one-sided 1 %
SHIFT_STAKES: Floats = np.full(2 * len(LAMBDAS), 0.5 / len(LAMBDAS))


@dataclass(frozen=True, slots=True)
class ShadowPair:
    """One request answered by production and by the shadow.

    Differences are shadow − production; infinite where two answers differ and no number says how far; None: not
    comparable.
    """

    production_error: bool
    shadow_error: bool
    difference: float | None = None


@dataclass(frozen=True, slots=True)
class Severity:
    """Steps of severity: |difference| above `thresholds[i]` is accepted in `parts[i]` of the answers."""

    thresholds: tuple[float, ...] = ()
    parts: tuple[float, ...] = ()

    @classmethod
    def of(cls, agreement_threshold: float) -> Severity:
        """Steps of 4, 8 and 16 agreement thresholds, each accepted in `EPSILON` of the answers."""
        return cls(tuple(agreement_threshold * k for k in (4.0, 8.0, 16.0)), (EPSILON,) * 3)


class OwnNoise:
    """How often production's two answers to one request differ severely: constant memory. Only what goes beyond
    that is the candidate's.
    """

    __slots__ = ("beyond", "n", "severity")

    def __init__(self, severity: Severity, n: int = 0, beyond: Sequence[int] | None = None) -> None:
        self.severity = severity
        self.n = n
        self.beyond = [0] * len(severity.thresholds) if beyond is None else list(beyond)

    def add(self, own: Sequence[float]) -> None:
        """Take in differences of production from itself; NaN: not comparable."""
        d = np.abs(np.asarray(own, dtype=np.float64))
        d = d[~np.isnan(d)]
        self.n += len(d)
        self.beyond = [
            k + int(np.sum(d > t)) for k, t in zip(self.beyond, self.severity.thresholds, strict=True)
        ]

    def accepted(self, *, measured: bool) -> Severity | None:
        """The steps with what production itself surely shows added to the accepted parts (Wilson's upper bound).

        None while `measured` noise is not known well enough to bet against.
        """
        if not measured:
            return self.severity
        if self.n < ENOUGH_OWN:
            return None
        parts = [
            min(part + _upper(k, self.n), 0.5)
            for k, part in zip(self.beyond, self.severity.parts, strict=True)
        ]
        return Severity(self.severity.thresholds, tuple(parts))

    def state(self) -> dict[str, object]:
        """For storing; the steps are configuration."""
        return {"n": self.n, "beyond": self.beyond}

    @classmethod
    def from_state(cls, state: Mapping[str, object], severity: Severity) -> OwnNoise:
        """Read back what `state` gave; `ValueError` when it does not fit."""
        n, beyond = state["n"], state["beyond"]
        if not isinstance(n, int) or not isinstance(beyond, list) or len(beyond) != len(severity.thresholds):
            raise ValueError("noise: a count, and one for each step")
        return cls(severity, n, [int(k) for k in beyond])


def _upper(k: int, n: int) -> float:
    """Wilson's upper bound of a part."""
    p, z2 = k / n, _SURE * _SURE
    return (p + z2 / (2 * n) + _SURE * sqrt(p * (1.0 - p) / n + z2 / (4.0 * n * n))) / (1.0 + z2 / n)


def severity_stakes(severity: Severity) -> Floats:
    """Even stakes over steps × odds."""
    n = len(severity.thresholds) * len(SEVERE_ODDS)
    return np.full(n, 1.0 / n)


def severity_growth(differences: ArrayLike, severity: Severity) -> Floats:
    """Log growth of bets that severe differences are commoner than accepted.

    (N,) gives (steps × odds,); NaN: no pair.
    """
    d = np.abs(np.asarray(differences, dtype=np.float64))
    d = d[~np.isnan(d)]
    steps = [
        floor_growth(np.sum(d > threshold), len(d), part, SEVERE_ODDS)
        for threshold, part in zip(severity.thresholds, severity.parts, strict=True)
    ]
    return np.concatenate(steps) if steps else np.zeros(0)


def failure_growth(pairs: Sequence[ShadowPair]) -> Floats:
    """Log growth of bets that the shadow fails where production does not, more often than the other way
    round.
    """
    worse = sum(p.shadow_error and not p.production_error for p in pairs)
    better = sum(p.production_error and not p.shadow_error for p in pairs)
    return side_growth(worse, better)


def direction_growth(differences: ArrayLike, tolerance: float) -> tuple[Floats, Floats]:
    """Log growth of bets that disagreements go mostly up, or mostly down.

    (N,) gives (J,) for either direction.
    """
    d = np.asarray(differences, dtype=np.float64)
    up, down = float(np.sum(d > tolerance)), float(np.sum(d < -tolerance))
    return side_growth(up, down), side_growth(down, up)


def shift_growth(differences: ArrayLike) -> Floats:
    """Log growth of `Π(1 ± λ·d)`, d clipped to [−1, 1]: the mean answer has moved.

    (N,) gives (2·L,), up then down.
    """
    d = np.nan_to_num(np.clip(np.asarray(differences, dtype=np.float64), -1.0, 1.0))
    lambdas = np.asarray(LAMBDAS)
    up, down = (np.log1p(sign * lambdas * d[:, None]).sum(0) for sign in (1.0, -1.0))
    return np.concatenate([up, down])
