"""Protocol `json`: features, prediction and confidence at configured paths of JSON bodies; a body that is a list is a row an element.

Defaults: `$.features`, `$.prediction`, `$.confidence`. Where no path is configured, an object without `features` is itself the
features, and a reply without `prediction` is read by the usual names (`scoring.PREDICTION_NAMES`). In a list body a path is
relative to the element, unless its first step is an index or `[*]`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import msgspec

from app.protocols.content import parse_json, reply_bytes, request_bytes
from app.protocols.features import json_row, json_rows, object_row, vector_row, within_limit
from app.protocols.findings import Findings
from app.protocols.json_paths import MISSING, JsonPath, compile_path
from app.protocols.record import (
    MAX_FEATURES,
    Exchange,
    Extraction,
    Features,
    Output,
    Reader,
    Reason,
    UnreadableError,
)
from app.protocols.scoring import (
    PREDICTION_NAMES,
    PROBABILITY_NAMES,
    Task,
    combined,
    first_of,
    is_class_map,
    output_of,
    spread,
)


class JsonReader:
    """Reads one model's exchanges; its paths are compiled once. Raises `InvalidError` at construction for a path it cannot use."""

    __slots__ = (
        "_confidence",
        "_features",
        "_features_given",
        "_parent",
        "_plain",
        "_prediction",
        "_prediction_given",
        "_task",
    )

    def __init__(
        self, features: str | None, prediction: str | None, confidence: str | None, task: Task
    ) -> None:
        self._features = compile_path(features or "$.features")
        self._features_given = features is not None
        self._prediction = compile_path(prediction or "$.prediction")
        self._prediction_given = prediction is not None
        self._confidence = compile_path(confidence or "$.confidence")
        self._parent = _parent_of(self._prediction)
        self._plain = _PlainObject(self._features)
        self._task = task

    def __call__(self, exchange: Exchange) -> Extraction:
        findings = Findings()
        rows: list[Features] | None = None
        outputs: list[Output] | None = None
        vector = False
        try:
            if not exchange.is_answer_only:
                body = request_bytes(exchange)
                features = self._plain.features(body)
                if features is not None:
                    rows = [features]
                else:
                    document = parse_json(body, exchange.request_content_type)
                    vector = _is_vector(document)
                    rows = self._rows(document, findings)
        except UnreadableError as fault:
            findings.note(fault.reason, f"request: {fault.detail}")
        if not 200 <= exchange.status < 300:
            findings.note(Reason.ERROR_STATUS, f"status {exchange.status}")
            return findings.extraction(rows, None)
        try:
            reply = parse_json(reply_bytes(exchange), exchange.response_content_type)
            if vector and rows is not None and self._is_one_row(reply):
                rows = [vector_row([row["f0"] for row in rows], findings)]
            outputs = self._outputs(reply, findings, exchange.expected_rows if rows is None else len(rows))
        except UnreadableError as fault:
            findings.note(fault.reason, f"reply: {fault.detail}")
        return findings.extraction(rows, outputs)

    def _rows(self, document: Any, findings: Findings) -> list[Features]:
        path = self._features
        if type(document) is list and (not path.steps or type(path.steps[0]) is str):
            return [self._element_row(element, findings) for element in within_limit(document, findings)]
        found = path.find(document)
        if found is MISSING:
            if self._features_given or type(document) is not dict:
                raise UnreadableError(Reason.PATH_NOT_FOUND, f"nothing at {path.text}")
            return [object_row(document, findings)]
        if path.many:
            return [self._found_row(value, findings) for value in within_limit(found, findings)]
        if type(found) in _NESTED:
            return json_rows(found, findings)
        return [self._found_row(found, findings)]

    def _element_row(self, element: Any, findings: Findings) -> Features:
        if type(element) is dict:
            found = self._features.find(element)
            if found is not MISSING:
                return self._found_row(found, findings)
            if self._features_given:
                findings.note(
                    Reason.PATH_NOT_FOUND, f"request: nothing at {self._features.text} of an element"
                )
                return {}
        return json_row(element, findings)

    def _found_row(self, value: Any, findings: Findings) -> Features:
        """One row; a bare scalar takes the name of the path's last step (`$.text` gives `text`)."""
        if type(value) in _NESTED:
            return json_row(value, findings)
        steps = self._features.steps
        name = steps[-1] if steps and isinstance(steps[-1], str) else "f0"
        return object_row({name: value}, findings)

    def _is_one_row(self, reply: Any) -> bool:
        """Whether a reply answers a bare list of numbers as one row: one value, not a list of them."""
        if type(reply) is dict:
            reply = self._prediction.find(reply)
        return type(reply) is not list or len(reply) == 1

    def _outputs(self, reply: Any, findings: Findings, rows: int | None) -> list[Output]:
        steps = self._prediction.steps
        if type(reply) is list and (not steps or type(steps[0]) is str):
            return [self._element_output(value, findings) for value in spread(reply, rows, self._task)]
        if type(reply) is dict or self._prediction_given:
            return self._object_outputs(reply, findings, rows)
        return [output_of(value, self._task, findings) for value in spread(reply, rows, self._task)]

    def _element_output(self, element: Any, findings: Findings) -> Output:
        if type(element) is not dict:
            return output_of(element, self._task, findings)
        try:
            return self._object_outputs(element, findings, 1)[0]
        except UnreadableError as fault:
            findings.note(fault.reason, f"reply: {fault.detail}")
            return None, None, None

    def _object_outputs(self, reply: Any, findings: Findings, rows: int | None) -> list[Output]:
        prediction = self._prediction.find(reply)
        parent = self._parent.find(reply)
        probabilities = _probabilities(parent)
        if prediction is MISSING:
            prediction, probabilities = self._by_usual_names(reply, probabilities)
        confidence = self._confidence.find(reply)
        if confidence is MISSING:
            confidence = None
        task = self._task
        if rows == 1 and type(prediction) not in _NESTED:
            return [combined(prediction, _only(confidence), _only(probabilities), task, findings)]
        if prediction is None and type(probabilities) is list:
            values = spread(probabilities, rows, task)
            stated = _column(confidence, len(values), findings)
            return [combined(None, c, p, task, findings) for c, p in zip(stated, values, strict=True)]
        values = (
            prediction
            if self._prediction.many and type(prediction) is list
            else spread(prediction, rows, task)
        )
        stated = _column(confidence, len(values), findings)
        likely = _column(probabilities, len(values), findings)
        return [combined(v, c, p, task, findings) for v, c, p in zip(values, stated, likely, strict=True)]

    def _by_usual_names(self, reply: Any, probabilities: Any) -> tuple[Any, Any]:
        """Prediction and probabilities of an object that has none at the default path."""
        if not self._prediction_given and type(reply) is dict:
            value = first_of(reply, PREDICTION_NAMES)
            if value is not None:
                return value, probabilities
            if probabilities is not None:
                return None, probabilities
            if is_class_map(reply) and self._task in ("binary", "multiclass"):
                return None, reply
            if len(reply) == 1:
                return next(iter(reply.values())), None
        raise UnreadableError(Reason.PATH_NOT_FOUND, f"nothing at {self._prediction.text}")


class _PlainObject:
    """The most frequent request: features that are an object of scalars in need of no cleaning, at a path of one name.

    They are checked while they are parsed. After a document of another kind the next ones are not tried, since a model's look alike.
    """

    __slots__ = ("_decode", "_left_alone")

    def __init__(self, path: JsonPath) -> None:
        self._decode: Callable[[bytes], Any] | None = None
        self._left_alone = 0  # documents still to come
        if len(path.steps) == 1 and isinstance(path.steps[0], str):
            field = ("features", dict[str, _PlainScalar] | None, None)
            shape = msgspec.defstruct("PlainObject", [field], rename={"features": path.steps[0]}, gc=False)
            self._decode = msgspec.json.Decoder(shape).decode

    def features(self, body: bytes) -> Features | None:
        """None for anything else, also for what is no JSON."""
        if self._decode is None:
            return None
        if self._left_alone:
            self._left_alone -= 1
            return None
        try:
            features: Features | None = self._decode(body).features
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            features = None
        if features is not None and len(features) <= MAX_FEATURES:
            return features
        self._left_alone = _LEFT_ALONE
        return None


_LEFT_ALONE = 100  # documents, after one of another kind
# Out of range numbers, NaN and infinities are no JSON for this decoder.
_PlainScalar = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | float | str | bool | None
_NESTED = frozenset((list, dict))


def _is_vector(document: Any) -> bool:
    """Whether a body is a bare list of several scalars: rows of one feature, or one row of several, as the reply decides."""
    return (
        type(document) is list and len(document) > 1 and not any(type(item) in _NESTED for item in document)
    )


def _parent_of(path: JsonPath) -> JsonPath:
    """The path of the object that holds the prediction, where its probabilities are looked for."""
    steps = path.steps[:-1] if path.steps and isinstance(path.steps[-1], str) else path.steps
    return JsonPath(path.text, steps)


def _probabilities(parent: Any) -> Any:
    if type(parent) is dict:
        return first_of(parent, PROBABILITY_NAMES)
    if type(parent) is list and parent and all(type(item) is dict for item in parent):
        found = [first_of(item, PROBABILITY_NAMES) for item in parent]
        return None if all(value is None for value in found) else found
    return None


def _only(value: Any) -> Any:
    """One row's value of a column that has one row."""
    return value[0] if type(value) is list and len(value) == 1 else value


def _column(value: Any, rows: int, findings: Findings) -> list[Any]:
    """A value a row, from a column beside the predictions; one of another length is noted and not used."""
    if value is None:
        return [None] * rows
    if rows == 1:
        return [_only(value)]
    if type(value) is list and len(value) >= rows:
        if len(value) > rows:
            findings.note(
                Reason.ROW_COUNT_MISMATCH, f"reply: {rows} predictions, {len(value)} values beside them"
            )
            return [None] * rows
        return value
    findings.note(Reason.ROW_COUNT_MISMATCH, f"reply: {rows} predictions, other values beside them")
    return [None] * rows


def build(task: Task, extract: Mapping[str, str | None]) -> Reader:
    """The reader of one model; `extract` may hold `features`, `prediction` and `confidence` paths."""
    return JsonReader(extract.get("features"), extract.get("prediction"), extract.get("confidence"), task)
