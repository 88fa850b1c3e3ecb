"""MLflow's aliases and the gateway's versions: champion follows production, a challenger becomes a version, nothing waits for MLflow."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from app.adapters.mlflow_registry import MlflowRegistry
from app.control.aliases import Aliases
from app.control.outbox import Outbox
from app.domain.model import Model, Registered, Version
from tests.control_parts import Control, control, model, until

ALIAS = "/api/2.0/mlflow/registered-models/alias"


@dataclass
class Mlflow:
    """As much of a tracking server as is needed here, over a real socket; `status` is what it answers when it is unwell."""

    aliases: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    status: int = 200
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next((int(x[15:]) for x in head.lower().split("\r\n") if x.startswith("content-length:")), 0)
        method, target, _ = head.split(" ", 2)
        body = json.loads(await reader.readexactly(length) or b"{}")
        self.calls.append(method)
        assert target.startswith(ALIAS)
        status, answer = self.answer(method, target, body)
        data = json.dumps(answer).encode()
        writer.write(
            b"HTTP/1.1 %d x\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (status, len(data), data)
        )
        await writer.drain()
        writer.close()

    def answer(self, method: str, target: str, body: dict[str, str]) -> tuple[int, Any]:
        if self.status != 200:
            return self.status, {"error_code": "TEMPORARILY_UNAVAILABLE"}
        if method == "POST":
            self.aliases[body["alias"]] = body["version"]
        elif method == "DELETE":
            self.aliases.pop(body["alias"], None)
        else:
            number = self.aliases.get(target.rpartition("alias=")[2])
            if number is None:
                return 400, {"error_code": "INVALID_PARAMETER_VALUE"}
            tags = [{"key": key, "value": value} for key, value in self.tags.items()]
            return 200, {"model_version": {"version": number, "source": "s3://b/2", "tags": tags}}
        return 200, {}


@dataclass
class Parts:
    gateway: Control
    mlflow: Mlflow
    aliases: Aliases
    outbox: Outbox


def known(shadow: bool = False) -> Model:
    versions = tuple(
        Version(f"v{n}", (f"http://127.0.0.1:{9000 + n}",), metadata=(("mlflow_version", str(n)),))
        for n in (1, 2)
    )
    return model(versions=versions, registry=Registered("risk", shadow))


@asynccontextmanager
async def followed(directory: Path, followed_model: Model) -> AsyncIterator[Parts]:
    mlflow = Mlflow()
    server = await asyncio.start_server(mlflow.serve, "127.0.0.1", 0)
    mlflow.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    client = MlflowRegistry(mlflow.url, None, 5.0)
    async with control(directory, followed_model) as parts:
        outbox = Outbox(directory / "moves", client.post, parts.clock, "/t")
        parts.controller.leads = True
        aliases = Aliases(
            mlflow.url,
            30.0,
            client,
            outbox,
            parts.registry,
            parts.flags,
            parts.clock,
            lambda: parts.controller.leads,
        )
        yield Parts(parts, mlflow, aliases, outbox)
    await client.close()
    server.close()
    await server.wait_closed()


async def promote(parts: Parts, version: str) -> None:
    async with parts.gateway.client() as client:
        reply = await client.patch("/admin/models/credit/flags", json={"production": version})
        assert reply.status_code == 200, reply.text
    await parts.aliases.moved("credit")


async def test_a_promotion_moves_champion_and_ends_the_challenge(tmp_path: Path) -> None:
    async with followed(tmp_path, known()) as parts:
        parts.mlflow.aliases |= {"champion": "1", "challenger": "2"}
        await promote(parts, "v2")
        await parts.outbox.deliver()
        assert parts.mlflow.aliases == {"champion": "2"}
        assert [(one.labels, one.value) for one in parts.aliases.series()] == [(("delivered",), 1)]
        await promote(parts, "v1")  # taken back
        await parts.outbox.deliver()
        assert parts.mlflow.aliases == {"champion": "1"}


async def test_a_registry_that_is_away_gets_the_move_later_and_holds_up_nothing(tmp_path: Path) -> None:
    async with followed(tmp_path, known()) as parts:
        parts.mlflow.status = 503
        await promote(parts, "v2")
        assert parts.gateway.flags.current("credit").production == "v2"
        await parts.outbox.deliver()
        assert parts.outbox.counts["failed"] == 1
        await parts.aliases.look()  # no challenger comes, and nothing is raised
        parts.mlflow.status = 200
        parts.gateway.clock.turn(2.0)
        again = Outbox(
            tmp_path / "moves", MlflowRegistry(parts.mlflow.url, None, 5.0).post, parts.gateway.clock, "/t"
        )
        await again.deliver()  # also after a restart
        assert parts.mlflow.aliases == {"champion": "2"}


async def test_only_who_leads_speaks_to_the_registry(tmp_path: Path) -> None:
    async with followed(tmp_path, known()) as parts:
        parts.gateway.controller.leads = False
        await promote(parts, "v2")
        await parts.aliases.look()
        assert await parts.outbox.deliver() is None
        assert parts.mlflow.calls == []


@pytest.mark.parametrize("shadow", [False, True])
async def test_a_new_challenger_becomes_a_version_and_may_shadow(tmp_path: Path, shadow: bool) -> None:
    async with followed(tmp_path, known(shadow)) as parts:
        parts.mlflow.aliases["challenger"] = "7"
        await parts.aliases.look()
        assert parts.gateway.registry.model("credit").version("mlflow-7") is None  # it says no address
        parts.mlflow.tags["gateway.url"] = "http://169.254.169.254/"
        await parts.aliases.look()
        assert parts.gateway.registry.model("credit").version("mlflow-7") is None  # one that is never called
        parts.mlflow.tags["gateway.url"] = "http://127.0.0.1:9007"
        await parts.aliases.look()
        await parts.aliases.look()
        made = parts.gateway.registry.model("credit").version("mlflow-7")
        assert made is not None
        assert made.urls == ("http://127.0.0.1:9007",)
        flags = parts.gateway.flags.current("credit")
        assert flags.shadow_versions == (("mlflow-7",) if shadow else ())
        assert flags.candidate is None
        async with parts.gateway.client() as client:
            versions = (await client.get("/admin/models/credit")).json()["versions"]
            entries = (await client.get("/admin/audit?model=credit")).json()["entries"]
        assert {v["name"]: v["registry_uri"] for v in versions} == {
            "v1": "models:/risk/1",
            "v2": "models:/risk/2",
            "mlflow-7": "models:/risk/7",
        }
        assert "version.register" in {entry["action"] for entry in entries}


async def test_it_follows_the_flags_as_a_task(tmp_path: Path) -> None:
    async with followed(tmp_path, known()) as parts:
        tasks = [asyncio.create_task(parts.aliases.run()), asyncio.create_task(parts.outbox.run())]
        async with parts.gateway.client() as client:
            await client.patch("/admin/models/credit/flags", json={"production": "v2"})
        await until(lambda: parts.mlflow.aliases.get("champion") == "2")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
