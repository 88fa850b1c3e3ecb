"""`POST /feedback`: all three forms, what is refused and why, and that nothing is acknowledged before it
is in the journal.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.api import feedback as feedback_module
from app.control.extraction import outcome as stored_outcome
from app.control.ports import Batch, QuarantineRow
from app.domain.policy import JournalPolicy
from app.journal.reader import Journal
from app.journal.records import OutcomeRecord, decode
from tests.control_parts import (
    ADMIN,
    START,
    Control,
    control,
    model,
    prediction,
    prediction_id,
    store_rows,
    token,
)

ID = prediction_id(START, 1)
OTHER = prediction_id(START, 2)
NDJSON = {**ADMIN, "Content-Type": "application/x-ndjson"}


def records(parts: Control) -> list[OutcomeRecord]:
    """What the journal holds, read back from its segments."""
    journal = Journal(parts.directory / "journal")
    found = [
        decode(entry.data) for one in journal.segments() for entry in journal.read(one, 0, 1 << 20).entries
    ]
    return [record for record in found if isinstance(record, OutcomeRecord)]


async def post(parts: Control, body: Any, **headers: str) -> httpx2.Response:
    async with parts.client() as client:
        if isinstance(body, bytes):
            return await client.post("/feedback", content=body, headers=headers)
        return await client.post("/feedback", json=body, headers=headers)


async def test_one_outcome_a_list_and_lines_are_accepted(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        one = await post(parts, {"prediction_id": ID, "ground_truth": 1})
        assert (one.status_code, one.json()) == (202, {"accepted": 1, "duplicates": 0, "rejected": []})
        several = await post(
            parts,
            {
                "outcomes": [
                    {"prediction_id": ID, "ground_truth": 0},
                    {"prediction_id": OTHER, "ground_truth": True},
                ]
            },
        )
        assert several.json() == {"accepted": 2, "duplicates": 0, "rejected": []}
        lines = (
            b'{"prediction_id": "%s", "ground_truth": false}\n\n{"model": "credit", "request_id": "r-1", "ground_truth": "1"}'
            % OTHER.encode()
        )
        assert (await post(parts, lines, **NDJSON)).json() == {"accepted": 2, "duplicates": 0, "rejected": []}
        assert parts.writer.records["outcome"] == 5


async def test_what_was_accepted_is_in_the_journal_as_it_was_sent(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        sent = {
            "prediction_id": f"{ID.upper()}:3",
            "ground_truth": "good",
            "observed_at": "2026-03-01T00:00:00.5+02:00",
            "source": "crm",
        }
        assert (await post(parts, sent)).status_code == 202
        [record] = kept = records(parts)
        assert len(kept) == 1
        assert (record.prediction_id, record.ground_truth, record.source, record.actor) == (
            f"{ID}:3",
            "good",
            "crm",
            "ops",
        )
        assert record.observed_ns == 1_772_316_000_500_000_000


async def test_the_same_outcome_twice_is_one_and_another_is_a_correction(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        first = {"prediction_id": ID, "ground_truth": 1}
        again = {"prediction_id": ID.upper(), "ground_truth": 1.0}
        correction = {"prediction_id": ID, "ground_truth": 0}
        assert (await post(parts, first)).json()["accepted"] == 1
        assert (await post(parts, again)).json() == {"accepted": 0, "duplicates": 1, "rejected": []}
        assert (await post(parts, correction)).json()["accepted"] == 1
        both = await post(parts, {"outcomes": [{**first, "source": "x"}, {**first, "source": "x"}]})
        assert both.json() == {"accepted": 1, "duplicates": 1, "rejected": []}
        assert parts.writer.records["outcome"] == 3


async def test_an_outcome_for_another_model_than_the_predictions_is_refused(tmp_path: Path) -> None:
    async with control(tmp_path, model(), model("churn")) as parts:
        row = prediction(START, 1)
        await store_rows(parts.store, [row])
        reply = await post(parts, {"prediction_id": row.prediction_id, "ground_truth": 1, "model": "churn"})
        assert reply.status_code == 422
        assert reply.json()["rejected"] == [
            {"index": 0, "reason": "the prediction is of model 'credit', not 'churn'"}
        ]


async def test_a_prediction_that_is_not_stored_yet_is_no_reason_to_refuse(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        assert (
            await post(parts, {"prediction_id": ID, "ground_truth": 1, "model": "credit"})
        ).status_code == 202


async def test_feedback_is_accepted_while_the_store_is_down(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        parts.store.down = True
        assert (await post(parts, {"prediction_id": ID, "ground_truth": 1})).json()["accepted"] == 1
        assert (await post(parts, {"prediction_id": ID, "ground_truth": 1})).json()["duplicates"] == 1


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        ({"prediction_id": "no-id", "ground_truth": 1}, "prediction id"),
        ({"prediction_id": "9f8b7c6d-1234-4abc-8def-001122334455", "ground_truth": 1}, "prediction id"),
        ({"prediction_id": f"{ID}:x", "ground_truth": 1}, "row number"),
        ({"prediction_id": ID}, "ground_truth"),
        ({"prediction_id": ID, "ground_truth": None}, "ground_truth"),
        ({"prediction_id": ID, "ground_truth": [1]}, "ground_truth"),
        ({"prediction_id": ID, "ground_truth": ""}, "ground_truth"),
        ({"prediction_id": ID, "ground_truth": 2**60}, "loses digits"),
        ({"prediction_id": ID, "ground_truth": "a\x00b"}, "NUL"),
        ({"prediction_id": ID, "ground_truth": 1, "observed_at": "yesterday"}, "RFC 3339"),
        ({"prediction_id": ID, "ground_truth": 1, "observed_at": "2026-03-01T00:00:00"}, "RFC 3339"),
        ({"prediction_id": ID, "ground_truth": 1, "observed_at": "2126-03-01T00:00:00Z"}, "observed_at"),
        ({"prediction_id": ID, "ground_truth": 1, "observed_at": 5}, "RFC 3339"),
        ({"prediction_id": ID, "ground_truth": 1, "label": 1}, "unknown field 'label'"),
        ({"prediction_id": ID, "ground_truth": 1, "model": "nobody"}, "there is no model"),
        ({"prediction_id": ID, "request_id": "r", "ground_truth": 1}, "not both"),
        ({"request_id": "r", "ground_truth": 1}, "missing"),
        ({"model": "credit", "request_id": "r", "ground_truth": 0.5}, "binary"),
        ({"model": "credit", "request_id": "r", "ground_truth": "maybe"}, "binary"),
        (7, "an object"),
    ],
)
async def test_what_cannot_be_accepted_is_refused_with_its_index_and_reason(
    tmp_path: Path, outcome: Any, reason: str
) -> None:
    async with control(tmp_path) as parts:
        reply = await post(parts, {"outcomes": [{"prediction_id": OTHER, "ground_truth": 1}, outcome]})
        assert (reply.status_code, reply.json()["accepted"]) == (202, 1)
        [rejected] = reply.json()["rejected"]
        assert rejected["index"] == 1
        assert reason in rejected["reason"]
        assert (await post(parts, {"outcomes": [outcome]})).status_code == 422


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"NaN",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"prediction_id": "%s", "ground_truth": NaN}' % ID.encode(),
        b'{"prediction_id": "%s", "ground_truth": 1e999}' % ID.encode(),
        b'{"prediction_id": "%s", "ground_truth": %s}' % (ID.encode(), b"1" * 5000),
        b'\xef\xbb\xbf{"prediction_id": "%s", "ground_truth": 1}' % ID.encode(),
        b'{"prediction_id": "%s", "ground_truth": "\xff"}' % ID.encode(),
        b'{"prediction_id": "%s", "ground_truth": "\\ud800"}' % ID.encode(),
        b'{"prediction_id": "%s", "ground_truth": 1, "ground_truth": 0}' % ID.encode(),
        b'{"outcomes": {}}',
        b'{"outcomes": [], "more": 1}',
        b'{"outcomes": []}',
        b"[]",
        b"null",
        b'{"prediction_id": "%s", "ground_truth": 1} x' % ID.encode(),
    ],
    ids=lambda body: body[:40].decode("latin-1"),
)
@pytest.mark.parametrize("kind", ["application/json", "application/x-ndjson"])
async def test_malformed_bodies_are_the_callers_fault_and_nothing_is_taken_of_them(
    tmp_path: Path, body: bytes, kind: str
) -> None:
    async with control(tmp_path) as parts:
        reply = await post(parts, body, **{"Content-Type": kind})
        assert reply.status_code == 422
        assert reply.headers["content-type"] == "application/problem+json"
        assert parts.writer.received == 0


async def test_a_bad_line_does_not_keep_the_good_ones_out(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        good = json.dumps({"prediction_id": ID, "ground_truth": 1}).encode()
        body = b"\n".join([b"{", good, b'{"x": "' + b"y" * feedback_module.MAX_LINE + b'"}', b"NaN", b""])
        reply = (await post(parts, body, **NDJSON)).json()
        assert reply["accepted"] == 1
        assert [one["index"] for one in reply["rejected"]] == [0, 2, 3]


async def test_what_is_rejected_stands_in_the_order_it_was_sent(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        identity = prediction_id(START, 1)
        await store_rows(parts.store, [prediction(START, 1)])
        outcomes = [
            {"prediction_id": identity, "ground_truth": "no class of a binary task"},  # found out last
            {"prediction_id": "what?", "ground_truth": 1},
            {"ground_truth": 1},
            {"prediction_id": identity, "ground_truth": 1},
            7,
        ]
        reply = (await post(parts, {"outcomes": outcomes})).json()
        assert (reply["accepted"], [one["index"] for one in reply["rejected"]]) == (1, [0, 1, 2, 4])


async def test_many_lines_in_small_pieces_are_streamed_and_named_only_up_to_a_bound(tmp_path: Path) -> None:
    count = 3000

    async def pieces() -> AsyncIterator[bytes]:
        for number in range(count):
            identity = prediction_id(START, number)
            line = b'{"prediction_id": "%s", "ground_truth": %d}\n' % (identity.encode(), number % 3)
            yield line[:17]
            yield line[17:]

    async with control(tmp_path, model(task="none")) as parts, parts.client() as client:
        reply = await client.post("/feedback", content=pieces(), headers=NDJSON)
        assert reply.json() == {"accepted": count, "duplicates": 0, "rejected": []}
        reply = await client.post("/feedback", content=b"x\n" * 1500, headers=NDJSON)
        assert (len(reply.json()["rejected"]), reply.json()["rejected_more"]) == (1000, 500)


async def test_a_full_journal_is_answered_with_503_and_nothing_is_called_accepted(tmp_path: Path) -> None:
    full = JournalPolicy(str(tmp_path / "journal"), max_bytes=1)
    async with control(tmp_path, journal=full) as parts:
        reply = await post(parts, {"prediction_id": ID, "ground_truth": 1})
        assert (reply.status_code, reply.json()["code"], reply.json()["accepted"]) == (503, "journal_full", 0)
        assert reply.headers["retry-after"]


async def test_with_fsync_always_the_answer_waits_for_the_disk(tmp_path: Path) -> None:
    journal = JournalPolicy(str(tmp_path / "journal"), fsync="always")
    async with control(tmp_path, journal=journal) as parts:
        assert (await post(parts, {"prediction_id": ID, "ground_truth": 1})).status_code == 202
        assert len(records(parts)) == 1


async def test_compressed_and_multipart_bodies_and_too_large_ones_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feedback_module, "MAX_BODY", 1000)
    async with control(tmp_path) as parts:
        assert (await post(parts, b"x", **{"Content-Encoding": "gzip"})).status_code == 415
        assert (
            await post(parts, b"x", **{"Content-Type": "multipart/form-data; boundary=x"})
        ).status_code == 415
        assert (await post(parts, b" " * 1001)).status_code == 413


async def test_feedback_needs_its_own_scope_and_reading_does_not_include_it(tmp_path: Path) -> None:
    tokens = (token("labels", "labels-secret", "feedback"), token("viewer", "viewer-secret", "operate"))
    async with control(tmp_path, tokens=tokens) as parts:
        body = {"prediction_id": ID, "ground_truth": 1}
        assert (await post(parts, body, Authorization="Bearer labels-secret")).status_code == 202
        assert (await post(parts, body, Authorization="Bearer viewer-secret")).status_code == 403
        async with parts.client(Authorization="Bearer labels-secret") as client:
            assert (await client.get("/admin/models")).status_code == 403


async def test_counts_by_model_and_result_are_kept(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        row = prediction(START, 1)
        await store_rows(parts.store, [row])
        for _ in range(2):
            await post(parts, {"prediction_id": row.prediction_id, "ground_truth": 1})
        await post(parts, {"prediction_id": row.prediction_id, "ground_truth": 7})
        assert parts.outcomes.counts == {
            ("credit", "accepted"): 1,
            ("credit", "duplicate"): 1,
            ("credit", "rejected"): 1,
        }


async def test_a_prediction_is_shown_with_its_outcomes_and_why_it_was_routed_so(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        row = prediction(
            START,
            1,
            role="canary",
            model_version="v2",
            bucket=42,
            canary_percent=5.0,
            reason="bucket 42 < 500",
            propensity=0.05,
        )
        await store_rows(parts.store, [row], lambda _: 1.0)
        async with parts.client() as client:
            shown = (await client.get(f"/predictions/{row.prediction_id.upper()}")).json()
            assert (shown["prediction"], shown["ground_truth"]) == (0.9, 1.0)
            assert [one["ground_truth"] for one in shown["outcomes"]] == [1.0]
            assert shown["routing"]["reason"] == "bucket 42 < 500"
            assert (shown["routing"]["bucket"], shown["routing"]["propensity"]) == (42, 0.05)
            assert (await client.get(f"/predictions/{ID[:-1]}f")).status_code == 404
            assert (await client.get("/predictions/nonsense")).status_code == 422
            parts.store.down = True
            assert (await client.get(f"/predictions/{row.prediction_id}")).status_code == 503


async def test_a_prediction_in_quarantine_is_said_to_be_there_with_the_reason(tmp_path: Path) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        row = QuarantineRow("w0-1-1", 0, 8, "prediction", "nul_character", b"x", START, ID)
        await parts.store.load(Batch((), (), (), [row], ()))
        for name in (ID, ID.upper(), f"{ID}:3"):
            reply = await client.get(f"/predictions/{name}")
            assert (reply.status_code, reply.json()["code"]) == (404, "not_found")
            assert "in quarantine: nul_character" in reply.json()["detail"]
        assert "quarantine" not in (await client.get(f"/predictions/{OTHER}")).text


async def test_what_was_stored_before_a_restart_is_still_known_as_a_duplicate(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        await post(parts, {"prediction_id": ID, "ground_truth": 1})
        await parts.store.load(Batch((), (), [stored_outcome(record) for record in records(parts)], (), ()))
    async with control(tmp_path) as parts:
        reply = await post(parts, {"prediction_id": ID, "ground_truth": 1})
        assert reply.json() == {"accepted": 0, "duplicates": 1, "rejected": []}
