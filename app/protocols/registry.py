"""Protocol name to reader: the one list of what the gateway can read.

A protocol is a module with `build(task, extract) -> Reader`. The readers made here never raise: a fault in one becomes
`Reason.INTERNAL`, since a body must never stop the recorder.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from app.errors import InvalidError
from app.protocols import json_body, mlflow, oip, opaque, openai, tfserving
from app.protocols.record import Exchange, Extraction, Reader, Reason, Row
from app.protocols.redaction import Redaction
from app.protocols.scoring import Task

Build: TypeAlias = Callable[[Task, Mapping[str, str | None]], Reader]

PROTOCOLS: Final[Mapping[str, Build]] = {
    "json": json_body.build,
    "oip": oip.build,
    "tfserving": tfserving.build,
    "mlflow": mlflow.build,
    "openai": openai.build,
    "opaque": opaque.build,
}


def build_reader(
    protocol: str,
    extract: Mapping[str, str | None] | None = None,
    task: Task = "none",
    redaction: Redaction | None = None,
) -> Reader:
    """Compile a model's reader. Raises `InvalidError` for an unknown protocol or a path outside the subset of `json_paths`."""
    build = PROTOCOLS.get(protocol)
    if build is None:
        raise InvalidError(f"protocol {protocol!r} is unknown: use one of {', '.join(sorted(PROTOCOLS))}")
    read = build(task, extract or {})
    if redaction is None or not redaction:
        return _never_raising(read)
    return _never_raising(_redacting(read, redaction))


def _never_raising(read: Reader) -> Reader:
    def safe(exchange: Exchange) -> Extraction:
        try:
            return read(exchange)
        except RecursionError:
            return Extraction((), Reason.TOO_DEEP, {}, "nested too deeply")
        except Exception as fault:  # whatever a body provokes, it is that body's reason and nothing else's
            return Extraction((), Reason.INTERNAL, {}, _place(fault))

    return safe


def _place(fault: Exception) -> str:
    """The kind of a fault and where it arose; not its message, which may quote the body."""
    frames = traceback.extract_tb(fault.__traceback__)
    where = f" in {frames[-1].name}, line {frames[-1].lineno}" if frames else ""
    return f"{type(fault).__name__}{where}"


def _redacting(read: Reader, redaction: Redaction) -> Reader:
    def redacted(exchange: Exchange) -> Extraction:
        extraction = read(exchange)
        apply = redaction.drop_only if exchange.redacted else redaction.apply
        rows = tuple(
            row
            if row.features is None
            else Row(apply(row.features), row.prediction, row.confidence, row.scores)
            for row in extraction.rows
        )
        facts: dict[str, Any] = dict(extraction.facts)
        if isinstance(params := facts.get("params"), dict):
            facts["params"] = apply(params)
        for listed in ("nonfinite", "too_large"):
            if listed in facts:
                facts[listed] = redaction.without_dropped(facts[listed])
        return Extraction(rows, extraction.reason, facts, extraction.detail)

    return redacted
