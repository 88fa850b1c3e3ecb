"""From a reply's values to prediction, confidence and scores.

Rules, the same for every protocol:

* A scalar is the prediction. For `task: binary` a float in [0, 1] is the probability of the positive class, so confidence is
  max(p, 1-p); an integer or boolean is a hard label and says nothing about confidence.
* A vector of a classifier: two probabilities of a binary task give p(positive) as prediction, so that they compare with scalar
  replies; any other vector gives the index of its largest element. Confidence is the largest element if the vector is a
  distribution (within [0, 1], sum 1 up to rounding); logits have none.
* Several named outputs: a prediction by its usual names, the confidence as stated or else the probability of the predicted class.
* A vector of a regression is kept as scores; no single number is made up from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from app.protocols.features import number
from app.protocols.findings import Findings
from app.protocols.record import MAX_ROWS, Output, Reason, UnreadableError

Task: TypeAlias = Literal["binary", "multiclass", "regression", "none"]

# Not as tuples of a fixed length: of these, compiled code makes a new one at each use, and they are known by identity below.
PREDICTION_NAMES: tuple[str, ...] = (
    "prediction",
    "predictions",
    "predict",
    "predicted_label",
    "predicted_class",
    "label",
    "output_label",
    "class",
    "classes",
    "class_ids",
    "class_id",
    "value",
    "output",
    "outputs",
)
PROBABILITY_NAMES: tuple[str, ...] = (
    "probabilities",
    "probability",
    "predict_proba",
    "output_probability",
    "proba",
    "probs",
    "scores",
    "score",
)
CONFIDENCE_NAMES: tuple[str, ...] = ("confidence",)
_NAMED = frozenset(PREDICTION_NAMES + PROBABILITY_NAMES + CONFIDENCE_NAMES)

_PROBABILITIES = frozenset(PROBABILITY_NAMES)

MAX_SCORES = 1_024
ROUNDING = 0.02
"""How far a sum of rounded probabilities may be from 1."""

NOTHING: Output = (None, None, None)


def output_of(value: Any, task: Task, findings: Findings) -> Output:
    """Prediction, confidence and scores of one row from one JSON value of any kind."""
    kind = type(value)
    if kind is float:
        if value - value != 0.0:
            findings.nonfinite.add("prediction")
            return NOTHING
        if task == "binary" and 0.0 <= value <= 1.0:
            return value, (value if value >= 0.5 else 1.0 - value), None
        return value, None, None
    if kind is int:
        return number(value, "prediction", findings), None, None
    if kind is str or kind is bool or value is None:
        return value, None, None
    if kind is dict:
        return named_output(value, task, findings)
    if len(value) == 1:
        return (
            output_of(value[0], task, findings)
            if type(value[0]) is not list
            else _nested_one(value, task, findings)
        )
    scores = score_vector(value, findings)
    if scores is None:
        return NOTHING
    return from_scores(scores, task, findings)


def _nested_one(value: list[Any], task: Task, findings: Findings) -> Output:
    """Unwrap [[[x]]] without recursion, as nested as the sender likes."""
    inner: Any = value
    while type(inner) is list and len(inner) == 1:
        inner = inner[0]
    return output_of(inner, task, findings)


def score_vector(values: Sequence[Any], findings: Findings) -> tuple[float, ...] | None:
    """The numbers of a vector, or None (noted) when it is empty, too long, or holds anything but finite numbers."""
    if not values or len(values) > MAX_SCORES:
        findings.note(Reason.UNEXPECTED_SHAPE, f"a row's output has {len(values)} values")
        return None
    scores: list[float] = []
    for value in values:
        if type(value) is not float and type(value) is not int:
            findings.note(
                Reason.UNEXPECTED_SHAPE, f"a row's output holds a {type(value).__name__} beside other values"
            )
            return None
        finite = number(value, "scores", findings)
        if finite is None:
            return None
        scores.append(finite)
    return tuple(scores)


def from_scores(scores: tuple[float, ...], task: Task, findings: Findings) -> Output:
    """Prediction and confidence of a vector of one row, by the task."""
    if task == "none":
        return None, None, scores
    if task == "regression":
        findings.note(Reason.UNEXPECTED_SHAPE, f"a regression's row has {len(scores)} values")
        return None, None, scores
    top = max(scores)
    if not is_distribution(scores):
        return scores.index(top), None, scores
    if task == "binary" and len(scores) == 2:
        return float(scores[1]), float(top), scores
    return scores.index(top), float(top), scores


def is_distribution(scores: Sequence[float]) -> bool:
    """Whether values can be probabilities of exclusive classes: each in [0, 1], sum 1 up to `ROUNDING`."""
    return (
        len(scores) > 1 and min(scores) >= 0.0 and max(scores) <= 1.0 and abs(sum(scores) - 1.0) <= ROUNDING
    )


def named_output(outputs: Mapping[str, Any], task: Task, findings: Findings) -> Output:
    """One row from several named outputs, such as `{"label": "cat", "probabilities": [0.1, 0.9]}`."""
    probabilities = first_of(outputs, PROBABILITY_NAMES)
    confidence = first_of(outputs, CONFIDENCE_NAMES)
    for name in PREDICTION_NAMES:
        if name in outputs:
            return combined(outputs[name], confidence, probabilities, task, findings)
    if probabilities is None and is_class_map(outputs):
        return combined(None, confidence, outputs, task, findings)
    others = [value for name, value in outputs.items() if name not in _NAMED]
    if others:
        return combined(others[0], confidence, probabilities, task, findings)
    return combined(None, confidence, probabilities, task, findings)


def is_class_map(value: object) -> bool:
    """Whether a value maps class names to probabilities, as scikit-learn classifiers exported to ONNX answer."""
    return (
        isinstance(value, dict)
        and all(type(p) is float or type(p) is int for p in value.values())
        and is_distribution(list(value.values()))
    )


def first_of(outputs: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The value under the first of the names that is present and not null."""
    if names is PROBABILITY_NAMES and _PROBABILITIES.isdisjoint(outputs):
        return None  # by far the most frequent
    for name in names:
        value = outputs.get(name)
        if value is not None:
            return value
    return None


def combined(prediction: Any, confidence: Any, probabilities: Any, task: Task, findings: Findings) -> Output:
    """One row from a prediction, a stated confidence and class probabilities, each of which may be missing (None)."""
    if prediction is None and probabilities is not None:
        predicted, derived, scores = _from_probabilities(probabilities, task, findings)
    else:
        predicted, derived, scores = output_of(prediction, task, findings)
        if probabilities is not None:
            derived = probability_of(predicted, probabilities, task)
            if type(probabilities) is list and len(probabilities) > 1:
                scores = score_vector(probabilities, findings)
    if confidence is None:
        return predicted, derived, scores
    return predicted, _stated(confidence, findings), scores


def _from_probabilities(probabilities: Any, task: Task, findings: Findings) -> Output:
    if type(probabilities) is not dict or not is_class_map(probabilities):
        return output_of(probabilities, task, findings) if type(probabilities) is not dict else NOTHING
    label = max(probabilities, key=lambda name: (probabilities[name], name))
    return label, float(probabilities[label]), tuple(probabilities.values())[:MAX_SCORES]


def probability_of(prediction: float | str | bool | None, probabilities: Any, task: Task) -> float | None:
    """The probability of the predicted class, None where the reply does not tell.

    A list is indexed by an integral prediction; for a label its largest element stands, since a classifier predicts that one.
    A single number is the positive class's for a binary task, the predicted class's otherwise.
    """
    if type(probabilities) is list and len(probabilities) == 1:
        probabilities = probabilities[0]
    if type(probabilities) is dict:
        named = probabilities.get(str(prediction))
        return _probability(
            named if named is not None else max(_numbers(probabilities.values()), default=None)
        )
    if type(probabilities) is list:
        values = _numbers(probabilities)
        if len(values) != len(probabilities) or not values:
            return None
        if (
            isinstance(prediction, (int, float))
            and prediction == int(prediction)
            and 0 <= prediction < len(values)
        ):
            return _probability(values[int(prediction)])
        return _probability(max(values))
    single = _probability(probabilities)
    return max(single, 1.0 - single) if single is not None and task == "binary" else single


def _numbers(values: Any) -> list[float]:
    return [value for value in values if type(value) is float or type(value) is int]


def _probability(value: Any) -> float | None:
    return float(value) if (type(value) is float or type(value) is int) and 0 <= value <= 1 else None


def _stated(confidence: Any, findings: Findings) -> float | None:
    """A confidence as the model states it, if it is a number; beyond [0, 1] it is no probability, and noted."""
    if type(confidence) is list and len(confidence) == 1:
        confidence = confidence[0]
    if type(confidence) is not float and type(confidence) is not int:
        findings.note(Reason.UNEXPECTED_SHAPE, f"confidence is a {type(confidence).__name__}")
        return None
    finite = number(confidence, "confidence", findings)
    if finite is not None and not 0 <= finite <= 1:
        findings.note(Reason.UNEXPECTED_SHAPE, "confidence is not within 0..1")
        return None
    return None if finite is None else float(finite)


def spread(value: Any, rows: int | None, task: Task) -> list[Any]:
    """The value of each row from a reply's value: with several rows a list is one element a row, with one row it is that row's.

    Without known rows, a list is a row each, unless it can only be one row's class distribution. Raises `UnreadableError` when a
    list's length is not the number of rows.
    """
    if type(value) is not list:
        if rows is None or rows == 1:
            return [value]
        raise UnreadableError(
            Reason.ROW_COUNT_MISMATCH, f"{rows} rows in the request, one value in the reply"
        )
    if rows is None:
        classifier = task in ("binary", "multiclass")
        one = classifier and len(_numbers(value)) == len(value) and is_distribution(value)
        return [value] if one else value[:MAX_ROWS]
    if rows == 1:
        return value if len(value) == 1 else [value]
    if len(value) != rows and not rows == MAX_ROWS < len(value):
        raise UnreadableError(
            Reason.ROW_COUNT_MISMATCH, f"{rows} rows in the request, {len(value)} in the reply"
        )
    return value[:MAX_ROWS]
