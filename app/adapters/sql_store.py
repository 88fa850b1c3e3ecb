"""The store that both databases share. What differs (connections, bulk loading, partitions) stands in `sqlite` and `postgres`."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar

from app.adapters.rows import OUTCOME_COLUMNS, Encoding, Values, encoded
from app.adapters.sql_control import ControlState
from app.adapters.sql_erasure import Erasure
from app.adapters.sql_learning import LearningState
from app.adapters.sql_ledger import LedgerKeeping
from app.adapters.sql_outcomes import WAITING, Claim, Join, OutcomeJoins
from app.adapters.sql_samples import Samples
from app.adapters.sql_training import TrainingReads
from app.adapters.sql_upkeep import Upkeep
from app.control.ports import Batch, OutcomeRow
from app.errors import Refusal, RefusedRowError

T = TypeVar("T")

_SLICE = 500  # rows encoded at a time
_SUBJECT, _OUTCOME = OUTCOME_COLUMNS.index("subject"), OUTCOME_COLUMNS.index("outcome_id")


class SqlStore(
    TrainingReads, Samples, ControlState, LearningState, LedgerKeeping, OutcomeJoins, Erasure, Upkeep
):
    """`app.control.ports.Store`, but for the connections and the bulk load."""

    encoding: ClassVar[Encoding]

    async def encode(self, batch: Batch) -> Batch:
        """The same with its rows as the driver takes them. `RefusedRowError` that names every row which cannot be stored."""
        refusals: list[Refusal] = []
        one = self.encoding
        predictions = await _in_slices(batch.predictions, one.prediction, "prediction", refusals)
        shadows = await _in_slices(batch.shadows, one.shadow, "shadow", refusals)
        outcomes = await _in_slices(batch.outcomes, one.outcome, "outcome", refusals)
        if refusals:
            raise RefusedRowError(f"{len(refusals)} rows cannot be stored", tuple(refusals))
        fresh = NewOutcomes(batch.outcomes, outcomes, set())
        return replace(batch, encoded=Encoded(predictions, shadows, outcomes, fresh))

    async def encoded(self, batch: Batch) -> Encoded:
        """Of a batch whether or not `encode` was called for it."""
        made = batch.encoded
        if not isinstance(made, Encoded):
            made = (await self.encode(batch)).encoded
            assert isinstance(made, Encoded)
        return made

    @abstractmethod
    async def prediction_models(self, prediction_ids: Sequence[str]) -> dict[str, str]:
        """The model of each of these that is stored."""

    @abstractmethod
    async def outcomes_known(self, outcome_ids: Sequence[str], subjects: Sequence[str]) -> set[str]:
        """Which of these are stored. `subjects` are what they are about, one each."""

    @abstractmethod
    async def load(self, batch: Batch) -> None:
        """All of it or nothing. Rows already there are left as they are. `RefusedRowError` when a row is refused."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """The rows of a batch in the order of the columns in `rows`."""

    predictions: list[Values]
    shadows: list[Values]
    outcomes: list[Values]
    fresh: NewOutcomes  # the same, as if the store held none of them


async def _in_slices(
    rows: Sequence[T], encode: Callable[[T], Values], kind: str, refusals: list[Refusal]
) -> list[Values]:
    """A few milliseconds of work at a time: the event loop has others to serve."""
    done: list[Values] = []
    for start in range(0, len(rows), _SLICE):
        if start:
            await asyncio.sleep(0)
        done += encoded(rows[start : start + _SLICE], encode, kind, refusals, start)
    return done


class NewOutcomes:
    """The outcomes of a batch that the store does not hold yet, each once, as claims and as encoded rows."""

    __slots__ = ("claims", "plain", "values")

    def __init__(
        self, rows: Sequence[OutcomeRow], encoded: Sequence[Values], known: set[tuple[str, str]]
    ) -> None:
        self.claims: list[Claim] = []
        self.values: list[Values] = []
        seen = set(known)
        for row, values in zip(rows, encoded, strict=True):
            key = (values[_SUBJECT], values[_OUTCOME])
            if key in seen:
                continue
            seen.add(key)
            self.values.append(values)
            self.claims.append(
                Claim(
                    row.outcome_id,
                    row.prediction_id,
                    row.model,
                    row.ground_truth,
                    row.observed_at,
                    row.received_at,
                )
            )
        named = Counter([claim.target for claim in self.claims])
        # Those that are the only one for a prediction named by its id alone, in the order of the predictions.
        self.plain: list[Values] = sorted(
            values
            for values, claim in zip(self.values, self.claims, strict=True)
            if claim.target and claim.model is None and named[claim.target] == 1
        )

    def without(self, joined: set[str]) -> NewOutcomes:
        """Less those in `plain` whose predictions these are."""
        others = NewOutcomes((), (), set())
        if len(joined) < len(self.claims):
            pairs = [
                pair for pair in zip(self.claims, self.values, strict=True) if pair[0].target not in joined
            ]
            others.claims, others.values = [claim for claim, _ in pairs], [values for _, values in pairs]
        return others

    def decided(self, join: Join, now: object) -> list[Values]:
        """Rows of `OUTCOME_COLUMNS`. One that waits is looked at within a second: it may go by another id, or by its request."""
        return [
            (*values, state, now if state == WAITING else None)
            for values, state in zip(self.values, join.states, strict=True)
        ]
