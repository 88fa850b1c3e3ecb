"""Who answers: sticky, within sampling error, and moving only towards the canary. Over real sockets, against a real worker."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from hashlib import sha256
from itertools import pairwise

import pytest

from app.domain.flags import Flags
from app.domain.model import Match, Model, RoutingKey, Version
from app.domain.policy import AuthPolicy, Token
from tests.client import load, post
from tests.misbehaving import MisbehavingUpstream
from tests.worker import RunningWorker, running_worker

KEYS = [f"user-{number}" for number in range(1000)]


@pytest.fixture(scope="module")
def upstream() -> Iterator[MisbehavingUpstream]:
    with MisbehavingUpstream() as server:
        yield server


def model(upstream: MisbehavingUpstream, name: str, key: RoutingKey, fallback: str = "production") -> Model:
    versions = tuple(Version(version, (upstream.url,)) for version in ("v1", "v2", "v3"))
    return Model(name, "v1", versions, match=Match(f"/{name}", strip=True), routing_key=key)


def canary(name: str, percent: float, salt: str = "rollout-1", **more: object) -> Flags:
    return Flags(name, 1, "v1", "v2", percent, True, True, (), (), salt, "r1", **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def worker(upstream: MisbehavingUpstream) -> Iterator[RunningWorker]:
    models = [
        model(upstream, f"at{percent}", RoutingKey("header", "X-User-Id")) for percent in (5, 10, 25, 50, 100)
    ]
    models += [
        model(upstream, "query", RoutingKey("query", "user")),
        model(upstream, "cookie", RoutingKey("cookie", "session")),
        model(upstream, "field", RoutingKey("json", "$.user.id")),
        model(upstream, "none", RoutingKey()),
    ]
    flags = [canary(m.name, float(m.name[2:]) if m.name.startswith("at") else 50.0) for m in models]
    token = Token("ops", sha256(b"sesame").hexdigest(), ("operate",))
    reader = Token("eye", sha256(b"peek").hexdigest(), ("read",))
    with running_worker(models, flags, auth=AuthPolicy((token, reader))) as running:
        yield running


async def test_the_canary_share_is_within_sampling_error_and_each_key_keeps_its_version(
    worker: RunningWorker,
) -> None:
    requests = [post("/at5/ok", X_User_Id=KEYS[number % 1000]) for number in range(20_000)]
    answers = await load(worker.port, requests)
    assert [a.status for a in answers if a.status != 200] == []
    roles = [a.headers["x-model-role"] for a in answers]
    # 1,000 keys are assigned, 20 requests each: the share is a binomial of 1,000; 4 standard errors either way.
    assert abs(roles.count("canary") / 20_000 - 0.05) < 4 * math.sqrt(0.05 * 0.95 / 1000)
    versions: dict[str, set[str]] = defaultdict(set)
    for record in worker.predictions("at5"):
        versions[str(record.routing_key)].add(record.version)
    assert len(versions) == 1000
    assert {len(seen) for seen in versions.values()} == {1}


async def test_a_ramp_only_moves_keys_towards_the_canary(worker: RunningWorker) -> None:
    on_canary: list[set[str]] = []
    for percent in (5, 10, 25, 50, 100):
        await load(worker.port, [post(f"/at{percent}/ok", X_User_Id=key) for key in KEYS])
        on_canary.append(
            {str(r.routing_key) for r in worker.predictions(f"at{percent}") if r.version == "v2"}
        )
    for smaller, larger in pairwise(on_canary):
        assert smaller < larger
    assert len(on_canary[-1]) == 1000


@pytest.mark.parametrize(
    ("name", "request_of"),
    [
        ("query", lambda key: post(f"/query/ok?user={key}")),
        ("cookie", lambda key: post("/cookie/ok", Cookie=f"a=b; session={key}")),
        ("field", lambda key: post("/field/ok", b'{"user": {"id": "%b"}, "x": 1}' % key.encode())),
    ],
)
async def test_the_key_may_stand_in_a_query_a_cookie_or_a_field(
    worker: RunningWorker, name: str, request_of: object
) -> None:
    await load(worker.port, [request_of(key) for key in KEYS[:50] for _ in range(2)])  # type: ignore[operator]
    seen: dict[str, list[str]] = defaultdict(list)
    for record in worker.predictions(name):
        seen[str(record.routing_key)].append(record.version)
    assert set(seen) == set(KEYS[:50])
    assert all(len(versions) == 2 and len(set(versions)) == 1 for versions in seen.values())
    assert {versions[0] for versions in seen.values()} == {"v1", "v2"}


async def test_without_a_key_each_request_is_assigned_by_its_own_id(worker: RunningWorker) -> None:
    answers = await load(worker.port, [post("/none/ok") for _ in range(400)])
    canaries = sum(a.headers["x-model-role"] == "canary" for a in answers)
    assert abs(canaries - 200) < 4 * math.sqrt(400 * 0.25)
    assert len({a.headers["x-prediction-id"] for a in answers}) == 400


async def test_a_version_is_forced_only_for_a_caller_with_scope_operate(worker: RunningWorker) -> None:
    requests = [
        post("/at5/ok?1", X_Gateway_Version="v3", X_Gateway_Token="sesame"),
        post("/at5/ok?2", X_Gateway_Version="v3", Authorization="Bearer sesame"),
        post("/at5/ok?3", X_Gateway_Version="v3", X_Gateway_Token="peek"),
        post("/at5/ok?4", X_Gateway_Version="v3"),
        post("/at5/ok?5", X_Gateway_Version="v9", X_Gateway_Token="sesame"),
    ]
    answers = await load(worker.port, requests, connections=1)
    assert [a.status for a in answers] == [200, 200, 403, 403, 404]
    assert [a.headers.get("x-model-version") for a in answers[:2]] == ["v3", "v3"]
    forced = [r for r in worker.predictions("at5") if r.forced]
    assert [r.version for r in forced] == ["v3", "v3"]


async def test_a_prediction_id_of_the_clients_is_not_taken(
    worker: RunningWorker, upstream: MisbehavingUpstream
) -> None:
    mine = "01900000-0000-7000-8000-000000000000"
    (answer,) = await load(worker.port, [post("/at5/ok?mine", X_Prediction_Id=mine)])
    assert answer.headers["x-prediction-id"] != mine
    received = next(request for request in upstream.requests if "?mine" in request.target)
    assert received.header("x-prediction-id") == answer.headers["x-prediction-id"]
