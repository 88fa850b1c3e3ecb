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

from app.control import baseline_sample, label_studio
from app.control.clock import Clock
from app.control.novelty import MIN_REFERENCE, Density
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
REFERENCE = 2000  # labelled rows that novelty is measured against where there is no baseline
PAIRS = 2000  # newest comparisons with each shadow
DAY = timedelta(days=1)
SOURCE = "review"


# Why a strategy cannot rank all.
_UNKNOWN = {
    "uncertainty": "the others have no confidence",
    "margin": "of the others no probabilities of all classes are known",
    "novelty": "the others cannot be placed",
    "disagreement": "no shadow answered the others",
}


class ReviewDesk:
    def __init__(self, registry: Registry, store: Store, outcomes: OutcomeIntake, clock: Clock) -> None:
        self._registry = registry
        self._store = store
        self._outcomes = outcomes
        self._clock = clock
        self._chance = SystemRandom()
        # One draw at a time: two reviewers who ask together each get a whole list, and neither passes the budget.
        self._drawing = asyncio.Lock()
        self._densities: dict[str, tuple[int, Density | None]] = {}  # by model, with the baseline's number

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
        density, against = await self._density(model) if "novelty" in strategies else (None, "")
        rows, shares, candidates = await self._pool(model, strategies, density)
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
            "notes": _notes(strategies, candidates, against),
            "budget_left": None if budget is None else max(0, budget - len(shown)),
        }

    async def _budget(self, model: Model) -> int | None:
        """How many more labels may be asked for; None when that is not limited."""
        limit = model.review.daily_budget
        if limit is None:
            return None
        now = self._clock.now()
        return max(0, limit - await self._store.reviews_taken(model.name, now - DAY, now))

    async def _density(self, model: Model) -> tuple[Density | None, str]:
        """What novelty is measured against, and what that is in words: the baseline, or else the labelled rows, as
        what has labels is what a model can be trained on.
        """
        number = await self._store.newest_baseline(model.name)
        baseline = None if number is None else await self._baseline_density(model, number)
        if baseline is not None:
            return baseline, f"measured against {baseline.rows} rows of the baseline"
        lack = "there is no baseline" if number is None else f"the baseline has no {MIN_REFERENCE} rows left"
        labelled = await self._store.labelled(model.name, None, None, None, REFERENCE)
        known = await asyncio.to_thread(Density.fit, _features(labelled))
        if known is not None:
            return known, f"measured against {known.rows} labelled rows, as {lack}"
        return None, (
            f"not known, as {lack} and {len(labelled)} rows are labelled: "
            f"POST a baseline, or wait for {MIN_REFERENCE} labels"
        )

    async def _baseline_density(self, model: Model, number: int) -> Density | None:
        """Fitted once a baseline."""
        held = self._densities.get(model.name)
        if held is None or held[0] != number:
            rows = await baseline_sample.read(self._store, number)
            held = self._densities[model.name] = number, await asyncio.to_thread(Density.fit, rows)
        return held[1]

    async def _pool(
        self, model: Model, strategies: Sequence[str], density: Density | None
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
        facts = {key: row.pop("facts") or {} for key, row in rows.items()}
        novel: list[float | None] = [None] * len(rows)
        if density is not None:
            novel = await asyncio.to_thread(density.scores, _features(rows.values()))
        scale = _scale(_features(rows.values()), model.review.near_duplicate)
        candidates = [
            _candidate(model, row, _margin(model, row, facts[key]), apart.get(key), score, scale)
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


def _margin(model: Model, row: Mapping[str, Any], facts: Mapping[str, Any]) -> float | None:
    """How close the two best classes are, 1 for a tie. Of two classes the second best has what the best lacks,
    so it follows from the confidence; of several it was recorded from their probabilities.
    """
    if model.task == "binary":
        confidence, prediction = row["confidence"], row["prediction"]
        if confidence is None:
            return binary_uncertainty(prediction) if isinstance(prediction, float) else None
        return 1.0 - abs(2.0 * float(confidence) - 1.0)
    lead = facts.get("margin") if model.task == "multiclass" else None
    return 1.0 - float(lead) if isinstance(lead, (int, float)) else None


def _candidate(
    model: Model,
    row: Mapping[str, Any],
    margin: float | None,
    apart: float | None,
    novel: float | None,
    scale: Mapping[str, float],
) -> Candidate:
    features = row["features"] or {}
    alike = fingerprint(features, scale) if features else ""
    return Candidate(str(row["prediction_id"]), _uncertainty(model, row), margin, novel, apart, alike)


def _notes(strategies: Sequence[str], candidates: Sequence[Candidate], against: str) -> dict[str, str]:
    """By strategy: what it cannot rank, and why; what novelty is measured against. Nobody should take chance for
    a choice.
    """
    notes = {}
    for name in strategies:
        said = [against] if name == "novelty" and against else []
        ranked = sum(candidate.score(name) is not None for candidate in candidates)
        if name != "random" and ranked < len(candidates):
            said.append(
                f"{ranked} of {len(candidates)} candidates are ranked, {_UNKNOWN[name]}; "
                "what these do not fill of its share is drawn at random"
            )
        if said:
            notes[name] = "; ".join(said)
    return notes


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
