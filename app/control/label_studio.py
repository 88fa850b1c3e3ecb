"""The review queue in Label Studio's JSON: tasks to label out, labelled tasks back in.

The format is that of https://labelstud.io/guide/task_format. The model's own answer is among the task's data, where a
labelling template may show it, and not a pre-annotation: people tend to confirm what is filled in already.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from app.control.ports import Row, Scalar
from app.errors import InvalidError

_DATA = (
    "prediction_id",
    "model_version",
    "features",
    "prediction",
    "confidence",
    "strategy",
    "score",
    "propensity",
)


def tasks(model: str, items: Sequence[Row]) -> list[dict[str, Any]]:
    """Items of a draw as tasks, best first. `data.prediction_id` is what joins the label to its prediction."""
    return [{"data": {"model": model, **{name: item[name] for name in _DATA}}} for item in items]


def labels(export: Any) -> Iterator[tuple[str, Scalar | InvalidError]]:
    """Of each task that was labelled: the prediction's id and the label, or why there is none to be had.

    `InvalidError` for what is no list of tasks. Tasks without a finished annotation are passed over.
    """
    if not isinstance(export, list):
        raise InvalidError(
            "a Label Studio export is a JSON array of tasks; choose the format JSON, not JSON_MIN"
        )
    for number, task in enumerate(export):
        data = task.get("data") if isinstance(task, Mapping) else None
        name = data.get("prediction_id") if isinstance(data, Mapping) else None
        if not isinstance(name, str):
            yield "", InvalidError(f"task {number}: data.prediction_id is missing")
            continue
        annotations = task.get("annotations", [])
        try:
            found = _label(annotations if isinstance(annotations, list) else [])
        except InvalidError as error:
            yield name, error
            continue
        if found is not None:
            yield name, found


def _label(annotations: Sequence[Any]) -> Scalar | None:
    """What all annotators say; None before anyone has."""
    given = []
    for annotation in annotations:
        if not isinstance(annotation, Mapping) or annotation.get("was_cancelled"):
            continue
        results = annotation.get("result")
        values = [value for one in results or [] if (value := _value(one)) is not None]
        if len(values) > 1:
            raise InvalidError("an annotation holds more than one label")
        given += values
    if len(set(given)) > 1:
        raise InvalidError(f"annotators disagree: {', '.join(sorted({str(value)[:50] for value in given}))}")
    return given[0] if given else None


def _value(result: Any) -> Scalar | None:
    """Of one region's value: a choice, a number, a rating or a text; None for anything else."""
    value = result.get("value") if isinstance(result, Mapping) else None
    if not isinstance(value, Mapping):
        return None
    for name in ("choices", "text"):
        match value.get(name):
            case [str(one)] | str(one):
                return one
            case [_, _, *_]:
                raise InvalidError(f"{name}: exactly one is a label")
    for name in ("number", "rating"):
        number = value.get(name)
        if isinstance(number, (int, float)) and not isinstance(number, bool):
            return float(number)
    return None
