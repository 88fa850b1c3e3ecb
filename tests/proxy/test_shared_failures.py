"""A canary's failure is judged together with what production makes of the same request: an input that fails, or hangs, wherever it goes is
nobody's fault.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

import pytest

from app.domain.flags import Flags
from app.domain.model import Canary, ControlMirror, Guard, Model, RoutingKey, Version
from tests.client import load, post
from tests.misbehaving import MisbehavingUpstream
from tests.proxy.test_evidence_counted import Heard, heard, model

MIRRORED = Canary(control=ControlMirror(sample=1.0, max_share=1.0))
STICKY = RoutingKey("header", "X-User-Id")


def canary(percent: float) -> Flags:
    return Flags("m", 1, "v1", "v2", percent, True, True, (), (), "salt", "r1")


def sticky(v1: str, v2: str, *, guard: str = "enforce_if_worse", timeout_s: float = 0.4) -> Model:
    versions = (Version("v1", (v1,), timeout_s=timeout_s), Version("v2", (v2,), timeout_s=timeout_s))
    made = model(v1, v2, versions=versions, routing_key=STICKY, canary=MIRRORED)
    return replace(made, guard=Guard(mode=guard))


async def asked_and_left(port: int, request: bytes, after_s: float) -> None:
    """A client that waits so long and no longer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(after_s):
            await reader.read(1)
    writer.close()


@pytest.mark.parametrize("ill", ["hang", "error_500", "reset_before_headers"])
async def test_inputs_that_fail_on_both_versions_stop_no_canary_and_are_never_a_ticks_only_failures(
    ill: str,
) -> None:
    """Production is tried, and hangs, ticks after the canary's own failure: only the two together are news."""
    with MisbehavingUpstream(default="ok") as server:
        async with heard(sticky(server.url, server.url), canary(50.0)) as (worker, link):
            path = f"/m/{ill}"
            requests = [post("/m/ok", X_User_Id=f"u{n}") for n in range(200)]
            requests[::5] = [post(path, X_User_Id=f"u{n}") for n in range(40)]
            await load(worker.port, requests)
            await link.until(lambda: link.votes("v2", "canary") + link.votes("v1", "production") == 200)
            told = [one for one in link.ticks if (one.version, one.role) == ("v2", "canary")]
            assert sum(one.errors for one in told) > 5
            assert [one.errors for one in told] == [one.shared_errors for one in told]
            assert "local guard stop" not in {r.reason for r in worker.predictions("m")}


async def test_a_canary_that_fails_alone_is_counted_once_production_has_answered() -> None:
    with MisbehavingUpstream(default="ok") as good, MisbehavingUpstream(default="error_500") as bad:
        async with heard(sticky(good.url, bad.url, guard="off"), canary(100.0)) as (worker, link):
            answers = await load(worker.port, [post("/m/x", X_User_Id=f"u{n}") for n in range(30)])
            assert {(a.status, a.headers["x-model-role"]) for a in answers} == {(200, "fallback")}
            await link.until(lambda: link.votes("v2", "canary") == 30)
            await link.until(lambda: len(link.pairs) == 30)
        counted = [one for one in link.ticks if (one.version, one.role) == ("v2", "canary")]
        assert (sum(one.errors for one in counted), sum(one.shared_errors for one in counted)) == (30, 0)
        # The canary failed and production did not: a pair as any other, from calls that were made anyway.
        assert {(pair.version, pair.error, pair.second, pair.control_error) for pair in link.pairs} == {
            ("v2", True, "v1", False)
        }
        assert good.count() == 30


async def test_failed_canaries_are_paired_within_the_budget_like_those_that_answered() -> None:
    """Else the pairs would be a sample chosen by how they ended."""
    with MisbehavingUpstream(default="ok") as good, MisbehavingUpstream(default="error_500") as bad:
        tenth = replace(
            sticky(good.url, bad.url, guard="off"), canary=Canary(control=ControlMirror(1.0, 0.1))
        )
        async with heard(tenth, canary(50.0)) as (worker, link):
            answers = await load(worker.port, [post("/m/x", X_User_Id=f"u{n}") for n in range(1000)])
            failed = sum(a.headers["x-model-role"] == "fallback" for a in answers)
            await link.until(lambda: link.votes("v2", "canary") == failed)
            # What is told of a later request is told after all pairs.
            (last,) = await load(worker.port, [post("/m/x", X_User_Id="the last")])
            failed += last.headers["x-model-role"] == "fallback"
            await link.until(lambda: link.votes("v2", "canary") + link.votes("v1", "production") == 1001)
        # Each with probability 0.1 / 0.5; five standard errors.
        paired = sum(pair.version == "v2" for pair in link.pairs)
        assert abs(paired - 0.2 * failed) < 5 * (failed * 0.2 * 0.8) ** 0.5


async def judged(link: Heard) -> tuple[int, int]:
    await link.until(lambda: link.votes("v2", "canary") == 1)
    told = [one for one in link.ticks if (one.version, one.role) == ("v2", "canary") and one.requests]
    return sum(one.errors for one in told), sum(one.shared_errors for one in told)


@pytest.mark.parametrize(("production", "shared"), [("ok", 0), ("hang", 1)])
async def test_when_the_client_leaves_before_production_has_answered_production_is_asked_again(
    production: str, shared: int
) -> None:
    with (
        MisbehavingUpstream(default=production, script=["hang"]) as v1,
        MisbehavingUpstream(default="error_500") as v2,
    ):
        async with heard(sticky(v1.url, v2.url, guard="off", timeout_s=3.0), canary(100.0)) as (worker, link):
            await asked_and_left(worker.port, post("/m/x", X_User_Id="u"), 0.3)
            assert await judged(link) == (1, shared)


async def test_a_key_whose_inputs_are_slow_on_both_versions_stops_no_canary() -> None:
    """Latencies of two arms are no comparison of the versions where keys are assigned: keys differ in what they send."""
    with MisbehavingUpstream(default="ok") as server:
        made = replace(
            sticky(server.url, server.url, timeout_s=5.0),
            guard=Guard(mode="enforce_if_worse", latency_p99_ms=50.0),
            canary=Canary(control=ControlMirror(sample=0.0)),
        )
        async with heard(made, canary(50.0)) as (worker, _):
            # Of a hundred keys, those of the canary are the slow ones.
            first = await load(worker.port, [post("/m/ok", X_User_Id=f"u{n}") for n in range(100)])
            assert len(first) == 100
            ours = {r.routing_key for r in worker.predictions("m") if r.role == "canary"}
            requests = [
                post(f"/m/{'slow?delay=0.1' if f'u{n}' in ours else 'ok'}", X_User_Id=f"u{n}")
                for n in range(100)
            ]
            await load(worker.port, requests * 2)
            assert "local guard stop" not in {r.reason for r in worker.predictions("m")}


async def test_a_fallback_is_recorded_as_certain_and_every_request_with_its_key() -> None:
    with MisbehavingUpstream(default="ok") as good, MisbehavingUpstream(default="error_500") as bad:
        made = sticky(good.url, bad.url, guard="off")
        async with heard(made, canary(50.0)) as (worker, _):
            await load(worker.port, [post("/m/x", X_User_Id=f"u{n}") for n in range(20)])
            records = worker.predictions("m")
        assert {r.propensity for r in records if r.role == "fallback"} == {1.0}
        assert {r.propensity for r in records if r.role == "production"} == {0.5}
        none = Flags("m", 1, "v1", None, 0.0, False, True, (), (), "salt", "")
        async with heard(made, none) as (worker, _):
            await load(worker.port, [post("/m/x", X_User_Id="erika")])
            (record,) = worker.predictions("m")
        assert (record.routing_key, record.bucket) == ("erika", -1)
