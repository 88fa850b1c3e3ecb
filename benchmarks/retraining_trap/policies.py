"""When to retrain, and on what: one run of one policy in one world, with scikit-learn's logistic regression.

The decisions are the gateway's own (`app.domain.retraining`), the weights those of its training-set export.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression

from app.domain.drift.psi import critical, effective_rows, psi
from app.domain.recency import weight
from app.domain.retraining import evaluate_retraining_need
from benchmarks.retraining_trap.worlds import FIRST_MODEL, WEEKS, Floats, Week, horizon, propensity

WHEN = ("calendar", "drift", "performance", "combined")
WHAT = ("append", "recent only", "recency 47 d", "recency", "weighted", "all labels")
DEFAULT_HALF_LIFE = 47.0 / 7.0  # weeks; the gateway's own when nothing else is said
CALENDAR = 4  # weeks; also the cool-down of the other policies
WINDOW = 4  # weeks that drift and performance are read from
RECENT = 8  # weeks of "recent only"
BINS = 10


class Model:
    """A fitted logistic regression; `probability` of shape (k,) for rows (k, 4)."""

    def __init__(self, rows: Floats, truth: Floats, weights: Floats | None = None) -> None:
        fitted = LogisticRegression(C=10.0, solver="newton-cholesky").fit(rows, truth, sample_weight=weights)
        self._slopes, self._offset = fitted.coef_[0], fitted.intercept_[0]

    def probability(self, rows: Floats) -> Floats:
        return np.clip(1 / (1 + np.exp(-(rows @ self._slopes + self._offset))), 1e-6, 1 - 1e-6)


def regret(
    world: str, weeks: Sequence[Week], when: str, what: str, half_life_weeks: float
) -> tuple[float, int]:
    """Mean Kullback-Leibler divergence (nats) of the live model from the truth over all weeks that it answered, and how often
    it was retrained.
    """
    model = Model(
        *(np.concatenate([getattr(w, name) for w in weeks[:FIRST_MODEL]]) for name in ("rows", "truth"))
    )
    known = [np.ones(len(w.truth)) for w in weeks[:FIRST_MODEL]]  # the propensity of each row's label
    baseline = _accuracy(model, weeks[:FIRST_MODEL], known, FIRST_MODEL, horizon(world))
    reference = np.concatenate([w.rows for w in weeks[:FIRST_MODEL]])
    losses, trained, last = [], 0, FIRST_MODEL
    for now in range(FIRST_MODEL, WEEKS):
        week = weeks[now]
        p, q = week.holdout_p, model.probability(week.holdout)
        losses.append(float((p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean()))
        known.append(propensity(world, model.probability(week.rows)))
        if when == "never" or now + 1 - last < CALENDAR:
            continue
        if when == "calendar" or _called_for(
            when, model, weeks[: now + 1], known, baseline, reference, horizon(world)
        ):
            data = _training_set(weeks[: now + 1], known, what, half_life_weeks, horizon(world))
            if data is not None:
                model, last, trained = Model(*data), now + 1, trained + 1
                reference = np.concatenate([w.rows for w in weeks[max(0, now + 1 - FIRST_MODEL) : now + 1]])
    return float(np.mean(losses)), trained


def _called_for(
    when: str,
    model: Model,
    weeks: Sequence[Week],
    known: Sequence[Floats],
    baseline: float,
    reference: Floats,
    mature: int,
) -> bool:
    if when == "performance":
        return _current(model, weeks, known, mature) < baseline * 0.95
    live = np.concatenate([w.rows for w in weeks[-WINDOW:]])
    severity = max(_psi(reference[:, i], live[:, i]) for i in range(live.shape[1]))
    n_eff = effective_rows(len(live), len(reference))
    drifted = severity > critical(0.05 / live.shape[1], BINS, n_eff, 0.02)
    if when == "drift":
        return drifted
    current = _current(model, weeks, known, mature)
    return evaluate_retraining_need(
        drifted, severity, current, baseline, performance_alone=True
    ).should_retrain


def _current(model: Model, weeks: Sequence[Week], known: Sequence[Floats], mature: int) -> float:
    return _accuracy(model, weeks[-WINDOW - mature :], known[-WINDOW - mature :], WINDOW + mature, mature)


def _psi(reference: Floats, live: Floats) -> float:
    edges = np.quantile(reference, np.arange(1, BINS) / BINS)
    return psi(
        *(
            np.bincount(np.searchsorted(edges, v), minlength=BINS).astype(np.float64)
            for v in (reference, live)
        )
    )


def _accuracy(model: Model, weeks: Sequence[Week], known: Sequence[Floats], now: int, mature: int) -> float:
    """Over mature labels, weighted by the inverse of their propensity."""
    right, total = 0.0, 0.0
    for week, share in list(zip(weeks, known, strict=True))[: max(1, now - mature)]:
        weights = (week.chance < share) / share
        right += float(weights @ ((model.probability(week.rows) >= 0.5) == (week.truth == 1)))
        total += float(weights.sum())
    return right / total if total else float("nan")


def _training_set(
    weeks: Sequence[Week], known: Sequence[Floats], what: str, half_life_weeks: float, mature: int
) -> tuple[Floats, Floats, Floats] | None:
    """Rows, labels and weights. `append`: all labels that are known by now, alike. `recent only`: of the last weeks.
    `recency`: all, recent ones more. `weighted`: of mature weeks only, recency × inverse propensity. `all labels`: as
    `recency`, but with the label of every row at once, which nobody has: what is left is not the labels' fault.
    """
    now = len(weeks)
    half_life = DEFAULT_HALF_LIFE if what == "recency 47 d" else half_life_weeks
    parts = []
    for number, (week, share) in enumerate(zip(weeks, known, strict=True)):
        age = now - number
        if what == "recent only" and age > RECENT:
            continue
        recency = 1.0 if what in ("append", "recent only") else weight(7.0 * age, 7.0 * half_life)
        weights = np.full(len(share), recency)
        match what:
            case "all labels":
                held = np.ones(len(share), dtype=bool)
            case "weighted":
                held = (week.chance < share) & (age >= mature)
                weights = weights / share
            case _:
                held = (week.chance < share) & (week.delay <= age)
        parts.append((week.rows[held], week.truth[held], weights[held]))
    rows, truth, weights = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return (rows, truth, weights) if 0 < truth.sum() < len(truth) else None
