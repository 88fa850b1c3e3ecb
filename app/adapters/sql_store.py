"""The store that both databases share. What differs (connections, bulk loading, partitions) stands in `sqlite` and `postgres`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from app.adapters.rows import OUTCOME_COLUMNS, Values
from app.adapters.sql_control import ControlState
from app.adapters.sql_learning import LearningState
from app.adapters.sql_ledger import LedgerKeeping
from app.adapters.sql_outcomes import WAITING, Claim, Join, OutcomeJoins
from app.adapters.sql_records import RecordReads
from app.adapters.sql_samples import Samples
from app.adapters.sql_upkeep import Upkeep
from app.control.ports import Batch, OutcomeRow

_SUBJECT, _OUTCOME = OUTCOME_COLUMNS.index("subject"), OUTCOME_COLUMNS.index("outcome_id")


class SqlStore(RecordReads, Samples, ControlState, LearningState, LedgerKeeping, OutcomeJoins, Upkeep):
    """`app.control.ports.Store`, but for the connections and the bulk load."""

    @abstractmethod
    async def load(self, batch: Batch) -> None:
        """All of it or nothing. Rows already there are left as they are. `RefusedRowError` when a row is refused."""


class NewOutcomes:
    """The outcomes of a batch that the store does not hold yet, each once, as claims and as encoded rows."""

    __slots__ = ("claims", "values")

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

    def decided(self, join: Join, now: object) -> list[Values]:
        """Rows of `OUTCOME_COLUMNS`. One that waits is looked at within a second: it may go by another id, or by its request."""
        return [
            (*values, state, now if state == WAITING else None)
            for values, state in zip(self.values, join.states, strict=True)
        ]
