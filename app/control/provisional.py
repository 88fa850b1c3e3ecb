"""What can be said of young predictions before their labels are mature: stored rows into the domain's two
estimates, by the delay curve of labels and by calibrated confidence.

Stands apart from measured figures and is never mixed with them. Delays are those after which a label was
received here, not those after which it was observed: a label that was known early and sent late was not
known here. Binary tasks only; pure, and slow enough for a thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from app.domain.model import Model
from app.domain.performance.figure import Figure
from app.domain.performance.provisional import Settled, Young, report

Rows = Sequence[Mapping[str, Any]]
Arrivals = Mapping[str, datetime]


def estimates(
    model: Model, mature: Rows, young: Rows, arrived: Arrivals, coverage: float | None
) -> dict[str, Any]:
    """Figures by either method, or why they are withheld. `mature` rows are labelled; of `young` ones some
    are. `arrived` says when labels were received, of all young ones and of a sample of the mature.
    """
    if model.task != "binary":
        return {"rows": len(young), "reason": f"not estimated for task {model.task!r}"}
    settled = [_settled(row, arrived) for row in mature]
    # What was received in the last moment may not be stored yet, and after labels have stopped coming none
    # is. So the labels are read as of the last one that is stored, not as of now.
    received = [arrived[row["prediction_id"]] for row in young if row["prediction_id"] in arrived]
    as_of = max(received, default=None)
    made = report(
        settled,
        [_young(row, arrived, as_of) for row in young],
        model.labels.horizon_s,
        1.0 if coverage is None else coverage,
    )
    return {
        "rows": made.rows,
        "labelled": made.labels,
        "as_of": as_of,
        "by_delay": _named(made.by_delay),
        "by_confidence": _named(made.by_confidence),
    }


def _named(figures: Iterable[Figure]) -> dict[str, Any]:
    return {one.name: asdict(one) for one in figures}


def _settled(row: Mapping[str, Any], arrived: Arrivals) -> Settled:
    at = arrived.get(row["prediction_id"])
    return Settled(
        row["prediction"],
        row["confidence"],
        row["ground_truth"],
        row["timestamp"].timestamp(),
        None if at is None else (at - row["timestamp"]).total_seconds(),
    )


def _young(row: Mapping[str, Any], arrived: Arrivals, as_of: datetime | None) -> Young:
    age_s = 0.0 if as_of is None else max(0.0, (as_of - row["timestamp"]).total_seconds())
    known = row["prediction_id"] in arrived
    return Young(row["prediction"], row["confidence"], age_s, row["ground_truth"] if known else None)
