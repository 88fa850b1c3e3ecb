"""Coverage-guided bytes for what reads bodies: every protocol's reader, and the redaction. Each answers with plain values or a reason.

    python -m tests.fuzz.bodies CORPUS -max_total_time=60 -seed=1

Needs atheris, which tests/interop/fuzz.lock brings into an environment of its own. Never more than bytes in memory: no file but the
corpus is written, nothing is sent.
"""

from __future__ import annotations

import json
import sys

import atheris

with atheris.instrument_imports(include=["app.protocols"]):
    from app.protocols.privacy import Redaction, redact_body
    from app.protocols.record import Exchange, Reason
    from app.protocols.registry import PROTOCOLS, build_reader

NAMES = sorted(PROTOCOLS)
READERS = [build_reader(name, None, task) for name in NAMES for task in ("binary", "none")]
TYPES = ["", "application/json", "text/csv", "text/event-stream", "application/octet-stream"]
ENCODINGS = ["", "", "gzip", "deflate"]
REDACTED = Redaction(drop=["x", "a.b", "f0", "x[0]"], hash=["name", "prompt"], salt=b"s")


def one(data: bytes) -> None:
    """A request and its answer, from the two sides of the first 0xFF; the choices are made by the last bytes."""
    given = atheris.FuzzedDataProvider(data)
    reader, name = given.PickValueInList(READERS), given.PickValueInList(NAMES)
    asked_type, said_type = given.PickValueInList(TYPES), given.PickValueInList(TYPES)
    encoding = given.PickValueInList(ENCODINGS)
    length = given.ConsumeIntInRange(-1, 80)
    truncated = given.ConsumeBool()
    asked, _, said = given.ConsumeBytes(given.remaining_bytes()).partition(b"\xff")
    extraction = reader(
        Exchange(
            asked,
            said,
            request_content_type=asked_type,
            response_content_type=said_type,
            request_content_encoding=encoding,
            request_header_length=None if length < 0 else length,
            request_truncated=truncated,
        )
    )
    assert extraction.reason is not Reason.INTERNAL, extraction.detail
    for row in extraction.rows:
        json.dumps((row.features, row.scores, row.prediction, row.confidence), allow_nan=False)
    redacted = redact_body(
        asked,
        asked_type,
        name,
        REDACTED,
        content_encoding=encoding,
        header_length=None if length < 0 else length,
        truncated=truncated,
    )
    assert redacted.reason is not Reason.INTERNAL
    assert not (redacted.reason and redacted.body)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
