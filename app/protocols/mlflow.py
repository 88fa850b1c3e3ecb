"""Protocol `mlflow`: the scoring server's `/invocations`, in each of its input forms.

Source: MLflow "Deployment: local inference server" — `dataframe_split`, `dataframe_records`, `instances`, `inputs`, each with
optional `params`, or `text/csv`; the reply is `{"predictions": …}`. Parameters are a fact, not features: they are no model input column.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from typing import Any

from app.protocols.content import parse_json, reply_bytes, request_bytes
from app.protocols.features import json_row, object_row, within_limit
from app.protocols.findings import MAX_NAMED, Findings, two_sided
from app.protocols.record import Exchange, Features, Output, Reader, Reason, UnreadableError
from app.protocols.scoring import Task, output_of, spread
from app.protocols.tfserving import column_outputs, column_rows, instance_rows

_INTEGER = re.compile(r"[+-]?\d{1,18}")
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*([eE][+-]?\d+)?|\.\d+([eE][+-]?\d+)?|inf|Inf|Infinity|nan|NaN)")
_WORDS: dict[str, bool | None] = {"": None, "True": True, "true": True, "False": False, "false": False}


def build(task: Task, extract: Mapping[str, str | None]) -> Reader:
    """The reader of one model."""

    def outputs_of(exchange: Exchange, findings: Findings, rows: int | None) -> list[Output]:
        body = reply_bytes(exchange)
        document = parse_json(body, exchange.response_content_type)
        if type(document) is dict:
            if "predictions" not in document:
                raise UnreadableError(Reason.UNEXPECTED_SHAPE, "no predictions")
            document = document["predictions"]
        if type(document) is dict and document and all(type(value) is list for value in document.values()):
            return column_outputs(document, rows, task, findings)
        return [output_of(value, task, findings) for value in spread(document, rows, task)]

    return two_sided(_features, outputs_of, ("/invocations",))


def _features(exchange: Exchange, findings: Findings) -> list[Features]:
    body = request_bytes(exchange)
    if is_csv(exchange.request_content_type):
        columns, *rows = csv_table(body)
        return [
            object_row(dict(zip(columns, map(_cell, row), strict=True)), findings)
            for row in within_limit(rows, findings)
        ]
    document = parse_json(body, exchange.request_content_type)
    if type(document) is not dict:
        raise UnreadableError(Reason.UNEXPECTED_SHAPE, "the request is no object")
    if type(params := document.get("params")) is dict:
        findings.facts["params"] = object_row(dict(list(params.items())[:MAX_NAMED]), findings)
    if "dataframe_split" in document:
        return _split_rows(document["dataframe_split"], findings)
    if "dataframe_records" in document:
        records = document["dataframe_records"]
        if type(records) is not list:
            raise UnreadableError(Reason.UNEXPECTED_SHAPE, "dataframe_records is no list")
        return [json_row(record, findings) for record in within_limit(records, findings)]
    if "instances" in document:
        return instance_rows(document["instances"], findings)
    if "inputs" in document:
        return column_rows(document["inputs"], findings)
    raise UnreadableError(
        Reason.UNEXPECTED_SHAPE, "none of dataframe_split, dataframe_records, instances, inputs"
    )


def _split_rows(frame: Any, findings: Findings) -> list[Features]:
    """pandas' `orient="split"`: column names once, then a list a row; without names the row's positions name it."""
    data = frame.get("data") if type(frame) is dict else None
    if type(data) is not list:
        raise UnreadableError(Reason.UNEXPECTED_SHAPE, "dataframe_split has no data")
    columns = frame.get("columns")
    if type(columns) is not list:
        return [json_row(row, findings) for row in within_limit(data, findings)]
    names = [column if type(column) is str else str(column) for column in columns]
    rows: list[Features] = []
    for row in within_limit(data, findings):
        if type(row) is not list or len(row) != len(names):
            raise UnreadableError(
                Reason.UNEXPECTED_SHAPE, f"a row of dataframe_split has not {len(names)} values"
            )
        rows.append(object_row(dict(zip(names, row, strict=True)), findings))
    return rows


def is_csv(content_type: str) -> bool:
    """Whether a body is `text/csv`, with or without parameters."""
    return content_type.partition(";")[0].strip().lower() == "text/csv"


def csv_table(body: bytes) -> list[list[str]]:
    """Header and rows of a CSV body (RFC 4180), all of one length. Raises `UnreadableError` for anything else."""
    text = body.decode("utf-8-sig", "replace")
    try:
        table = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    except csv.Error as fault:
        raise UnreadableError(Reason.INVALID_CSV, str(fault)) from None
    if not table:
        raise UnreadableError(Reason.INVALID_CSV, "no header")
    width = len(table[0])
    if any(len(row) != width for row in table):
        raise UnreadableError(Reason.INVALID_CSV, f"not all rows have {width} values")
    return table


def _cell(text: str) -> Any:
    """A cell as pandas would read it: empty is missing, then boolean, number, text."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _DECIMAL.fullmatch(text) else text
