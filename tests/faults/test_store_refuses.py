"""Values that PostgreSQL will not take, and outcomes in every wrong order: one record's trouble is never another's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from app.domain.prediction import uuid7
from tests.client import load
from tests.faults.traffic import Database, accounted, credit, predict
from tests.misbehaving import MisbehavingUpstream
from tests.ports import free_port
from tests.servers import PostgresServer
from tests.system import RunningGateway, running_gateway
from tests.worker import eventually

# What clients send in the place of a feature, as bytes of JSON, and whether a store can hold it.
HOSTILE = {
    "nul": (b'"a\\u0000b"', False),
    "lone-surrogate": (b'"\\ud800"', None),
    "nan": (b"NaN", True),
    "infinity": (b"-Infinity", True),
    "huge-exponent": (b"1e999", True),
    "tiny-exponent": (b"1e-20000", True),
    "long-fraction": (b"0." + b"0" * 20_000 + b"1", True),
    "many-digits": (b"9" * 5000, None),
    "deep": (b"[" * 5000 + b"]" * 5000, None),
    "nul-in-a-name": (b'{"a\\u0000": 1}', False),
    "bad-utf8": (b'"\xff\xfe"', None),
}


@pytest.fixture(scope="module")
def system(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer
) -> Iterator[tuple[RunningGateway, Database]]:
    """One gateway with PostgreSQL for the tests of this page."""
    database = asyncio.run(Database.made(postgres_server))
    with (
        MisbehavingUpstream(default="ok") as v1,
        running_gateway(
            tmp_path_factory.mktemp("refuses"),
            credit(v1) | other(v1),
            port=free_port(),
            store={"url": database.url},
        ) as gateway,
    ):
        yield gateway, database


def other(v1: MisbehavingUpstream) -> dict[str, Any]:
    (model,) = credit(v1).values()
    return {"fraud": {**model, "match": {"path_prefix": "/models/fraud", "strip": True}}}


def named(request: bytes, request_id: str) -> bytes:
    return request.replace(b"\r\n\r\n", f"\r\nX-Request-Id: {request_id}\r\n\r\n".encode(), 1)


async def test_a_value_that_postgres_refuses_puts_its_own_record_into_quarantine_and_no_other(
    system: tuple[RunningGateway, Database],
) -> None:
    gateway, database = system
    requests = []
    for name, (value, _) in HOSTILE.items():
        requests += [predict(f"{name}-{number}") for number in range(3)]
        requests.append(predict(name, b'{"features": {"income": 41.5, "x": ' + value + b"}}"))
    answers = await load(gateway.port, requests, connections=1)  # so in order
    assert {answer.status for answer in answers} == {200}
    ids = [answer.headers["x-prediction-id"] for answer in answers]
    accounts = await asyncio.to_thread(gateway.settled)
    stored = set(await database.stored())
    for place, (name, (_, fits)) in enumerate(HOSTILE.items()):
        good, hostile = ids[4 * place : 4 * place + 3], ids[4 * place + 3]
        assert set(good) <= stored, name
        if fits is not None:
            assert (hostile in stored) is fits, name
    refused = len(ids) - len(stored & set(ids))
    assert accounts["quarantined"] == refused >= 2
    kept = await database.rows("SELECT kind, reason, length(record) FROM quarantine")
    assert len(kept) == refused
    assert all(kind == "prediction" and reason and size > 100 for kind, reason, size in kept)


async def test_a_row_that_only_the_database_refuses_is_found_among_the_others(
    system: tuple[RunningGateway, Database],
) -> None:
    gateway, database = system
    await database.rows("CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                        "RAISE EXCEPTION 'not this one'; END $$")  # fmt: skip
    await database.rows(
        "CREATE TRIGGER refusal BEFORE INSERT ON predictions FOR EACH ROW "
        "WHEN (NEW.request_id = 'unwanted') EXECUTE FUNCTION refuse()"
    )
    before = (await asyncio.to_thread(gateway.settled))["quarantined"]
    requests = [predict(f"u{number}") for number in range(300)]
    requests[217] = named(requests[217], "unwanted")
    answers = await load(gateway.port, requests, connections=1)
    ids = [answer.headers["x-prediction-id"] for answer in answers]
    accounts = await asyncio.to_thread(gateway.settled)
    assert set(ids) - set(await database.stored()) == {ids[217]}
    assert accounts["quarantined"] == before + 1
    ((reason,),) = await database.rows("SELECT reason FROM quarantine WHERE reason LIKE '%not this one%'")
    assert "P0001" in reason


# ---- outcomes: doubled, late, contradictory, too early, of another model, of nobody


def feedback(gateway: RunningGateway, *outcomes: dict[str, object]) -> tuple[int, dict[str, Any]]:
    reply = gateway.admin("POST", "/feedback", {"outcomes": list(outcomes)})
    return reply.status_code, reply.json()


async def label_of(database: Database, prediction_id: str) -> Any:
    rows = await database.rows(
        f"SELECT ground_truth::text FROM predictions WHERE prediction_id = '{prediction_id}'"
    )
    return rows[0][0] if rows else None


async def becomes(database: Database, prediction_id: str, label: str) -> None:
    async with asyncio.timeout(30):
        while await label_of(database, prediction_id) != label:
            await asyncio.sleep(0.05)


async def test_outcomes_doubled_corrected_and_late_keep_the_newest_observation(
    system: tuple[RunningGateway, Database],
) -> None:
    gateway, database = system
    (answer,) = await load(gateway.port, [predict("u")], connections=1)
    name = answer.headers["x-prediction-id"]
    first = {"prediction_id": name, "ground_truth": 1, "observed_at": "2026-11-20T10:00:00Z"}
    assert (await asyncio.to_thread(feedback, gateway, first, first))[1]["duplicates"] == 1
    await becomes(database, name, "1.0")
    status, receipt = await asyncio.to_thread(feedback, gateway, first)
    assert (status, receipt["accepted"], receipt["duplicates"]) == (202, 0, 1)
    correction = {**first, "ground_truth": 0, "observed_at": "2026-11-20T12:00:00Z"}
    assert (await asyncio.to_thread(feedback, gateway, correction))[1]["accepted"] == 1
    await becomes(database, name, "0.0")
    late = {
        **first,
        "ground_truth": 1,
        "observed_at": "2026-11-20T11:00:00Z",
    }  # arrives last, but was seen earlier
    assert (await asyncio.to_thread(feedback, gateway, late))[1]["accepted"] == 1
    await asyncio.to_thread(
        eventually, lambda: len(gateway.get(f"/predictions/{name}")["outcomes"]) == 3, 30.0, "three outcomes"
    )
    assert await label_of(database, name) == "0.0"
    assert [one["ground_truth"] for one in gateway.get(f"/predictions/{name}")["outcomes"]] == [0, 1, 1]


async def test_an_outcome_before_its_prediction_waits_and_joins(
    system: tuple[RunningGateway, Database],
) -> None:
    """By the client's request id, which it knows before it asks."""
    gateway, database = system
    early = {"model": "credit", "request_id": "order-17", "ground_truth": 1}
    assert (await asyncio.to_thread(feedback, gateway, early))[1]["accepted"] == 1
    await asyncio.to_thread(gateway.settled)
    (answer,) = await load(gateway.port, [named(predict("u"), "order-17")], connections=1)
    await becomes(database, answer.headers["x-prediction-id"], "1.0")


async def test_an_outcome_of_another_model_is_refused_and_one_of_nobody_waits(
    system: tuple[RunningGateway, Database],
) -> None:
    gateway, database = system
    (answer,) = await load(gateway.port, [predict("u")], connections=1)
    name = answer.headers["x-prediction-id"]
    await asyncio.to_thread(gateway.settled)
    wrong = {"prediction_id": name, "model": "fraud", "ground_truth": 1}
    status, receipt = await asyncio.to_thread(feedback, gateway, wrong)
    assert status == 422
    assert "credit" in receipt["rejected"][0]["reason"]
    unknown = {"prediction_id": str(uuid7(1_790_000_000_000, bytes(10))), "ground_truth": 1}
    assert (await asyncio.to_thread(feedback, gateway, unknown))[1]["accepted"] == 1
    await asyncio.to_thread(gateway.settled)
    waiting = await database.rows("SELECT prediction_id FROM outcomes WHERE state = 'waiting'")
    assert (unknown["prediction_id"],) in waiting
    assert await label_of(database, name) is None


async def test_the_accounts_add_up_after_all_that(system: tuple[RunningGateway, Database]) -> None:
    gateway, database = system
    await accounted(gateway, database, [])
