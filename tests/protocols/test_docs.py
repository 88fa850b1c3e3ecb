"""The page on protocols names all of them and every reason, and so does the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from app.config.schema import ModelSection
from app.protocols.record import Reason
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
