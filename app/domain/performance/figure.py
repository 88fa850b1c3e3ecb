"""One figure: a metric's value, its 95 % interval, what both rest on, or why it is withheld."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite

LOWER_IS_BETTER = frozenset({"log_loss", "brier", "ece", "mae", "rmse", "mape"})


def higher_is_better(metric: str) -> bool:
    """The direction of a metric, as the retraining decision needs it."""
    return metric not in LOWER_IS_BETTER


@dataclass(frozen=True, slots=True)
class Figure:
    """`n` is the (effective) number of rows behind the value; `method` names the interval.

    A withheld figure has a reason.
    """

    name: str
    value: float | None
    low: float | None
    high: float | None
    n: float
    method: str
    reason: str = ""


def figure(name: str, value: float, interval: tuple[float, float], n: float, method: str) -> Figure:
    """A figure that is given; withheld instead when its value is not a finite number."""
    if not isfinite(value):
        return withheld(name, "not a finite number", n)
    low, high = interval
    return Figure(name, value, low if isfinite(low) else None, high if isfinite(high) else None, n, method)


def withheld(name: str, reason: str, n: float = 0.0) -> Figure:
    """A figure that is not given."""
    return Figure(name, None, None, None, n, "", reason)


def with_minimum(figures: Iterable[Figure], labels: int, minimum: int) -> tuple[Figure, ...]:
    """The figures, all withheld when fewer than `minimum` labelled rows stand behind them."""
    if labels >= minimum:
        return tuple(figures)
    reason = f"{labels} labelled rows, {minimum} are needed"
    return tuple(withheld(f.name, reason, f.n) for f in figures)
