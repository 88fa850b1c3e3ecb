"""A labelled row, and how a prediction and its confidence are read for each task."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from app.domain.outcome import GroundTruth, as_binary

Answer = float | str | bool


@dataclass(frozen=True, slots=True)
class Labelled:
    """One prediction with its outcome. `weight` is 1, or the inverse of the probability with which the
    row got here.

    `confidence` is the probability of the predicted class; `prediction` a class, or for a binary task the
    probability of the positive class.
    """

    prediction: Answer | None
    confidence: float | None
    ground_truth: GroundTruth
    weight: float = 1.0


def binary_answer(
    prediction: Answer | None, confidence: float | None, threshold: float = 0.5
) -> tuple[int, float | None] | None:
    """The predicted class and the probability of the positive one, if known; None when it is no binary
    answer.

    A number within 0..1 is the positive class's probability, and its class is 1 from `threshold` on. A
    class (true, false, 0 or 1) with a confidence has that probability: confidence for 1, its complement
    for 0. An exact 0 or 1 without confidence is a class whose probability is not known.
    """
    sure = None if prediction is None else as_binary(prediction)
    if sure is not None:
        if confidence is None or not 0 <= confidence <= 1:
            return sure, None
        return sure, confidence if sure else 1.0 - confidence
    if isinstance(prediction, (str, bool)) or prediction is None or not 0 < prediction < 1:
        return None
    return int(prediction >= threshold), float(prediction)


def number(value: Answer | None) -> float | None:
    """The value as a finite number; None for anything else."""
    if value is None or isinstance(value, (bool, str)):
        return None
    try:
        return float(value) if isfinite(value) else None
    except OverflowError:
        return None
