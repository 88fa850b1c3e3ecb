"""A record says whether privacy was applied to it: what the configuration says later changes nothing about that."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from app.control.extraction import Extractor
from app.domain.model import Model, Privacy, Version
from app.journal.records import PredictionRecord, ShadowRecord, decode, encode
from tests.journal_records import predicted

NOW = Privacy(hash=("name",))
MODEL = Model("credit", "v1", (Version("v1", ("http://127.0.0.1:1",)),), privacy=NOW)
BODY = b'{"features": {"name": "Ada", "x": 1}}'


def names(model: Model, *, redacted: bool | None) -> Any:
    record = predicted(model="credit", request_body=BODY, redacted=redacted)
    return json.loads(Extractor(lambda: {"credit": model}).prediction(record)[0].features or "")


def test_what_was_written_before_privacy_was_configured_is_hashed_by_the_recorder() -> None:
    features = names(MODEL, redacted=False)
    assert isinstance(features, dict)
    assert features["name"] != "Ada"
    assert features["x"] == 1


def test_what_was_hashed_by_the_worker_is_not_hashed_again() -> None:
    assert names(MODEL, redacted=True) == {"name": "Ada", "x": 1}
    assert names(replace(MODEL, privacy=Privacy()), redacted=True) == {"name": "Ada", "x": 1}


def test_a_record_from_before_that_was_noted_is_judged_by_the_configuration() -> None:
    assert names(MODEL, redacted=None) == {"name": "Ada", "x": 1}


@pytest.mark.parametrize("kind", [PredictionRecord, ShadowRecord])
def test_a_record_without_the_newer_fields_can_still_be_read(
    kind: type[PredictionRecord | ShadowRecord],
) -> None:
    if kind is PredictionRecord:
        record: PredictionRecord | ShadowRecord = predicted()
    else:
        record = ShadowRecord(b"0" * 16, 1, "m", "v", "shadow", 200, 1, "", "", 0, b"")
    older = msgspec.msgpack.decode(encode(record))[:-3]
    found = decode(msgspec.msgpack.encode(older))
    assert isinstance(found, kind)
    assert (found.redacted, found.traceparent) == (None, "")
