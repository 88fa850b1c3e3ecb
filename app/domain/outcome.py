"""Outcomes: when two are the same one, which counts, and whether a ground truth fits the task. Standard
library only.

Feedback answers "duplicate" by `outcome_id` and the store keeps one row for it, so both must use this
function. Nothing is ever overwritten: a different outcome for the same prediction is a correction, and
all are kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from math import isfinite
from typing import Literal

# Compiled code tells integers from floats.
GroundTruth = float | int | str | bool

MAX_LABEL = 256  # characters; a label is a class name, not a document
_TRUE = frozenset({"1", "true"})
_FALSE = frozenset({"0", "false"})


@dataclass(frozen=True, slots=True)
class Outcome:
    """One ground truth of one prediction. Times in nanoseconds since the epoch; `observed_ns` 0 when the
    sender gave none.
    """

    outcome_id: str
    ground_truth: GroundTruth
    observed_ns: int
    received_ns: int
    source: str = ""

    @property
    def effective_ns(self) -> int:
        """When it became true, as far as is known: observed, else received."""
        return self.observed_ns or self.received_ns


@dataclass(frozen=True, slots=True)
class Resolution:
    """What holds of all outcomes of one prediction. `history` is newest first, `corrections` counts
    changes of mind in time.
    """

    current: Outcome | None
    history: tuple[Outcome, ...]
    corrections: int
    reason: str


def outcome_id(
    prediction_id: str,
    model: str,
    request_id: str,
    ground_truth: GroundTruth,
    observed_ns: int,
    source: str,
) -> str:
    """32 hexadecimal digits of what was observed about which prediction, when and by whom.

    Number, text and truth value are told apart (1, "1" and True are three outcomes; 1 and 1.0 are one).
    When the sender gave no `observed_at`, `observed_ns` is 0: the time of arrival is no part of the
    identity, else a retry would be a second outcome.
    """
    subject = (prediction_id.lower(),) if prediction_id else (model, request_id)
    parts = (*subject, _spelled(ground_truth), str(observed_ns), source)
    # With lengths, in bytes: no two different outcomes give the same bytes.
    text = "".join([f"{len(part)}:{part}," for part in parts])
    if text.isascii():
        return sha256(text.encode()).hexdigest()[:32]
    encoded = [part.encode("utf-8", "surrogatepass") for part in parts]
    return sha256(b"".join([b"%d:%s," % (len(part), part) for part in encoded])).hexdigest()[:32]


def _spelled(ground_truth: GroundTruth) -> str:
    if isinstance(ground_truth, bool):
        return f"b{ground_truth:d}"
    if isinstance(ground_truth, str):
        return f"s{ground_truth}"
    try:
        return f"n{float(ground_truth)!r}"
    except (
        OverflowError
    ):  # an integer beyond the range of float: refused later by `fault`, but not by an exception here
        return f"n{ground_truth:x}" if isinstance(ground_truth, int) else "n"


def fault(ground_truth: GroundTruth, task: str) -> str | None:
    """Why this ground truth does not fit the task (binary, multiclass, regression or none); None when it
    does.

    binary takes 0, 1, true, false, also spelled as text; multiclass a label or a whole number; regression
    a number.
    """
    if isinstance(ground_truth, str):
        if not ground_truth or len(ground_truth) > MAX_LABEL:
            return f"ground_truth: a label has 1 to {MAX_LABEL} characters, not {len(ground_truth)}"
        if task == "regression":
            return "ground_truth: a regression takes a number, not text"
        if task == "binary" and as_binary(ground_truth) is None:
            return (
                "ground_truth: a binary outcome is 0, 1, true or false; named classes need task: multiclass"
            )
        return None
    if isinstance(ground_truth, bool):
        return (
            "ground_truth: a regression takes a number, not a truth value" if task == "regression" else None
        )
    if not _finite(ground_truth):
        return "ground_truth: must be a finite number within the range of a double"
    if task == "binary" and ground_truth not in (0, 1):
        return f"ground_truth: a binary outcome is 0, 1, true or false, not {ground_truth:g}"
    if task == "multiclass" and not float(ground_truth).is_integer():
        return f"ground_truth: a class is a label or a whole number, not {ground_truth:g}"
    return None


def _finite(value: float | int) -> bool:
    try:
        return isfinite(value)
    except OverflowError:
        return False


def as_binary(value: GroundTruth) -> int | None:
    """0 or 1 for any spelling that a binary outcome may have, None for anything else."""
    if isinstance(value, str):
        text = value.strip().lower()
        return 1 if text in _TRUE else 0 if text in _FALSE else None
    return int(value) if value in (0, 1) else None


def as_class(value: GroundTruth) -> str:
    """The class name by which labels are matched: 3, 3.0 and "3" are one class, and so are true and
    "true".
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    number = float(value)
    return str(int(number)) if number.is_integer() else repr(number)


def same_truth(a: GroundTruth, b: GroundTruth, task: str) -> bool:
    """Whether two ground truths say the same for this task, however they are spelled."""
    if task == "binary":
        first, second = as_binary(a), as_binary(b)
        if first is not None and second is not None:
            return first == second
    if task == "multiclass":
        return as_class(a) == as_class(b)
    return (
        type(a) is type(b) and a == b if isinstance(a, (bool, str)) or isinstance(b, (bool, str)) else a == b
    )


Standing = Literal["first", "duplicate", "confirmation", "correction", "late"]


def standing(new: Outcome, known: Iterable[Outcome], task: str) -> Standing:
    """What a new outcome is beside those already known of its prediction.

    first: none was known. duplicate: this very one was. confirmation: says what already holds.
    correction: contradicts it and is newer, so it holds from now on. late: contradicts it but was
    observed before, so it is kept and does not hold.
    """
    resolved = resolve(known, task)
    if resolved.current is None:
        return "first"
    if any(o.outcome_id == new.outcome_id for o in resolved.history):
        return "duplicate"
    if same_truth(new.ground_truth, resolved.current.ground_truth, task):
        return "confirmation"
    return "correction" if _order(new) > _order(resolved.current) else "late"


def _order(outcome: Outcome) -> tuple[int, int, str]:
    # The id settles exact ties, so that every replica and every replay picks the same winner.
    return outcome.effective_ns, outcome.received_ns, outcome.outcome_id


def resolve(outcomes: Iterable[Outcome], task: str) -> Resolution:
    """Which outcome holds: the newest observed, whatever the order of arrival; the same one twice counts
    once.

    A repeat is the same `outcome_id`; of repeats the first received is kept, so that a retry cannot look
    newer.
    """
    distinct: dict[str, Outcome] = {}
    for outcome in outcomes:
        held = distinct.get(outcome.outcome_id)
        if held is None or outcome.received_ns < held.received_ns:
            distinct[outcome.outcome_id] = outcome
    history = tuple(sorted(distinct.values(), key=_order, reverse=True))
    if not history:
        return Resolution(None, (), 0, "no outcome yet")
    corrections = sum(
        not same_truth(newer.ground_truth, older.ground_truth, task) for newer, older in pairwise(history)
    )
    if len(history) == 1:
        reason = "only outcome"
    elif corrections:
        reason = f"newest of {len(history)} outcomes, {corrections} of them corrections"
    else:
        reason = f"newest of {len(history)} outcomes that agree"
    return Resolution(history[0], history, corrections, reason)
