"""What a worker tells the controller: each vote once, whatever the client or its key did, and pairs with their own order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from app.domain.evidence.tick import latency_bucket
from app.domain.flags import Flags
from app.domain.model import Canary, ControlMirror, EvidencePolicy, Guard, Match, Model, RoutingKey, Version
from app.link.messages import Frames, Pair, Pairs, Tick, VersionTick, decode_upward
from app.proxy.served import OWN_PAIRS
from tests.client import load, post
from tests.misbehaving import MisbehavingUpstream
from tests.worker import RunningWorker, running_worker

NO_CONTROL = Canary(control=ControlMirror(sample=0.0))


@dataclass
class Heard:
    """The other end of a worker's link."""

    ticks: list[VersionTick] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        frames = Frames()
        while data := await reader.read(65536):
            for body in frames.feed(data):
                with contextlib.suppress(msgspec.DecodeError):
                    self.take(decode_upward(body))
        writer.close()

    def take(self, message: object) -> None:
        if isinstance(message, Tick):
            self.ticks += message.versions
        elif isinstance(message, Pairs):
            self.pairs += message.pairs

    def votes(self, version: str, role: str) -> int:
        return sum(one.requests for one in self.ticks if (one.version, one.role) == (version, role))

    def latencies(self, version: str, role: str) -> dict[int, int]:
        found: dict[int, int] = {}
        for one in self.ticks:
            if (one.version, one.role) == (version, role):
                for bucket, count in one.latency.items():
                    found[bucket] = found.get(bucket, 0) + count
        return found

    async def until(self, holds: object, within_s: float = 10.0) -> None:
        assert callable(holds)
        async with asyncio.timeout(within_s):
            while not holds():
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def heard(model: Model, flags: Flags) -> AsyncIterator[tuple[RunningWorker, Heard]]:
    """A worker, and what it says once a second."""
    with TemporaryDirectory(prefix="mgw") as directory:
        here = Heard()
        server = await asyncio.start_unix_server(here.connected, f"{directory}/link.sock")
        # Starting and ending a worker waits; the link must be served meanwhile.
        running = running_worker([model], [flags], directory=Path(directory))
        worker = await asyncio.to_thread(running.__enter__)
        try:
            yield worker, here
        finally:
            await asyncio.to_thread(running.__exit__, None, None, None)
            server.close()


def model(v1: str, v2: str, **changes: object) -> Model:
    versions = (Version("v1", (v1,), timeout_s=5.0), Version("v2", (v2,), timeout_s=5.0))
    made = Model("m", "v1", versions, match=Match("/m"), guard=Guard(mode="off"), canary=NO_CONTROL)
    return replace(made, **changes)  # type: ignore[arg-type]


def canary(percent: float = 50.0) -> Flags:
    return Flags("m", 1, "v1", "v2", percent, True, True, (), (), "salt", "r1")


async def test_a_key_has_one_vote_an_epoch_and_every_request_is_still_answered_and_recorded() -> None:
    with MisbehavingUpstream(default="ok") as server:
        keyed = model(
            server.url,
            server.url,
            routing_key=RoutingKey("header", "X-User-Id"),
            evidence=EvidencePolicy(unit="key"),
        )
        async with heard(keyed, canary()) as (worker, link):
            requests = [post("/m/predict", X_User_Id=f"u{n % 20}") for n in range(400)]
            assert {a.status for a in await load(worker.port, requests)} == {200}
            await link.until(lambda: link.votes("v1", "production") + link.votes("v2", "canary") >= 15)
            await asyncio.to_thread(worker.predictions, "m")
            assert len(worker.predictions("m")) == 400
        # Twenty keys; two if the minute turned meanwhile. A few may share a slot of the bitmap.
        assert 15 <= link.votes("v1", "production") + link.votes("v2", "canary") <= 40


async def test_a_client_that_does_not_wait_leaves_its_waiting_time_as_evidence() -> None:
    with MisbehavingUpstream(default="ok") as good, MisbehavingUpstream(default="hang") as slow:
        mirrored = Canary(control=ControlMirror(sample=1.0, max_share=1.0))
        async with heard(model(good.url, slow.url, canary=mirrored), canary(100.0)) as (worker, link):
            for _ in range(5):
                reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
                writer.write(post("/m/predict"))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.2):
                        await reader.read(1)
                writer.close()
            await link.until(lambda: sum(link.latencies("v2", "canary").values()) == 5)
            assert min(link.latencies("v2", "canary")) >= latency_bucket(150.0)
            assert link.votes("v2", "canary") == 0  # no answer, so neither right nor wrong
            await link.until(lambda: len(link.pairs) == 5)
        assert all(pair.latency_us > pair.control_latency_us for pair in link.pairs)
        assert {(pair.version, pair.second, pair.error) for pair in link.pairs} == {("v2", "v1", False)}


async def test_production_answers_a_sample_of_its_requests_twice_while_it_is_compared() -> None:
    with MisbehavingUpstream(default="ok") as server:
        mirrored = Canary(control=ControlMirror(sample=1.0, max_share=0.1))
        one = model(server.url, server.url, canary=mirrored)
        sampled = replace(one, shadow=replace(one.shadow, noise_sample=0.2))
        async with heard(sampled, canary(10.0)) as (worker, link):
            await load(worker.port, [post("/m/predict") for _ in range(600)])
            await link.until(lambda: any(pair.version == "v1" for pair in link.pairs))
            copies = [r for r in worker.shadows("m") if r.role == "control"]
            assert {r.version for r in copies} == {"v1"}
        own = sum(pair.version == "v1" for pair in link.pairs)
        # Of about 540 requests of production a fifth: 5 standard errors.
        assert abs(own - 108) < 5 * (540 * 0.2 * 0.8) ** 0.5
        assert {pair.second for pair in link.pairs} == {"v1"}


async def test_at_a_canarys_beginning_production_is_compared_with_itself_more_often_until_there_is_a_margin() -> (
    None
):
    with MisbehavingUpstream(default="ok") as server:
        mirrored = Canary(control=ControlMirror(sample=1.0, max_share=0.5))
        one = model(server.url, server.url, canary=mirrored)
        sampled = replace(one, shadow=replace(one.shadow, noise_sample=1e-9))
        async with heard(sampled, canary(10.0)) as (worker, link):
            for asked in (
                400,
                800,
            ):  # a hundred of the first three hundred or so, and none of what comes later
                await load(worker.port, [post("/m/predict") for _ in range(400)])
                await link.until(lambda: sum(pair.version == "v1" for pair in link.pairs) == OWN_PAIRS)
                await link.until(
                    lambda asked=asked: link.votes("v1", "production") + link.votes("v2", "canary") == asked
                )
        assert sum(pair.version == "v1" for pair in link.pairs) == OWN_PAIRS


async def test_without_a_comparison_nothing_is_answered_twice() -> None:
    with MisbehavingUpstream(default="ok") as server:
        one = model(server.url, server.url)
        sampled = replace(one, shadow=replace(one.shadow, noise_sample=1.0))
        alone = Flags("m", 1, "v1", None, 0.0, False, True, (), (), "salt", "")
        async with heard(sampled, alone) as (worker, link):
            await load(worker.port, [post("/m/predict") for _ in range(50)])
            await link.until(lambda: link.votes("v1", "production") == 50)
        assert server.count() == 50


async def test_while_a_promoted_version_is_watched_the_former_one_answers_copies_and_makes_pairs() -> None:
    with MisbehavingUpstream(default="ok") as server:
        mirrored = Canary(control=ControlMirror(sample=1.0, max_share=0.5))
        watched = Flags("m", 5, "v2", None, 0.0, False, True, ("v1",), (), "salt", "r1")
        one = model(server.url, server.url, canary=mirrored)
        quiet = replace(one, shadow=replace(one.shadow, noise_sample=0.0))
        async with heard(quiet, watched) as (worker, link):
            await load(worker.port, [post("/m/predict") for _ in range(200)], connections=4)
            await link.until(lambda: len(link.pairs) > 0)
        assert {(p.version, p.second, p.rollout_id) for p in link.pairs} == {("v2", "v1", "r1")}
        assert abs(len(link.pairs) - 100) < 5 * (200 * 0.25) ** 0.5
