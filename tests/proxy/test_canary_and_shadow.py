"""A canary's failure is not the client's, and a shadow is nobody's: whatever they do, the answer is production's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from app.domain.flags import Flags
from app.domain.model import Canary, ControlMirror, Guard, Match, Model, Privacy, RoutingKey, Shadow, Version
from app.protocols.redaction import HASH_DIGITS
from tests.client import Answer, load, post
from tests.misbehaving import MisbehavingUpstream
from tests.worker import eventually, running_worker

NO_CONTROL = Canary(control=ControlMirror(sample=0.0))
GUARD_OFF = Guard(mode="off")


@pytest.fixture(scope="module")
def good() -> Iterator[MisbehavingUpstream]:
    with MisbehavingUpstream(default="ok") as server:
        yield server


@pytest.fixture(scope="module")
def bad() -> Iterator[MisbehavingUpstream]:
    with MisbehavingUpstream() as server:
        yield server


def refused() -> str:
    """A URL at which nothing listens."""
    with MisbehavingUpstream() as server:
        return server.url


def model(
    name: str,
    good: str,
    bad: str,
    *,
    canary: Canary = NO_CONTROL,
    guard: Guard = GUARD_OFF,
    shadow: Shadow | None = None,
    noise: float = 0.0,
) -> Model:
    versions = (Version("v1", (good,), timeout_s=5.0), Version("v2", (bad,), timeout_s=0.3))
    key = RoutingKey("header", "X-User-Id")
    return Model(
        name,
        "v1",
        versions,
        match=Match(f"/{name}"),
        routing_key=key,
        canary=canary,
        guard=guard,
        shadow=replace(shadow or Shadow(), noise_sample=noise),
    )


def flags(name: str, percent: float = 50.0, shadows: tuple[str, ...] = ()) -> Flags:
    return Flags(
        name,
        1,
        "v1",
        "v2" if percent else None,
        percent,
        percent > 0,
        True,
        shadows,
        (),
        "salt",
        "r1" if percent else "",
    )


def roles(answers: list[Answer]) -> set[str]:
    return {a.headers["x-model-role"] for a in answers}


@pytest.mark.parametrize(
    "behaviour", ["error_500", "reset_before_headers", "bad_status_line", "hang", "two_content_lengths"]
)
async def test_a_canary_that_fails_is_answered_from_production(
    good: MisbehavingUpstream, bad: MisbehavingUpstream, behaviour: str
) -> None:
    bad.default = behaviour
    with running_worker([model("m", good.url, bad.url)], [flags("m")]) as worker:
        answers = await load(worker.port, [post("/m/predict", X_User_Id=f"u{n}") for n in range(40)])
        assert {a.status for a in answers} == {200}
        assert roles(answers) == {"production", "fallback"}
        fallbacks = [a for a in answers if a.headers["x-model-role"] == "fallback"]
        assert {a.headers["x-model-version"] for a in fallbacks} == {"v1"}
        failed = [r for r in worker.shadows("m") if r.role == "failed"]
        assert len(failed) == len(fallbacks)
        assert {r.version for r in failed} == {"v2"}
        recorded = [r for r in worker.predictions("m") if r.role == "fallback"]
        assert {r.prediction_id for r in recorded} == {r.prediction_id for r in failed}


async def test_an_unreachable_canary_is_answered_from_production(good: MisbehavingUpstream) -> None:
    with running_worker([model("m", good.url, refused())], [flags("m", 100.0)]) as worker:
        answers = await load(worker.port, [post("/m/predict", X_User_Id="u") for _ in range(10)])
        assert {a.status for a in answers} == {200}
        assert roles(answers) == {"fallback"}


async def test_without_fallback_the_client_sees_what_the_canary_did(
    good: MisbehavingUpstream, bad: MisbehavingUpstream
) -> None:
    bad.default = "error_500"
    canary = Canary(fallback="none", control=ControlMirror(sample=0.0))
    with running_worker([model("m", good.url, bad.url, canary=canary)], [flags("m", 100.0)]) as worker:
        (answer,) = await load(worker.port, [post("/m/predict", X_User_Id="u")])
        assert (answer.status, answer.headers["x-model-role"]) == (500, "canary")


async def test_a_canary_that_only_fails_is_stopped_by_the_workers_own_guard(
    good: MisbehavingUpstream, bad: MisbehavingUpstream
) -> None:
    bad.default = "error_500"
    before = bad.count()
    guarded = model("m", good.url, bad.url, guard=Guard(mode="enforce_if_worse"))
    with running_worker([guarded], [flags("m", 50.0)]) as worker:
        answers = await load(
            worker.port, [post("/m/predict", X_User_Id=f"u{n}") for n in range(400)], connections=4
        )
        assert {a.status for a in answers} == {200}
        # 20 requests fill the window's minimum; what was under way on the other connections may still follow.
        assert 20 <= bad.count() - before <= 20 + 4
        assert "local guard stop" in {r.reason for r in worker.predictions("m")}


async def test_an_incident_that_both_versions_share_does_not_trip_the_guard(bad: MisbehavingUpstream) -> None:
    bad.default = "error_500"
    before = bad.count()
    guarded = model("m", bad.url, bad.url, guard=Guard(mode="enforce_if_worse"))
    with running_worker([guarded], [flags("m", 50.0)]) as worker:
        await load(worker.port, [post("/m/predict", X_User_Id=f"u{n}") for n in range(200)], connections=4)
        assert "local guard stop" not in {r.reason for r in worker.predictions("m")}
        assert bad.count() - before > 200  # canary and fallback both


@pytest.mark.parametrize(
    "behaviour", ["hang", "reset_before_headers", "error_500", "bad_status_line", "huge_header", "drip"]
)
async def test_a_shadow_that_fails_changes_no_answer(
    good: MisbehavingUpstream, bad: MisbehavingUpstream, behaviour: str
) -> None:
    bad.default = behaviour
    shadowed = model("m", good.url, bad.url, shadow=Shadow(timeout_s=0.3, max_concurrency=8))
    with running_worker([shadowed], [flags("m", 0.0, ("v2",))]) as worker:
        answers = await load(worker.port, [post("/m/predict", X_User_Id=f"u{n}") for n in range(100)])
        assert {(a.status, a.headers["x-model-version"], a.body) for a in answers} == {
            (200, "v1", answers[0].body)
        }
        assert len(answers) == 100
        copies = eventually(lambda: worker.shadows("m"), what="a shadow record")
        assert {r.version for r in copies} == {"v2"}  # type: ignore[attr-defined]


async def test_a_shadow_that_answers_without_end_is_cut_off(
    good: MisbehavingUpstream, bad: MisbehavingUpstream
) -> None:
    bad.default = "long_body"
    shadowed = model("m", good.url, bad.url, shadow=Shadow(timeout_s=5.0))
    with running_worker([shadowed], [flags("m", 0.0, ("v2",))]) as worker:
        (answer,) = await load(worker.port, [post("/m/predict")])
        assert answer.status == 200
        (record,) = eventually(lambda: worker.shadows("m"), what="the shadow record")  # type: ignore[misc]
        assert record.error == "too_large"
        assert record.response_size < 16 * 1024 * 1024
        bad.wait_until(lambda server: server.open_connections == 0)


async def test_shadows_beyond_their_bound_are_not_sent(
    good: MisbehavingUpstream, bad: MisbehavingUpstream
) -> None:
    bad.default = "hang"
    before = bad.count()
    shadowed = model("m", good.url, bad.url, shadow=Shadow(timeout_s=20.0, max_concurrency=3))
    with running_worker([shadowed], [flags("m", 0.0, ("v2",))]) as worker:
        answers = await load(worker.port, [post("/m/predict") for _ in range(50)])
        assert {a.status for a in answers} == {200}
        bad.wait_until(lambda server: server.count() - before >= 3)
        assert bad.count() - before == 3


async def test_each_shadow_gets_the_bytes_that_production_got(
    good: MisbehavingUpstream, bad: MisbehavingUpstream
) -> None:
    bad.default = "ok"
    body = b'{"x": NaN, "x": 1e999, "\xff": "\\ud800"}'
    with running_worker([model("m", good.url, bad.url)], [flags("m", 0.0, ("v2",))]) as worker:
        await load(worker.port, [post("/m/bytes", body)])
        bad.wait_until(lambda server: any(request.target == "/m/bytes" for request in server.requests))
        for server in (good, bad):
            received = next(request for request in server.requests if request.target == "/m/bytes")
            assert received.body == body


async def test_a_canarys_request_is_mirrored_to_production_within_the_load_budget(
    good: MisbehavingUpstream, bad: MisbehavingUpstream
) -> None:
    bad.default = "ok"
    canary = Canary(control=ControlMirror(sample=1.0, max_share=0.1))
    with running_worker([model("m", good.url, bad.url, canary=canary)], [flags("m", 50.0)]) as worker:
        answers = await load(worker.port, [post("/m/predict", X_User_Id=f"u{n}") for n in range(1000)])
        canaries = sum(a.headers["x-model-role"] == "canary" for a in answers)

        def controls() -> int:
            return sum(r.role == "control" for r in worker.shadows("m"))

        eventually(lambda: controls() > 0, what="a control record")
        # Each of about 500 canary requests is mirrored with probability 0.1 / 0.5: 5 standard errors.
        assert abs(controls() - 0.2 * canaries) < 5 * (canaries * 0.2 * 0.8) ** 0.5
        assert {r.version for r in worker.shadows("m") if r.role == "control"} == {"v1"}


async def test_dropped_features_reach_neither_the_journal_nor_hashed_ones_in_clear(
    good: MisbehavingUpstream, bad: MisbehavingUpstream
) -> None:
    good.default = bad.default = "echo"
    private = replace(
        model("m", good.url, bad.url),
        protocol="json",
        privacy=Privacy(drop=("ssn",), hash=("email", "X-Request-Id")),
    )
    body = b'{"features": {"ssn": "078-05-1120", "email": "a@b.example", "age": 41}}'
    with running_worker([private], [flags("m", 0.0, ("v2",))]) as worker:
        answers = await load(
            worker.port,
            [
                post("/m/predict", body, X_Request_Id="order-of-erika"),
                post("/m/predict", b'{"ssn": "078-05-1120" broken'),
            ],
        )
        assert body in [a.body for a in answers]  # the client's answer is untouched
        eventually(lambda: len(worker.shadows("m")) == 2, what="both shadow records")
        everything = b"".join(path.read_bytes() for path in worker.journal_directory.glob("*.seg"))
        assert b"078-05-1120" not in everything
        assert b"a@b.example" not in everything
        assert b"order-of-erika" not in everything
        assert any(len(r.request_id or "") == HASH_DIGITS for r in worker.predictions("m"))
        assert b'"age":41' in everything.replace(b" ", b"")
    good.default = "ok"
