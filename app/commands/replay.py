"""replay: decides a recorded request again and says whether the same comes out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated
from urllib.parse import quote

import typer

from app.commands import output
from app.commands.gateway import (
    DATA_DIR,
    Answer,
    AsJson,
    DataDir,
    Gateway,
    RefusedError,
    TokenText,
    Url,
    listed,
    model_path,
)
from app.domain.routing import ERASED, NO_BUCKET, bucket, is_canary

AUDIT_LIMIT = 1000


@dataclass(frozen=True, slots=True)
class Replayed:
    """What was recorded, what comes out now. `reproduced` is None when the record does not say enough."""

    prediction_id: str
    recorded_role: str
    recorded_version: str
    recorded_bucket: int | None
    salt: str | None
    key: str | None
    bucket: int | None
    role: str | None
    reproduced: bool | None
    why: str


def replay(
    prediction_id: Annotated[str, typer.Argument(metavar="PREDICTION_ID", show_default=False)],
    url: Url = None,
    token: TokenText = None,
    data_dir: DataDir = DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Decide a recorded request again. 0 when the same comes out, else 1."""
    with Gateway.at(url, token, data_dir) as gateway:
        record = gateway.get(f"/predictions/{quote(prediction_id, safe=':')}")
        salt = _salt(gateway, record) if _was_drawn(record) else None
    result = decide_again(record, salt)
    if as_json:
        output.emit(asdict(result))
    else:
        output.show_fields(asdict(result))
    raise typer.Exit(0 if result.reproduced else 1)


def decide_again(record: Answer, salt: str | None) -> Replayed:
    """The decision from its recorded inputs alone."""
    identifier = str(record.get("prediction_id", ""))
    role, version = str(record.get("role", "")), str(record.get("model_version", ""))
    recorded = record.get("bucket")
    percent = float(record.get("canary_percent") or 0.0)

    def result(
        reproduced: bool | None, why: str, place: int | None = None, again: str | None = None
    ) -> Replayed:
        return Replayed(identifier, role, version, recorded, salt, key, place, again, reproduced, why)

    key: str | None = None
    if record.get("forced"):
        return result(True, f"forced by the caller to {version}", again=role)
    if record.get("reason") == ERASED:
        return result(None, "what is kept about its routing key was erased, and the bucket with it")
    if not _was_drawn(record):
        why = str(record.get("reason") or "no canary was active")
        expected = role in ("production", "fallback")
        return result(expected, f"no bucket was drawn: {why}", again="production")
    assert isinstance(recorded, int)
    key = record.get("routing_key") or identifier.partition(":")[0]
    drawn = "canary" if is_canary(recorded, percent) else "production"
    same_role = drawn == ("canary" if role == "fallback" else role)
    if not same_role:
        return result(
            False, f"bucket {recorded} at {percent:g} % is {drawn}, recorded was {role}", again=drawn
        )
    if salt is None:
        return result(
            None,
            f"bucket {recorded} at {percent:g} % is {drawn}, as recorded; its salt is no longer known",
            again=drawn,
        )
    place = bucket(str(key), salt)
    if place != recorded:
        return result(False, f"the key gives bucket {place}, recorded was {recorded}", place, drawn)
    return result(True, f"bucket {place} at {percent:g} % is {drawn}", place, drawn)


def _was_drawn(record: Answer) -> bool:
    recorded = record.get("bucket")
    return isinstance(recorded, int) and recorded != NO_BUCKET


def _salt(gateway: Gateway, record: Answer) -> str | None:
    """The salt in force when the request was assigned: the rollout's, else that of the flags with its revision."""
    model, revision, rollout = (
        str(record.get("model")),
        record.get("flags_revision"),
        record.get("rollout_id"),
    )
    if isinstance(record.get("salt"), str):
        return str(record["salt"])
    if rollout:
        try:
            found = gateway.get(model_path(model, "rollouts", str(rollout))).get("salt")
        except RefusedError as error:
            if error.status != 404:
                raise
            found = None
        if isinstance(found, str):
            return found
    flags = gateway.get(model_path(model, "flags"))
    if flags.get("revision") == revision:
        return str(flags.get("salt"))
    entries = listed(gateway.get("/admin/audit", model=model, limit=AUDIT_LIMIT), "entries")
    for entry in entries:
        for state in (entry.get("after"), entry.get("before")):
            if (
                isinstance(state, dict)
                and state.get("revision") == revision
                and isinstance(state.get("salt"), str)
            ):
                return str(state["salt"])
    return None
