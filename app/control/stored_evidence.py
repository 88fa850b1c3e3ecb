"""The evidence that only the store has: what a shadow answered beside production, and labels that came later.

Reads spans of time that nothing is added to any more, each once, and a bounded number of rows of it: what comes
later, or is more, is no data. Never waited for by a look at a rollout.
"""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import NamedTuple

from app.control.clock import Clock
from app.control.evidence import ReadUntil, TrialEvidence, label_kinds
from app.control.ports import Row, Store
from app.control.rollouts import Trial
from app.domain.comparison import compare
from app.domain.evidence.engine import LabelBatch
from app.domain.evidence.labelling import Answered, Answers, label_batch
from app.domain.evidence.shadow import ShadowPair
from app.domain.model import Model

SETTLE_S = 2.0  # from an answer to its row in the store, as a rule
MAX_ROWS = 5_000  # of one kind in one reading; the newest
PATIENCE_S = 10.0
TWO_ARMS = frozenset({"labels", "label_loss", "label_order"})


class _Read(NamedTuple):
    """What one reading found, by the question it answers: one row a request, however many its body had."""

    until: ReadUntil
    shadowed: Sequence[Row] = ()
    mirrored: Sequence[Row] = ()
    labelled_shadowed: Sequence[Row] = ()
    labelled_mirrored: Sequence[Row] = ()
    labelled: Sequence[Row] = ()


class StoredEvidence:
    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def gather(self, model: Model, trial: Trial) -> None:
        """Read on where the last reading ended; `UnavailableError` or `TimeoutError` leaves that where it was."""
        evidence, rollout = trial.evidence, trial.rollout
        async with asyncio.timeout(PATIENCE_S):
            found = await self._read(model, evidence, rollout.id, rollout.candidate, rollout.production)
        pairs, own, labels = await asyncio.to_thread(
            _told, model, found, rollout.candidate, rollout.production
        )
        evidence.add_stored(found.until, pairs, own, labels)

    async def _read(
        self, model: Model, evidence: TrialEvidence, rollout: str, candidate: str, production: str
    ) -> _Read:
        until = _settled(model, evidence.read_until, self._clock.now().timestamp(), candidate, production)
        metrics = evidence.config.metrics
        found = _Read(until)
        seen = evidence.read_until

        async def pairs(version: str, since: float, to: float, *, labelled: bool) -> list[Row]:
            rows = await self._store.rollout_pairs(
                rollout, model.name, version, _time(since), _time(to), MAX_ROWS, labelled=labelled
            )
            return list(_one_a_request(rows))

        if until.answers > seen.answers and any(metric.startswith("shadow") for metric in metrics):
            span = seen.answers, until.answers
            found = found._replace(shadowed=await pairs(candidate, *span, labelled=False))
            if "shadow_severity" in metrics:
                found = found._replace(mirrored=await pairs(production, *span, labelled=False))
        if until.labels > seen.labels and label_kinds(model):
            span = seen.labels, until.labels
            rows = await self._store.rollout_labels(
                rollout, model.name, _time(span[0]), _time(span[1]), MAX_ROWS
            )
            labelled, full = list(_one_a_request(rows)), len(rows) >= MAX_ROWS
            if TWO_ARMS.intersection(metrics) and labelled and not (full or _enough(labelled, span)):
                return found._replace(until=replace(until, labels=seen.labels))
            found = found._replace(
                labelled=labelled,
                labelled_shadowed=await pairs(candidate, *span, labelled=True),
                labelled_mirrored=await pairs(production, *span, labelled=True),
            )
        return found


def _settled(model: Model, seen: ReadUntil, now: float, candidate: str, production: str) -> ReadUntil:
    """Up to when everything that was asked has been answered or given up, and labels are mature. Cut where a slow
    answer could still come, slow answers would be missing from every reading.
    """
    versions = [v for v in model.versions if v.name in (candidate, production)]
    slowest = max((v.timeout_s for v in versions), default=0.0) + model.shadow.timeout_s
    answers = now - slowest - SETTLE_S
    labels = min(answers, now - model.labels.horizon_s)
    return ReadUntil(max(seen.answers, answers), max(seen.labels, labels))


def _enough(rows: Sequence[Row], span: tuple[float, float]) -> bool:
    """Whether a comparison of two arms can tell anything: about one label of the smaller arm. Decided by counts and
    time alone, never by who was right.
    """
    if span[1] - span[0] > 3600.0:
        return True
    expected = sum(0.0001 * row["canary_percent"] * (100.0 - row["canary_percent"]) for row in rows)
    split = any(0.0 < row["canary_percent"] < 100.0 for row in rows)
    return expected >= 1.0 or not split


def _told(
    model: Model, found: _Read, candidate: str, production: str
) -> tuple[list[ShadowPair], list[float], list[LabelBatch]]:
    threshold = model.shadow.agreement_threshold
    patience_ms = 1000.0 * model.shadow.timeout_s
    pairs = []
    for row in found.shadowed:
        if row["production_version"] == production:
            # A copy has less time than a request: what production took longer for is no failure of the copy.
            failed = row["status"] >= 500 or row["latency_ms"] >= patience_ms
            pairs.append(ShadowPair(failed, row["shadow_status"] >= 500, _difference(row, threshold)))
    own = []
    for row in found.mirrored:
        apart = _difference(row, threshold)
        if row["production_version"] == candidate and apart is not None:
            pairs.append(ShadowPair(False, False, -apart))  # the candidate was first
        elif row["production_version"] == production:
            own.append(math.nan if apart is None else apart)
    return pairs, own, list(_labels(model, found, candidate, production))


def _labels(model: Model, found: _Read, candidate: str, production: str) -> Iterator[LabelBatch]:
    kinds, task = label_kinds(model), model.task
    both = Answers(
        shadowed=[
            (_second(row), _first(row))
            for row in found.labelled_shadowed
            if row["production_version"] == production
        ],
        mirrored=[
            (_first(row), _second(row))
            for row in found.labelled_mirrored
            if row["production_version"] == candidate
        ],
    )
    if both.shadowed or both.mirrored:
        yield label_batch("", 0, both, task, kinds)
    arms: dict[float, tuple[list[Answered], list[Answered]]] = defaultdict(lambda: ([], []))
    for row in found.labelled:
        if row["model_version"] in (candidate, production):
            arms[row["canary_percent"]][row["model_version"] == production].append(_first(row))
    for answered in arms.values():
        yield label_batch("", 0, Answers(candidate=answered[0], production=answered[1]), task, kinds)


def _first(row: Row) -> Answered:
    return Answered(row["prediction"], row["confidence"], row["ground_truth"])


def _second(row: Row) -> Answered:
    return Answered(row["shadow_prediction"], row["shadow_confidence"], row["ground_truth"])


def _difference(row: Row, threshold: float) -> float | None:
    """Second answer less first; infinite where they differ without a number, None where there is nothing to compare."""
    if not (200 <= row["status"] < 400 and 200 <= row["shadow_status"] < 400):
        return None
    found = compare(row["prediction"], row["shadow_prediction"], threshold)
    if found.difference is not None or found.agreement is None:
        return found.difference
    return 0.0 if found.agreement else math.inf


def _one_a_request(rows: Iterable[Row]) -> Iterator[Row]:
    """One row of each body of several. Its rows fail together, and are hard or easy together: a vote each would count
    one body's luck as often as it has rows (the design effect of a cluster sample: Kish, Survey Sampling, 1965).
    """
    seen = set()
    for row in rows:
        request = (row["prediction_id"].partition(":")[0], row["role"])
        if request not in seen:
            seen.add(request)
            yield row


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
