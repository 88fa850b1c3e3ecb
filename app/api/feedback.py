"""`POST /feedback` and `GET /predictions/{id}`: outcomes in, single records out. Nothing is acknowledged
before it is in the journal.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response

from app.api import strict_json
from app.api.problems import problem
from app.api.routes import Caller, GatewayRoute, Json, bounded_body, needs
from app.api.schemas import FeedbackReceipt
from app.api.services import Parts
from app.control.outcomes import Receipt
from app.control.ports import Row
from app.domain.prediction import format_id, split_row
from app.errors import InvalidError, JournalFullError, NotFoundError

MAX_BODY = 8 * 1024 * 1024  # a JSON body is read whole; NDJSON is not and has no limit
MAX_LINE = 64 * 1024
BATCH = 2000
PAUSE_S = 0.05  # of the sender: what it sent so far is taken in meanwhile
BATCH_BYTES = 2 * 1024 * 1024
NDJSON = frozenset(
    {"application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"}
)

router = APIRouter(route_class=GatewayRoute, tags=["feedback"])

_OUTCOME: dict[str, Any] = {
    "type": "object",
    "required": ["ground_truth"],
    "additionalProperties": False,
    "properties": {
        "prediction_id": {
            "type": "string",
            "description": "as in X-Prediction-Id; `:row` appended for one row of a batch",
        },
        "model": {"type": "string"},
        "request_id": {"type": "string", "description": "with `model`, instead of `prediction_id`"},
        "ground_truth": {"oneOf": [{"type": "number"}, {"type": "string"}, {"type": "boolean"}]},
        "observed_at": {"type": "string", "format": "date-time", "description": "the newest wins"},
        "source": {"type": "string"},
    },
}
_BODY: dict[str, Any] = {
    "application/json": {
        "schema": {
            "oneOf": [
                _OUTCOME,
                {
                    "type": "object",
                    "required": ["outcomes"],
                    "properties": {"outcomes": {"type": "array", "items": _OUTCOME}},
                },
            ]
        }
    },
    "application/x-ndjson": {
        "schema": {"type": "string", "description": "one outcome a line; any number of them"}
    },
}


@router.post(
    "/feedback",
    status_code=202,
    response_model=FeedbackReceipt,
    **needs("feedback", 413, 415, 422, 503, body=_BODY),
)
async def feedback(request: Request, caller: Caller, parts: Parts) -> Response:
    """Take in ground truth: one outcome, `{"outcomes": […]}`, or NDJSON. 202 once all accepted ones are
    durable.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise HTTPException(415, "send the body without Content-Encoding")
    if kind.startswith("multipart/"):
        raise HTTPException(415, "send application/json or application/x-ndjson")
    receipt = Receipt()
    index = 0
    batches = _lines(request) if kind in NDJSON else _json(request)
    try:
        async for batch in batches:
            await parts.outcomes.take(batch, index, caller.name, receipt)
            index += len(batch)
    except JournalFullError as error:
        return problem(
            503, "journal_full", str(error), headers={"Retry-After": "5"}, accepted=receipt.accepted
        )
    counts: dict[str, Any] = {
        "accepted": receipt.accepted,
        "duplicates": receipt.duplicates,
        "rejected": receipt.rejected,
        **({"rejected_more": receipt.unnamed} if receipt.unnamed else {}),
    }
    if receipt.accepted or receipt.duplicates:
        return Json(counts, 202)
    detail = (
        f"no outcome could be accepted: {receipt.rejected[0]['reason']}"
        if receipt.rejected
        else "there is no outcome"
    )
    return problem(422, "invalid", detail, **counts)


async def _json(request: Request) -> AsyncIterator[list[Any]]:
    body = strict_json.parse(await bounded_body(request, MAX_BODY))
    if isinstance(body, dict) and "outcomes" in body:
        outcomes = body["outcomes"]
        if not isinstance(outcomes, list) or len(body) != 1:
            raise InvalidError('outcomes: an array, and nothing beside it: {"outcomes": […]}')
    else:
        outcomes = [body]
    for start in range(0, len(outcomes), BATCH):
        yield outcomes[start : start + BATCH]


async def _lines(request: Request) -> AsyncIterator[list[Any]]:
    """Batches of parsed lines; a line that cannot be read stands in its batch as the error. Holds one line
    and one batch at most.
    """
    batch: list[Any] = []
    size = 0
    rest = bytearray()
    overlong = False
    async for chunk in _with_pauses(request.stream()):
        if chunk is None:
            if batch:
                yield batch
                batch, size = [], 0
            continue
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            if not overlong:
                rest += chunk[start:end]
            _add_line(batch, rest, overlong)
            size += len(rest)
            rest.clear()
            overlong = False
            start = end + 1
            if len(batch) >= BATCH or size >= BATCH_BYTES:
                yield batch
                batch, size = [], 0
        if not overlong:
            rest += chunk[start:]
        if len(rest) > MAX_LINE:
            overlong = True
            rest.clear()
    _add_line(batch, rest, overlong)
    if batch:
        yield batch


async def _with_pauses(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes | None]:
    """The chunks, and None once wherever the next one lets wait for itself."""
    coming: asyncio.Future[bytes | None] | None = None
    try:
        while True:
            coming = asyncio.ensure_future(anext(chunks, None))
            done, _ = await asyncio.wait({coming}, timeout=PAUSE_S)
            if not done:
                yield None
            chunk = await coming
            if chunk is None:
                return
            yield chunk
    finally:
        if coming is not None:
            coming.cancel()


def _add_line(batch: list[Any], line: bytearray, overlong: bool) -> None:
    if overlong or len(line) > MAX_LINE:
        batch.append(InvalidError(f"a line longer than {MAX_LINE} bytes"))
    elif line.strip(b" \t\r"):
        try:
            batch.append(strict_json.parse(bytes(line)))
        except InvalidError as error:
            batch.append(error)


@router.get("/predictions/{prediction_id}", tags=["predictions"], **needs("read", 404, 422, 503))
async def prediction(prediction_id: str, parts: Parts) -> Response:
    """The record, its shadow answers, its outcomes, and why it was routed so. `id` finds row 0 of a batch,
    `id:3` its fourth. 404 says so when its record is in quarantine, and why.
    """
    try:
        whole, _ = split_row(prediction_id.lower())
    except ValueError as error:
        raise InvalidError(str(error)) from None
    row = await parts.store.prediction(prediction_id.lower())
    if row is None:
        if (reason := await parts.store.quarantined(format_id(whole))) is not None:
            raise NotFoundError(f"the record of this prediction is in quarantine: {reason}")
        raise NotFoundError(
            "the store has no such prediction; that of a recent answer may still be on its way there"
        )
    return Json({**row, "routing": _routing(row)})


def _routing(row: Row) -> dict[str, Any]:
    """Why this version answered, with everything needed to decide it again."""
    names = (
        "role",
        "reason",
        "routing_key",
        "bucket",
        "canary_percent",
        "flags_revision",
        "rollout_id",
        "forced",
        "propensity",
    )
    facts = {name: row.get(name) for name in names}
    return {"version": row.get("model_version"), **facts}
