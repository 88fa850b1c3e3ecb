"""Protocol `tfserving`: the REST API of TensorFlow Serving (and KServe V1): predict in row and column form, classify, regress.

Source: TensorFlow Serving RESTful API. `{"b64": …}` stands for bytes; bare NaN and Infinity are legal. Elements of a named
input's list are named as tensors are (`x[0]`); rows without names are `f0`, `f1`, ….
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from app.protocols.content import parse_json, reply_bytes, request_bytes
from app.protocols.features import bytes_value, flat, tensor_row, vector_row, within_limit
from app.protocols.findings import Findings, two_sided
from app.protocols.record import MAX_ROWS, Exchange, Features, Output, Reader, Reason, UnreadableError
from app.protocols.scoring import Task, named_output, output_of, spread


def build(task: Task, extract: Mapping[str, str | None]) -> Reader:
    """The reader of one model."""

    def outputs_of(exchange: Exchange, findings: Findings, rows: int | None) -> list[Output]:
        body = reply_bytes(exchange)
        document = parse_json(body, exchange.response_content_type)
        if type(document) is not dict:
            raise UnreadableError(Reason.UNEXPECTED_SHAPE, "the reply is no object")
        if "predictions" in document:
            return [output_of(value, task, findings) for value in spread(document["predictions"], rows, task)]
        if "outputs" in document:
            return column_outputs(document["outputs"], rows, task, findings)
        if "results" in document:
            return [_result(value, task, findings) for value in spread(document["results"], rows, task)]
        raise UnreadableError(Reason.UNEXPECTED_SHAPE, "neither predictions, outputs nor results")

    return two_sided(_features, outputs_of, (":predict", ":classify", ":regress"))


def _features(exchange: Exchange, findings: Findings) -> list[Features]:
    body = request_bytes(exchange)
    document = parse_json(body, exchange.request_content_type)
    if type(document) is not dict:
        raise UnreadableError(Reason.UNEXPECTED_SHAPE, "the request is no object")
    if type(signature := document.get("signature_name")) is str:
        findings.facts["signature_name"] = signature[:200]
    if "instances" in document:
        return instance_rows(document["instances"], findings)
    if "inputs" in document:
        return column_rows(document["inputs"], findings)
    if "examples" in document:
        return _example_rows(document, findings)
    raise UnreadableError(Reason.UNEXPECTED_SHAPE, "neither instances, inputs nor examples")


def instance_rows(instances: Any, findings: Findings) -> list[Features]:
    """Row form: an element a row; an object's members are its named inputs."""
    if type(instances) is not list:
        raise UnreadableError(Reason.UNEXPECTED_SHAPE, "instances is no list")
    return [_row(instance, findings) for instance in within_limit(instances, findings)]


def _row(instance: Any, findings: Findings) -> Features:
    instance = plain_value(instance)
    if type(instance) is dict:
        return tensor_row([(name, _value(value)) for name, value in instance.items()], findings)
    return vector_row(_elements(instance), findings)


def column_rows(inputs: Any, findings: Findings) -> list[Features]:
    """Column form: an object of named inputs, each a list over rows, or the one input without a name."""
    if type(inputs) is not dict:
        return instance_rows(inputs if type(inputs) is list else [inputs], findings)
    columns = {name: plain_value(value) for name, value in inputs.items()}
    if not all(type(value) is list for value in columns.values()):
        return [tensor_row([(name, _value(value)) for name, value in columns.items()], findings)]
    counts = {len(value) for value in columns.values()}
    if len(counts) > 1:
        raise UnreadableError(Reason.ROW_COUNT_MISMATCH, f"inputs have {sorted(counts)[:5]} rows")
    rows = counts.pop() if counts else 0
    if rows > MAX_ROWS:
        findings.note(Reason.ROW_LIMIT, f"{rows} rows; {MAX_ROWS} are kept")
    return [
        tensor_row([(name, _value(value[number])) for name, value in columns.items()], findings)
        for number in range(min(rows, MAX_ROWS))
    ]


def column_outputs(outputs: Any, rows: int | None, task: Task, findings: Findings) -> list[Output]:
    """The reply in column form: named outputs, each a list over rows, or the one output without a name."""
    if type(outputs) is not dict:
        return [output_of(value, task, findings) for value in spread(outputs, rows, task)]
    if not outputs:
        raise UnreadableError(Reason.UNEXPECTED_SHAPE, "outputs is empty")
    columns: dict[str, list[Any]] = {}
    for name, value in outputs.items():
        columns[name] = spread(value, rows, task)
    counts = {len(values) for values in columns.values()}
    if len(counts) > 1:
        raise UnreadableError(Reason.ROW_COUNT_MISMATCH, f"outputs have {sorted(counts)[:5]} rows")
    return [
        named_output({name: values[number] for name, values in columns.items()}, task, findings)
        for number in range(counts.pop())
    ]


def _example_rows(document: dict[str, Any], findings: Findings) -> list[Features]:
    """Classify and regress: a list of examples, each completed by the shared context."""
    examples, context = document["examples"], document.get("context")
    if type(examples) is not list:
        raise UnreadableError(Reason.UNEXPECTED_SHAPE, "examples is no list")
    shared = context if type(context) is dict else {}
    return [
        _row({**shared, **example} if type(example) is dict else example, findings)
        for example in within_limit(examples, findings)
    ]


def _result(value: Any, task: Task, findings: Findings) -> Output:
    """A row of classify, a list of [label, score] pairs, or of regress, a number."""
    pairs = value if type(value) is list else []
    if not pairs or not all(type(pair) is list and len(pair) == 2 for pair in pairs):
        return output_of(value, task, findings)
    scores = {str(label): score for label, score in pairs if type(score) in (float, int)}
    if not scores:
        findings.note(Reason.UNEXPECTED_SHAPE, "a classification holds no scores")
        return None, None, None
    label = max(scores, key=lambda name: scores[name])
    return named_output({"label": label, "probabilities": scores}, task, findings)


def plain_value(value: Any) -> Any:
    """`{"b64": …}` as the bytes it stands for, shown as `features.bytes_value` does; anything else as it is."""
    if type(value) is dict and len(value) == 1 and type(text := value.get("b64")) is str:
        try:
            return bytes_value(base64.b64decode(text))
        except (binascii.Error, ValueError):
            return text
    return value


def _value(value: Any) -> Any:
    elements = _elements(plain_value(value))
    return elements[0] if len(elements) == 1 else elements


def _elements(value: Any) -> list[Any]:
    """The scalars of one row's input, row-major; what is neither scalar nor list is no number and left as its JSON kind."""
    elements = flat(value)
    if type(elements) is not list:
        elements = [elements]
    return [_scalar_only(plain_value(element)) for element in elements]


def _scalar_only(value: Any) -> Any:
    return None if type(value) is dict or type(value) is list else value
