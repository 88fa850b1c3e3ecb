"""OFREP over HTTP: the router's own decision, and the protocol's errors in its own shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.domain.model import RoutingKey
from app.domain.routing import assign, bucket
from tests.control_parts import Control, control, model, token

FLAGS = "/ofrep/v1/evaluate/flags"
CANARY = {"candidate": "v2", "canary_percent": 30, "canary_enabled": True}


async def ask(client: httpx2.AsyncClient, flag: str, key: str | None = None) -> tuple[int, dict[str, Any]]:
    context = {} if key is None else {"targetingKey": key}
    reply = await client.post(f"{FLAGS}/{flag}", json={"context": context})
    return reply.status_code, reply.json()


async def set_flags(parts: Control, **changes: object) -> None:
    async with parts.client() as client:
        reply = await client.patch("/admin/models/credit/flags", json=changes)
        assert reply.status_code == 200, reply.text


async def test_the_version_is_the_routers_for_every_key(tmp_path: Path) -> None:
    async with control(tmp_path, model(routing_key=RoutingKey("json", "$.user"))) as parts:
        await set_flags(parts, **CANARY)
        flags = parts.flags.current("credit")
        async with parts.client() as client:
            for number in range(200):
                key = f"user-{number}"
                expected = assign(
                    production="v1",
                    candidate="v2",
                    canary_percent=30,
                    canary_enabled=True,
                    disabled_versions=(),
                    key=key,
                    salt=flags.salt,
                )
                status, found = await ask(client, "credit.version", key)
                assert (status, found["value"], found["variant"]) == (200, expected.version, expected.version)
                assert found["reason"] == "SPLIT"
                assert found["metadata"]["bucket"] == bucket(key, flags.salt)
                assert found["metadata"]["role"] == expected.role


async def test_a_key_beyond_ascii_is_read_as_the_header_would_be(tmp_path: Path) -> None:
    async with control(tmp_path, model(routing_key=RoutingKey("header", "X-User-Id"))) as parts:
        await set_flags(parts, **CANARY)
        async with parts.client() as client:
            _, found = await ask(client, "credit.version", " Zoë ")
        on_the_wire = "Zoë".encode().decode("latin-1")
        assert found["metadata"]["bucket"] == bucket(on_the_wire, parts.flags.current("credit").salt)
        assert found["metadata"]["sticky"] is True


async def test_without_a_canary_no_key_is_needed(tmp_path: Path) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        status, found = await ask(client, "credit.version")
        assert (status, found["value"], found["reason"]) == (200, "v1", "STATIC")
        await set_flags(parts, candidate="v2", canary_percent=30, canary_enabled=False)
        assert (await ask(client, "credit.version"))[1]["reason"] == "DISABLED"
        assert (await ask(client, "credit.canary_percent"))[1]["value"] == 0.0
        await set_flags(parts, canary_enabled=True)
        assert (await ask(client, "credit.canary_percent"))[1]["value"] == 30.0
        await set_flags(parts, disabled_versions=["v2"])
        assert (await ask(client, "credit.version"))[1]["reason"] == "DISABLED"


async def test_shadowing_is_a_flag_too(tmp_path: Path) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        assert (await ask(client, "credit.shadow"))[1]["value"] is False
        await set_flags(parts, shadow_versions=["v2", "v3"])
        found = (await ask(client, "credit.shadow"))[1]
        assert (found["value"], found["metadata"]["versions"]) == (True, "v2,v3")
        await set_flags(parts, shadow_enabled=False)
        found = (await ask(client, "credit.shadow"))[1]
        assert (found["value"], found["reason"]) == (False, "DISABLED")


@pytest.mark.parametrize(
    ("flag", "body", "status", "code"),
    [
        ("credit.version", b"{", 400, "PARSE_ERROR"),
        ("credit.version", b"", 400, "PARSE_ERROR"),
        ("credit.version", b'{"context": {}, "context": {}}', 400, "PARSE_ERROR"),
        ("credit.version", b"[]", 400, "INVALID_CONTEXT"),
        ("credit.version", b"{}", 400, "INVALID_CONTEXT"),
        ("credit.version", b'{"context": "x"}', 400, "INVALID_CONTEXT"),
        ("credit.version", b'{"context": {"targetingKey": 7}}', 400, "INVALID_CONTEXT"),
        ("credit.version", b'{"context": {}}', 400, "TARGETING_KEY_MISSING"),
        ("credit.version", b'{"context": {"targetingKey": ""}}', 400, "TARGETING_KEY_MISSING"),
        ("nobody.version", b'{"context": {}}', 404, "FLAG_NOT_FOUND"),
        ("credit.colour", b'{"context": {}}', 404, "FLAG_NOT_FOUND"),
        ("credit", b'{"context": {}}', 404, "FLAG_NOT_FOUND"),
        ("a/b%2Fc", b'{"context": {}}', 404, "FLAG_NOT_FOUND"),
    ],
)
async def test_what_cannot_be_evaluated_is_told_in_the_protocols_words(
    tmp_path: Path, flag: str, body: bytes, status: int, code: str
) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        await set_flags(parts, **CANARY)
        reply = await client.post(f"{FLAGS}/{flag}", content=body)
        assert (reply.status_code, reply.json()["errorCode"]) == (status, code)
        assert reply.json()["key"] == flag.replace("%2F", "/")
        assert reply.json()["errorDetails"]


async def test_all_flags_at_once_are_sent_again_only_when_they_changed(tmp_path: Path) -> None:
    async with control(tmp_path, model(), model("fraud.eu")) as parts, parts.client() as client:
        body = {"context": {"targetingKey": "u7"}}
        first = await client.post(FLAGS, json=body)
        assert first.status_code == 200
        keys = [one["key"] for one in first.json()["flags"]]
        assert keys == [
            f"{name}.{kind}"
            for name in ("credit", "fraud.eu")
            for kind in ("version", "canary_percent", "shadow")
        ]
        tag = first.headers["etag"]
        for sent in (tag, f'"other", W/{tag}'):
            again = await client.post(FLAGS, json=body, headers={"If-None-Match": sent})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        await set_flags(parts, **CANARY)
        changed = await client.post(FLAGS, json=body, headers={"If-None-Match": tag})
        assert changed.status_code == 200
        assert changed.headers["etag"] != tag
        without = (await client.post(FLAGS, json={"context": {}})).json()["flags"]
        failed = [one for one in without if "errorCode" in one]
        assert [(one["key"], one["errorCode"]) for one in failed] == [
            ("credit.version", "TARGETING_KEY_MISSING")
        ]
        assert (await client.post(FLAGS, content=b"?")).json()["errorCode"] == "PARSE_ERROR"


async def test_evaluating_needs_the_scope_read(tmp_path: Path) -> None:
    tokens = (token("f", "f-secret", "feedback"),)
    async with control(tmp_path, tokens=tokens) as parts:
        for header, status in ({}, 401), ({"Authorization": "Bearer f-secret"}, 403):
            async with parts.client(**(header or {"X": "y"})) as client:
                for path in (FLAGS, f"{FLAGS}/credit.version"):
                    assert (await client.post(path, json={"context": {}})).status_code == status
