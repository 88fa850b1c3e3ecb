"""`canary.control.mode: concurrent`: production is asked at the same time as the canary, once, and its answer is at hand should the canary
fail.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from app.domain.flags import Flags
from app.domain.model import Canary, ControlMirror, Model, Shadow
from tests.client import load, post
from tests.misbehaving import ANSWER, MisbehavingUpstream
from tests.proxy.test_evidence_counted import heard, model
from tests.proxy.test_shared_failures import asked_and_left

CANARY = Flags("m", 1, "v1", "v2", 100.0, True, True, (), (), "salt", "r1")


def concurrent(v1: str, v2: str, *, noise: float = 0.0, **changes: object) -> Model:
    made = model(v1, v2, canary=Canary(control=ControlMirror(1.0, 1.0, "concurrent")), **changes)
    return replace(made, shadow=Shadow(noise_sample=noise))


async def test_a_canary_that_answers_is_the_clients_and_production_is_the_pair() -> None:
    with MisbehavingUpstream(default="ok") as v1, MisbehavingUpstream(default="ok") as v2:
        async with heard(concurrent(v1.url, v2.url), CANARY) as (worker, link):
            answers = await load(worker.port, [post("/m/x", b'{"x": 1}') for _ in range(50)])
            assert {(a.status, a.headers["x-model-role"]) for a in answers} == {(200, "canary")}
            await link.until(lambda: len(link.pairs) == 50)
            controls = [r for r in worker.shadows("m") if r.role == "control"]
        assert (v1.count(), v2.count()) == (50, 50)
        assert {request.body for request in v1.requests} == {b'{"x": 1}'}
        assert {(r.version, r.status, r.response_body) for r in controls} == {("v1", 200, ANSWER)}
        assert len({r.prediction_id for r in controls}) == 50
        assert {(p.version, p.second, p.error, p.control_error) for p in link.pairs} == {
            ("v2", "v1", False, False)
        }


@pytest.mark.parametrize("ill", ["error_500", "reset_before_headers", "slow?delay=9"])
@pytest.mark.parametrize("well", ["ok", "chunked", "slow?delay=0.6"])
async def test_a_canary_that_fails_is_answered_for_by_the_call_that_is_under_way_already(
    ill: str, well: str
) -> None:
    """Whether that call has ended before, streams, or ends after the canary: production is asked once."""
    with MisbehavingUpstream(default="ok") as v1, MisbehavingUpstream(default="ok") as v2:
        made = concurrent(v1.url, v2.url)
        made = replace(
            made,
            versions=(made.versions[0], replace(made.versions[1], timeout_s=0.3)),
        )
        v1.default, v2.default = well.partition("?")[0], ill.partition("?")[0]
        query = "?delay=0.6" if ill != "slow?delay=9" else "?delay=2"
        async with heard(made, CANARY) as (worker, link):
            answers = await load(worker.port, [post("/m/x" + query) for _ in range(8)], connections=8)
            assert {(a.status, a.body, a.headers["x-model-role"]) for a in answers} == {
                (200, ANSWER, "fallback")
            }
            assert {a.headers["x-model-version"] for a in answers} == {"v1"}
            await link.until(lambda: len(link.pairs) == 8)
            records, shadows = worker.predictions("m"), worker.shadows("m")
        assert v1.count() == v2.count() == 8
        assert {(p.error, p.control_error) for p in link.pairs} == {(True, False)}
        assert {(r.version, r.role, r.status, r.response_body) for r in records} == {
            ("v1", "fallback", 200, ANSWER)
        }
        assert {r.role for r in shadows} == {"failed"}
        # From the first byte sent to the last one received, the canary's part included, and none of it twice.
        longest = 2.0 if query.endswith("2") and "slow" in well else 0.6
        assert all(r.latency_us < (longest + 0.5) * 1e6 for r in records)


async def test_what_fails_on_both_versions_is_the_clients_at_once_and_no_evidence() -> None:
    with MisbehavingUpstream(default="error_503") as v1, MisbehavingUpstream(default="error_500") as v2:
        async with heard(concurrent(v1.url, v2.url), CANARY) as (worker, link):
            answers = await load(worker.port, [post("/m/x") for _ in range(10)])
            assert {(a.status, a.headers["x-model-role"]) for a in answers} == {(503, "fallback")}
            await link.until(lambda: link.votes("v2", "canary") == 10)
        told = [one for one in link.ticks if (one.version, one.role) == ("v2", "canary")]
        assert sum(one.errors for one in told) == sum(one.shared_errors for one in told) == 10
        assert v1.count() == 10


async def test_an_answer_too_large_to_hold_is_asked_for_again_and_is_no_failure_of_productions() -> None:
    with MisbehavingUpstream(default="echo") as v1, MisbehavingUpstream(default="error_500") as v2:
        large = b'{"x": "' + b"a" * 300_000 + b'"}'
        async with heard(concurrent(v1.url, v2.url), CANARY) as (worker, link):
            (answer,) = await load(worker.port, [post("/m/x", large)])
            assert (answer.status, answer.body) == (200, large)
            await link.until(lambda: link.votes("v2", "canary") == 1)
        assert 1 <= v1.count() <= 2
        assert not any(pair.control_error for pair in link.pairs)


async def test_production_is_compared_with_itself_in_the_same_way() -> None:
    """The order effect is that of two calls at the same time, and becomes the margin of pairs made so."""
    with MisbehavingUpstream(default="ok") as v1, MisbehavingUpstream(default="ok") as v2:
        none = replace(CANARY, canary_percent=0.01)
        async with heard(concurrent(v1.url, v2.url, noise=1.0), none) as (worker, link):
            answers = await load(worker.port, [post("/m/x") for _ in range(50)])
            produced = sum(a.headers["x-model-role"] == "production" for a in answers)
            await link.until(lambda: len(link.pairs) >= produced)
        assert sum(p.version == p.second == "v1" for p in link.pairs) == produced
        assert v1.count() == 2 * produced + (50 - produced)


async def test_a_client_that_leaves_lets_both_go_and_leaves_its_waiting_time() -> None:
    with MisbehavingUpstream(default="slow") as v1, MisbehavingUpstream(default="hang") as v2:
        async with heard(concurrent(v1.url, v2.url), CANARY) as (worker, link):
            await asked_and_left(worker.port, post("/m/x?delay=0.5"), 0.2)
            await link.until(lambda: len(link.pairs) == 1)
            v2.wait_until(lambda server: server.open_connections == 0)
            (record,) = worker.predictions("m")
        assert (record.role, record.ended) == ("canary", "aborted")
        assert not link.pairs[0].control_error
        assert v1.count() == 1


async def test_beyond_the_bound_canaries_go_alone_and_are_no_pair() -> None:
    with MisbehavingUpstream(default="slow") as v1, MisbehavingUpstream(default="slow") as v2:
        made = concurrent(v1.url, v2.url)
        made = replace(made, shadow=replace(made.shadow, max_concurrency=3))
        async with heard(made, CANARY) as (worker, _):
            async with asyncio.timeout(20):
                answers = await load(worker.port, [post("/m/x?delay=0.3") for _ in range(10)], connections=10)
            assert {(a.status, a.headers["x-model-role"]) for a in answers} == {(200, "canary")}
        assert (v1.count(), v2.count()) == (3, 10)
