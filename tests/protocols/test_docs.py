"""The page on protocols names all of them and every reason, and so does the configuration."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest

from app.config.model_schema import ModelSection
from app.protocols.record import Exchange, Reason, Row
from app.protocols.registry import PROTOCOLS

PAGE = (Path(__file__).parents[2] / "docs" / "protocols.md").read_text()


def test_every_protocol_and_every_reason_is_documented() -> None:
    assert [name for name in PROTOCOLS if f"| `{name}` |" not in PAGE] == []
    reasons = PAGE.partition("## Reasons")[2].partition("## Adding")[0]
    assert [reason for reason in Reason if f"`{reason}`" not in reasons] == []


def test_the_configuration_knows_exactly_the_protocols_that_can_be_read() -> None:
    assert set(get_args(ModelSection.model_fields["protocol"].annotation)) == set(PROTOCOLS)
    assert set(get_args(ModelSection.model_fields["task"].annotation)) == {
        "binary",
        "multiclass",
        "regression",
        "none",
    }


@pytest.mark.parametrize(
    ("path", "request_body", "reply", "rows", "reason"),
    [
        ("/score", b'{"rows":[{"a":1},{"a":2}]}', b'{"scores":[0.2,0.9]}', [Row({"a": 1}, 0.2, 0.8), Row({"a": 2}, 0.9, 0.9)], None),
        ("/score", b'{"rows":[{"a":1}]}', b"<html>", [Row({"a": 1})], Reason.INVALID_JSON),
        ("/score", b"{}", b'{"scores":[0.2]}', [Row(None, 0.2, 0.8)], Reason.UNEXPECTED_SHAPE),
        ("/health", b"", b"", [], Reason.NOT_INFERENCE),
    ],
)  # fmt: skip
def test_the_example_of_a_new_protocol_reads_what_it_says(
    path: str, request_body: bytes, reply: bytes, rows: list[Row], reason: Reason | None
) -> None:
    [example] = re.findall(r"^```python\n(.*?)^```", PAGE.partition("## Adding")[2], re.MULTILINE | re.DOTALL)
    module: dict[str, Any] = {}
    exec(compile(example, "scores.py", "exec"), module)
    found = module["build"]("binary", {})(
        Exchange(
            path=path,
            request_body=request_body,
            request_content_type="application/json",
            response_body=reply,
            response_content_type="application/json",
            status=200,
        )
    )
    assert (list(found.rows), found.reason) == (rows, reason)
