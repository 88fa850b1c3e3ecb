"""Which predictions people should label next, leased to whoever asks; a label given becomes an outcome
like any other.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from random import SystemRandom
from statistics import pstdev
from typing import Any

from app.control import label_studio, novelty
from app.control.clock import Clock
from app.control.outcomes import OutcomeIntake, Receipt
from app.control.ports import Row, Store
from app.control.registry import Registry
from app.domain.model import Model
from app.domain.prediction import split_row
from app.domain.review import (
    STRATEGIES,
    Candidate,
    ReviewItem,
    binary_uncertainty,
    fingerprint,
    least_confidence,
    pool,
    select,
)
from app.errors import ConflictError, InvalidError, NotFoundError

FREE = 20_000  # newest predictions without a label that a draw stands for
RANKED = 1000  # of these, the most uncertain ones that it is made from,
EVEN = 1000  # and as many of the others
REFERENCE = 2000  # labelled rows that novelty is measured against
PAIRS = 2000  # newest comparisons with each shadow
DAY = timedelta(days=1)
SOURCE = "review"


class ReviewDesk:
    def __init__(self, registry: Registry, store: Store, outcomes: OutcomeIntake, clock: Clock) -> None:
        self._registry = registry
        self._store = store
        self._outcomes = outcomes
        self._clock = clock
        self._chance = SystemRandom()
        # One draw at a time: two reviewers who ask together each get a whole list, and neither passes the budget.
        self._drawing = asyncio.Lock()

    async def draw(self, model: str, strategies: Sequence[str], limit: int, reviewer: str) -> Row:
        """Items worth a label, best first, leased to the reviewer. An unknown strategy is an
        `InvalidError`.
        """
        known = self._registry.model(model)
        unknown = [name for name in strategies if name not in STRATEGIES]
        if unknown:
            raise InvalidError(f"strategy: {unknown[0][:50]!r} is none of {', '.join(STRATEGIES)}")
        async with self._drawing:
            return await self._draw(known, strategies, limit, reviewer)

    async def _draw(self, model: Model, strategies: Sequence[str], limit: int, reviewer: str) -> Row:
        budget = await self._budget(model)
        rows, shares, candidates = await self._pool(model, strategies)
        mixture = {name: 1.0 / len(strategies) for name in strategies}
        granted = limit if budget is None else min(limit, budget)
        selection = select(candidates, granted, self._chance, mixture)
        items = [
            replace(item, propensity=item.propensity * shares[item.prediction_id]) for item in selection.items
        ]
        now = self._clock.now()
        leased = _leased(model.name, items, reviewer, now + timedelta(seconds=model.review.lease_s))
        # Without a random share only the best ranked could be picked: their labels stand for nothing else,
        # and no propensity is kept that would say otherwise.
        fair = "random" in strategies
        # Another control process may have leased one of them meanwhile: it is theirs.
        ours = await self._store.put_reviews(
            [row if fair else {**row, "propensity": None} for row in leased], now
        )
        shown = [{**rows[item["prediction_id"]], **item} for item in leased if item["prediction_id"] in ours]
        return {
            "model": model.name,
            "items": shown,
            "pool": selection.pool,
            "reason": selection.reason,
            "budget_left": None if budget is None else max(0, budget - len(shown)),
        }

    async def _budget(self, model: Model) -> int | None:
        """How many more labels may be asked for; None when that is not limited."""
        limit = model.review.daily_budget
        if limit is None:
            return None
        now = self._clock.now()
        return max(0, limit - await self._store.reviews_taken(model.name, now - DAY, now))

    async def _pool(
        self, model: Model, strategies: Sequence[str]
    ) -> tuple[dict[str, Row], dict[str, float], list[Candidate]]:
        """The rows to draw from, the probability with which each came to be among them, and their scores."""
        versions = [version.name for version in model.versions]
        free = {
            str(row["prediction_id"]): row
            for row in await self._store.unlabelled(model.name, versions, FREE, self._clock.now())
        }
        apart = await self._disagreements(model) if "disagreement" in strategies else {}
        furthest = sorted(apart, key=lambda key: apart[key], reverse=True)[:RANKED]
        uncertain = {key: _uncertainty(model, row) for key, row in free.items()}
        shares = pool(uncertain, furthest, RANKED, EVEN, self._chance)
        rows = {str(row["prediction_id"]): row for row in await self._store.offered(list(shares))}
        novel: list[float | None] = [None] * len(rows)
        if "novelty" in strategies:
            # What has labels is what a model can be trained on: unlike that is new.
            known = await self._store.labelled(model.name, None, None, None, REFERENCE)
            novel = await asyncio.to_thread(novelty.scores, _features(known), _features(rows.values()))
        scale = _scale(_features(rows.values()), model.review.near_duplicate)
        candidates = [
            _candidate(model, row, apart.get(key), score, scale)
            for (key, row), score in zip(rows.items(), novel, strict=True)
        ]
        return rows, shares, candidates

    async def _disagreements(self, model: Model) -> dict[str, float]:
        """By prediction: how far the furthest shadow's answer lies away; 1 for another class."""
        furthest: dict[str, float] = {}
        for version in model.versions:
            for pair in await self._store.shadow_pairs(model.name, version.name, None, PAIRS):
                if pair["agreement"] is None or pair["production_version"] == version.name:
                    continue
                far = (
                    abs(pair["difference"])
                    if pair["difference"] is not None
                    else float(not pair["agreement"])
                )
                key = str(pair["prediction_id"])
                furthest[key] = max(far, furthest.get(key, 0.0))
        return furthest

    async def take_in(self, model: str, export: Any, reviewer: str) -> Row:
        """The labels of a Label Studio export, each as `label` takes one; what is wrong with one does not keep the others
        out.
        """
        self._registry.model(model)
        accepted, duplicates = 0, 0
        rejected: list[dict[str, str]] = []
        for prediction_id, value in label_studio.labels(export):
            try:
                if isinstance(value, InvalidError):
                    raise value
                await self.label(model, prediction_id, value, reviewer)
                accepted += 1
            except ConflictError:
                duplicates += 1
            except (InvalidError, NotFoundError) as error:
                rejected.append({"prediction_id": prediction_id[:100], "reason": str(error)})
        return {"accepted": accepted, "duplicates": duplicates, "rejected": rejected}

    async def label(self, model: str, prediction_id: str, label: Any, reviewer: str) -> Row:
        """Take a reviewer's label in as an outcome. `InvalidError` for a label the model cannot have; 409
        for one given before.
        """
        self._registry.model(model)
        try:
            split_row(prediction_id)
        except ValueError as error:
            raise InvalidError(str(error)) from None
        prediction = await self._store.prediction(prediction_id.lower())
        if prediction is None or prediction["model"] != model:
            raise NotFoundError(f"{prediction_id[:50]!r} is no stored prediction of {model!r}")
        found = str(prediction["prediction_id"])
        receipt = Receipt()
        outcome = {"prediction_id": found, "ground_truth": label, "source": SOURCE, "model": model}
        await self._outcomes.take([outcome], 0, reviewer, receipt)
        if receipt.rejected:
            raise InvalidError(receipt.rejected[0]["reason"])
        done = await self._store.finish_review(
            found, float(label) if type(label) is int else label, reviewer, self._clock.now()
        )
        if not done and receipt.duplicates:
            raise ConflictError(f"{found} has this label already")
        return {"prediction_id": found, "label": label, "review_finished": done}


def _uncertainty(model: Model, row: Mapping[str, Any]) -> float | None:
    confidence, prediction = row["confidence"], row["prediction"]
    if confidence is None and model.task == "binary" and isinstance(prediction, float):
        return binary_uncertainty(prediction)
    return least_confidence(confidence)


def _candidate(
    model: Model, row: Mapping[str, Any], apart: float | None, novel: float | None, scale: Mapping[str, float]
) -> Candidate:
    confidence = row["confidence"]
    # Of two classes the second best has what the best lacks: the margin follows from the confidence.
    margin = 1.0 - abs(2.0 * confidence - 1.0) if confidence is not None and model.task == "binary" else None
    features = row["features"] or {}
    alike = fingerprint(features, scale) if features else ""
    return Candidate(str(row["prediction_id"]), _uncertainty(model, row), margin, novel, apart, alike)


def _features(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [row["features"] or {} for row in rows]


def _scale(rows: Sequence[Mapping[str, Any]], deviations: float) -> dict[str, float]:
    """The size of a cell for each number: rows that fall into the same cells are near-duplicates."""
    values: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        for name, value in row.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                values[name].append(float(value))
    return {name: pstdev(known) * deviations for name, known in values.items() if len(known) > 1}


def _leased(model: str, items: Sequence[ReviewItem], reviewer: str, until: Any) -> list[Row]:
    return [
        {
            "prediction_id": item.prediction_id,
            "model": model,
            "strategy": item.strategy,
            "score": item.score,
            "propensity": item.propensity,
            "leased_until": until,
            "leased_by": reviewer,
        }
        for item in items
    ]
