"""Protocol `oip`: the Open Inference Protocol V2 of KServe, MLServer, Triton and Seldon, JSON and binary tensors.

A row per leading index. A row's single element takes the tensor's name, several are `name[i]`. Of the outputs, the prediction and
the probabilities are found by the usual names (`scoring`); a single output is the prediction whatever its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.protocols.content import parse_json, reply_bytes, request_bytes
from app.protocols.features import tensor_row
from app.protocols.findings import Findings, two_sided
from app.protocols.record import MAX_ROWS, Exchange, Features, Output, Reader, Reason, UnreadableError
from app.protocols.scoring import Task, named_output, output_of
from app.protocols.tensors import Tensor, read_tensors, split_binary


def build(task: Task, extract: Mapping[str, str | None]) -> Reader:
    """The reader of one model."""

    def outputs_of(exchange: Exchange, findings: Findings, rows: int | None) -> list[Output]:
        document, tensors = _tensors(
            "outputs",
            reply_bytes(exchange),
            exchange.response_content_type,
            exchange.response_header_length,
        )
        for fact in ("model_name", "model_version"):
            if type(value := document.get(fact)) is str:
                findings.facts[fact] = value[:200]
        if rows == 1 and tensors and all(tensor.rows != 1 for tensor in tensors):
            tensors = [
                Tensor(t.name, 1, len(t.data), t.data) for t in tensors
            ]  # a reply without a batch dimension
        count = _rows(tensors, "outputs", findings)
        if len(tensors) == 1:
            only = tensors[0]
            return [output_of(only.row(number), task, findings) for number in range(count)]
        return [
            named_output({tensor.name: tensor.row(number) for tensor in tensors}, task, findings)
            for number in range(count)
        ]

    return two_sided(_features, outputs_of, ("/infer",))


def _features(exchange: Exchange, findings: Findings) -> list[Features]:
    _, tensors = _tensors(
        "inputs",
        request_bytes(exchange),
        exchange.request_content_type,
        exchange.request_header_length,
    )
    return [
        tensor_row([(tensor.name, tensor.row(number)) for tensor in tensors], findings)
        for number in range(_rows(tensors, "inputs", findings))
    ]


def _tensors(
    member: str, body: bytes, content_type: str, header_length: int | None
) -> tuple[dict[str, Any], list[Tensor]]:
    header, binary = split_binary(body, header_length, content_type)
    document = parse_json(header, content_type)
    return document, read_tensors(document, member, binary)


def _rows(tensors: list[Tensor], member: str, findings: Findings) -> int:
    """The rows that all tensors agree on."""
    counts = {tensor.rows for tensor in tensors}
    if len(counts) > 1:
        raise UnreadableError(Reason.ROW_COUNT_MISMATCH, f"{member} have {sorted(counts)[:5]} rows")
    rows = counts.pop() if counts else 0
    if rows > MAX_ROWS:
        findings.note(Reason.ROW_LIMIT, f"{rows} rows; {MAX_ROWS} are kept")
    return min(rows, MAX_ROWS)
