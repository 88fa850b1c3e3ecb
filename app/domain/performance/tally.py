"""The accumulator for a task, made new or from its saved state."""

from __future__ import annotations

from app.domain import state as states
from app.domain.performance.binary import BinaryTally
from app.domain.performance.multiclass import MulticlassTally
from app.domain.performance.regression import RegressionTally

Tally = BinaryTally | MulticlassTally | RegressionTally


def for_task(task: str) -> Tally | None:
    """An empty tally; None for task `none`, which has no figures. `ValueError` for an unknown task."""
    match task:
        case "binary":
            return BinaryTally()
        case "multiclass":
            return MulticlassTally()
        case "regression":
            return RegressionTally()
        case "none":
            return None
        case _:
            raise ValueError(f"task {task!r} is none of binary, multiclass, regression, none")


def from_state(state: states.State) -> Tally:
    """The tally of a `state`, whatever its task; `ValueError` when it is none."""
    match states.text(state, "task"):
        case "binary":
            return BinaryTally.from_state(state)
        case "multiclass":
            return MulticlassTally.from_state(state)
        case "regression":
            return RegressionTally.from_state(state)
        case task:
            raise ValueError(f"state field 'task' is {task!r}")
