"""MLflow's aliases and the gateway's versions: champion follows production, a challenger becomes a version, nothing waits for MLflow."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from app.adapters.mlflow_registry import MlflowRegistry
from app.control.aliases import AWAY, Aliases
from app.domain.model import Match, Model, Registered, Version
from tests.control_parts import Control, control, model, until

ALIAS = "/api/2.0/mlflow/registered-models/alias"


@dataclass
class Mlflow:
    """As much of a tracking server as is needed here, over a real socket; `status` is what it answers when it is unwell."""

    aliases: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    unknown: set[str] = field(default_factory=set)  # numbers of versions that it does not have
    status: int = 200  # 0: no answer at all
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next((int(x[15:]) for x in head.lower().split("\r\n") if x.startswith("content-length:")), 0)
        method, target, _ = head.split(" ", 2)
        body = json.loads(await reader.readexactly(length) or b"{}")
        self.calls.append(method)
        assert target.startswith(ALIAS)
        if self.status == 0:
            await reader.read()  # until the client gives up
            writer.close()
            return
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
        if method == "POST" and body["version"] in self.unknown:
            return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST"}
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

    @property
    def counts(self) -> dict[str, float]:
        """What became of changes, as the metric says it."""
        assert {one.name for one in self.aliases.series()} <= {"gateway_registry_changes_total"}
        return {one.labels[0]: one.value for one in self.aliases.series()}


def known(shadow: bool = False) -> Model:
    versions = tuple(
        Version(f"v{n}", (f"http://127.0.0.1:{9000 + n}",), metadata=(("mlflow_version", str(n)),))
        for n in (1, 2)
    )
    return model(versions=versions, registry=Registered("risk", shadow))


@asynccontextmanager
async def followed(directory: Path, *models: Model, poll_s: float = 30.0) -> AsyncIterator[Parts]:
    mlflow = Mlflow()
    server = await asyncio.start_server(mlflow.serve, "127.0.0.1", 0)
    mlflow.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    client = MlflowRegistry(mlflow.url, None, 0.2)
    async with control(directory, *models) as parts:
        parts.controller.leads = True
        aliases = Aliases(
            poll_s, client, parts.registry, parts.flags, parts.clock, lambda: parts.controller.leads
        )
        yield Parts(parts, mlflow, aliases)
    await client.close()
    server.close()
    await server.wait_closed()


async def promote(parts: Parts, version: str) -> None:
    async with parts.gateway.client() as client:
        reply = await client.patch("/admin/models/credit/flags", json={"production": version})
        assert reply.status_code == 200, reply.text


async def test_a_promotion_moves_champion_and_ends_the_challenge(tmp_path: Path) -> None:
    async with followed(tmp_path, known()) as parts:
        parts.mlflow.aliases |= {"champion": "1", "challenger": "2"}
        await promote(parts, "v2")
        assert await parts.aliases.look()
        assert parts.mlflow.aliases == {"champion": "2"}
        assert parts.counts == {"moved": 1, "removed": 1}
        await promote(parts, "v1")  # taken back
        await parts.aliases.look()
        assert parts.mlflow.aliases == {"champion": "1"}


async def test_what_agrees_is_left_alone_however_often_it_is_looked_at(tmp_path: Path) -> None:
    async with followed(tmp_path, known()) as parts:
        parts.mlflow.aliases |= {"champion": "1"}
        for _ in range(3):
            assert await parts.aliases.look()
        assert set(parts.mlflow.calls) == {"GET"}
        assert parts.counts == {}
        parts.mlflow.aliases["champion"] = "7"  # somebody else's hand
        await parts.aliases.look()
        assert parts.mlflow.aliases == {"champion": "1"}


async def test_a_promotion_while_nobody_leads_is_told_by_whoever_leads_next(tmp_path: Path) -> None:
    async with followed(tmp_path, known()) as parts:
        parts.mlflow.aliases |= {"champion": "1", "challenger": "2"}
        parts.gateway.controller.leads = False
        await promote(parts, "v2")
        await parts.aliases.look()
        assert parts.mlflow.calls == []  # only who leads speaks to the registry
        parts.gateway.controller.leads = True
        await parts.aliases.look()
        assert parts.mlflow.aliases == {"champion": "2"}


async def test_a_promotion_made_before_this_process_began_is_told(tmp_path: Path) -> None:
    async with followed(tmp_path, known()) as parts:
        parts.mlflow.status = 503
        await promote(parts, "v2")
        assert not await parts.aliases.look()
    async with followed(tmp_path, known()) as parts:  # the same directory: a restart
        parts.mlflow.aliases |= {"champion": "1"}
        await parts.aliases.look()
        assert parts.mlflow.aliases == {"champion": "2"}


@pytest.mark.parametrize("status", [503, 401, 0], ids=["unwell", "access refused", "silent"])
async def test_a_registry_that_is_away_gets_the_move_later_and_holds_up_nothing(
    tmp_path: Path, status: int
) -> None:
    async with followed(tmp_path, known()) as parts:
        parts.mlflow.status = status
        await promote(parts, "v2")
        assert parts.gateway.flags.current("credit").production == "v2"
        assert not await parts.aliases.look()
        assert parts.counts == {"failed": 1}
        parts.mlflow.status = 200
        assert await parts.aliases.look()
        assert parts.mlflow.aliases == {"champion": "2"}


async def test_a_registry_that_is_away_is_not_asked_for_every_model(tmp_path: Path) -> None:
    models = [replace(known(), name=f"m{number}", match=Match(f"/m{number}")) for number in range(9)]
    async with followed(tmp_path, *models) as parts:
        parts.mlflow.status = 503
        assert not await parts.aliases.look()
        assert len(parts.mlflow.calls) == AWAY


async def test_a_version_that_the_registry_does_not_have_is_counted_and_hides_no_challenger(
    tmp_path: Path,
) -> None:
    async with followed(tmp_path, known()) as parts:
        parts.mlflow.unknown = {"1"}
        parts.mlflow.aliases["challenger"] = "7"
        parts.mlflow.tags["gateway.url"] = "http://127.0.0.1:9007"
        assert await parts.aliases.look()
        assert parts.counts == {"refused": 1}
        assert parts.gateway.registry.model("credit").version("mlflow-7") is not None


async def test_production_without_a_number_leaves_champion_alone(tmp_path: Path) -> None:
    unnumbered = model(registry=Registered("risk", False))
    async with followed(tmp_path, unnumbered) as parts:
        parts.mlflow.aliases |= {"champion": "5"}
        assert await parts.aliases.look()
        assert parts.mlflow.aliases == {"champion": "5"}


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


async def test_as_a_task_it_follows_at_once_and_tries_again_soon(tmp_path: Path) -> None:
    async with followed(tmp_path, known(), poll_s=3600.0) as parts:
        task = asyncio.create_task(parts.aliases.run())
        await until(lambda: parts.mlflow.aliases == {"champion": "1"})
        parts.mlflow.status = 503
        await promote(parts, "v2")  # is not kept waiting for the hour
        await until(lambda: parts.counts.get("failed") == 1)
        parts.mlflow.status = 200
        await until(lambda: parts.mlflow.aliases == {"champion": "2"})
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
