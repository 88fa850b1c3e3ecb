"""Times that callers give: every parameter and body field that takes one refuses what no calendar arithmetic has room for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.test_reports import rows
from tests.control_parts import control, store_rows

BEYOND = [
    "0001-01-01T00:00:00+14:00",
    "0001-01-01T00:00:00Z",
    "1969-12-31T23:59:59Z",
    "2200-01-01T00:00:01Z",
    "9999-12-31T23:59:59-14:00",
    "9999-12-31T23:59:59Z",
]
WITHIN = ["1970-01-01T00:00:00Z", "1970-01-01T14:00:00+14:00", "2199-12-31T10:00:00-14:00"]
REMEDY = "must lie between 1970 and 2200; write a time such as 2026-01-31T12:00:00Z"


def takes_instants(description: Any) -> Iterator[tuple[str, str, str]]:
    """Method, path and name of each query parameter that is a time."""
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            for parameter in operation.get("parameters", []):
                if "date-time" in str(parameter["schema"]):
                    yield method, path, parameter["name"]


@pytest.mark.parametrize("beyond", BEYOND)
async def test_every_parameter_refuses_a_time_beyond_what_can_be_reckoned_with(
    tmp_path: Path, beyond: str
) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        await store_rows(parts.store, rows(20))
        asked = set(takes_instants((await client.get("/openapi.json")).json()))
        assert {name for _, _, name in asked} == {"since", "until", "as_of", "trained_at"}
        for method, path, name in asked:
            params = {"version": "v1", name: beyond}
            reply = await client.request(method, path.replace("{model}", "credit"), params=params)
            assert (reply.status_code, reply.json()["code"]) == (422, "invalid"), (path, name, reply.text)
            assert f"query.{name}: {REMEDY}" in reply.json()["detail"]


@pytest.mark.parametrize("beyond", BEYOND)
@pytest.mark.parametrize("name", ["since", "trained_at"])
async def test_every_field_of_a_body_refuses_it_too(tmp_path: Path, beyond: str, name: str) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        await store_rows(parts.store, rows(200))
        reply = await client.post("/admin/models/credit/baseline", json={"version": "v1", name: beyond})
        assert (reply.status_code, reply.json()["code"]) == (422, "invalid"), reply.text
        assert reply.json()["detail"] == f"{name}: {REMEDY}"


@pytest.mark.parametrize("within", WITHIN)
async def test_the_first_and_last_times_are_answered(tmp_path: Path, within: str) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        await store_rows(parts.store, rows(20), lambda _: 1.0)
        for path in ("performance", "shadow", "training-set", "training-set/manifest"):
            for name in ("since", "until", "as_of"):
                params = {"version": "v1", name: within}
                reply = await client.get(f"/admin/models/credit/{path}", params=params)
                assert reply.status_code == 200, (path, name, reply.text)
