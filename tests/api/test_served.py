"""The application as it is served: uvicorn on a Unix socket, bodies in pieces, answers that break off."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn

from app.control import training_set
from app.control.ports import Row, Store
from app.control.training_set import FORMATS
from app.errors import UnavailableError
from tests.control_parts import (
    ADMIN,
    START,
    Control,
    control,
    model,
    prediction,
    prediction_id,
    store_rows,
    until,
)


@contextlib.asynccontextmanager
async def served(parts: Control) -> AsyncIterator[httpx2.AsyncClient]:
    path = parts.directory / "api.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        server = uvicorn.Server(uvicorn.Config(parts.application, log_config=None, lifespan="off"))
        serving = asyncio.create_task(server._serve([listener]))
        await until(lambda: server.started)
        transport = httpx2.AsyncHTTPTransport(uds=str(path))
        try:
            async with httpx2.AsyncClient(
                transport=transport, base_url="http://gateway", headers=ADMIN
            ) as client:
                yield client
        finally:
            server.should_exit = True
            await serving


async def test_lines_are_taken_in_while_they_come(tmp_path: Path) -> None:
    async with control(tmp_path, model(task="none")) as parts, served(parts) as client:

        async def lines() -> AsyncIterator[bytes]:
            for number in range(600):
                yield b'{"prediction_id": "%s", "ground_truth": 1}\n' % prediction_id(START, number).encode()
            await until(lambda: parts.writer.records["outcome"] >= 500)  # before the request is at its end
            yield b'{"prediction_id": "%s", "ground_truth": 1}' % prediction_id(START, 600).encode()

        reply = await client.post(
            "/feedback", content=lines(), headers={"Content-Type": "application/x-ndjson"}
        )
        assert reply.json()["accepted"] == 601


async def test_a_client_that_leaves_in_the_middle_leaves_what_it_sent(tmp_path: Path) -> None:
    async with control(tmp_path, model(task="none")) as parts, served(parts) as client:

        async def lines() -> AsyncIterator[bytes]:
            for number in range(500):
                yield b'{"prediction_id": "%s", "ground_truth": 1}\n' % prediction_id(START, number).encode()
            await until(lambda: parts.writer.records["outcome"] == 500)
            raise ConnectionAbortedError

        with pytest.raises(ConnectionAbortedError):
            await client.post("/feedback", content=lines(), headers={"Content-Type": "application/x-ndjson"})
        assert (await client.get("/admin/models")).status_code == 200
        again = [{"prediction_id": prediction_id(START, number), "ground_truth": 1} for number in range(500)]
        assert (await client.post("/feedback", json={"outcomes": again})).json()["duplicates"] == 500


def faltering(store: Store, failures: int) -> None:
    """After the first chunk of rows the store fails, and then so often when it is asked to go on; then once more, amid a chunk."""
    read, picked = store.training_rows, store.review_propensities
    left, chunks_asked = failures, 0

    async def propensities(*arguments: Any) -> dict[str, float]:
        nonlocal chunks_asked
        chunks_asked += 1
        if chunks_asked == 2:
            raise UnavailableError("the database cannot be reached")
        return await picked(*arguments)

    async def rows(*arguments: Any) -> AsyncIterator[list[Row]]:
        nonlocal left
        *_, after = arguments
        chunks = read(*arguments)
        if after is None:
            yield await anext(chunks)
            await chunks.aclose()  # type: ignore[attr-defined]  # an async generator
            raise UnavailableError("the database cannot be reached")
        if left:
            left -= 1
            raise UnavailableError("the database cannot be reached")
        async for chunk in chunks:
            yield chunk

    store.__dict__.update(training_rows=rows, review_propensities=propensities)


@pytest.mark.parametrize("kind", FORMATS)
async def test_an_export_outlives_a_store_that_falters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(training_set, "PAUSES_S", (0.01, 0.01, 0.01))
    async with control(tmp_path) as parts, served(parts) as client:
        at = START - timedelta(days=1)
        await store_rows(parts.store, [prediction(at, number) for number in range(2500)], lambda _: 1.0)
        asked = {"format": kind}
        whole = await client.get("/admin/models/credit/training-set", params=asked)
        asked["as_of"] = whole.headers["x-as-of"]
        faltering(parts.store, failures=1)
        again = await client.get("/admin/models/credit/training-set", params=asked)
        assert again.content == whole.content


async def test_an_export_that_cannot_be_finished_breaks_off_instead_of_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(training_set, "PAUSES_S", (0.01, 0.01, 0.01))
    async with control(tmp_path) as parts, served(parts) as client:
        at = START - timedelta(days=1)
        await store_rows(parts.store, [prediction(at, number) for number in range(1500)], lambda _: 1.0)
        whole = await client.get("/admin/models/credit/training-set")
        assert len(whole.text.splitlines()) == 1500
        faltering(parts.store, failures=100)
        with pytest.raises(httpx2.RemoteProtocolError):
            await client.get("/admin/models/credit/training-set")
    assert [record.exc_info for record in caplog.records if record.exc_info] == []


async def test_an_export_without_the_store_is_a_problem_and_no_broken_file(tmp_path: Path) -> None:
    async with control(tmp_path) as parts, served(parts) as client:
        parts.store.down = True
        reply = await client.get("/admin/models/credit/training-set")
        assert (reply.status_code, reply.json()["code"]) == (503, "unavailable")


async def test_the_dashboard_is_served_with_a_strict_policy_and_nothing_beside_it(tmp_path: Path) -> None:
    async with control(tmp_path) as parts, served(parts) as client:
        page = await client.get("/")
        assert page.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert (await client.get("/ui/app.js")).headers["content-type"].startswith("text/javascript")
        for path in ("/ui/../api/app.py", "/ui/%2e%2e/errors.py", "/ui//etc/passwd", "/ui/", "/ui/views"):
            assert (await client.get(path)).status_code == 404, path
