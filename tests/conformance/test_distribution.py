"""What carries flags, evidence and the lease between hosts behaves alike on one host (local) and on several (Redis).

Each fixture gives as many hosts as the kind of distribution has: one when nothing travels, three on one Redis.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from app.adapters.local import LocalDistribution, LocalLease
from app.adapters.redis_evidence import Listener, RedisEvidence
from app.adapters.redis_flags import RedisDistribution
from app.adapters.redis_lease import RedisLease
from app.control.ports import FlagsDistribution, Lease
from app.domain.flags import Flags
from app.link.messages import GuardTrip, Pair, Pairs, Tick, VersionTick
from tests.control_parts import until

HOSTS = 3
DEADLINE_S = 20.0
kinds = pytest.mark.parametrize("kind", ["local", "redis"])


def flags(revision: int, model: str = "credit", **fields: Any) -> Flags:
    return Flags(model, revision, "v1", **fields)


# ---- flags


@dataclass
class Host:
    """One host's end, and everything it heard."""

    distribution: FlagsDistribution
    heard: list[Flags] = field(default_factory=list)

    async def listen(self) -> None:
        async for changed in self.distribution.changes():
            self.heard.append(changed)

    def newest(self, model: str = "credit") -> Flags | None:
        """As a host takes it in: the highest revision that was heard."""
        return max(
            (one for one in self.heard if one.model == model), key=lambda one: one.revision, default=None
        )


@pytest.fixture
async def hosts(kind: str, request: pytest.FixtureRequest) -> AsyncIterator[list[Host]]:
    if kind == "local":
        made = [Host(LocalDistribution())]
    else:
        url = request.getfixturevalue("redis_url")
        made = [Host(RedisDistribution(url, list)) for _ in range(HOSTS)]
    listening = [asyncio.create_task(host.listen()) for host in made]
    # A first change that all have heard: from then on each one listens.
    async with asyncio.timeout(DEADLINE_S):
        while not all(host.newest("warm-up") for host in made):
            await asyncio.sleep(0.01)
            await made[0].distribution.publish(flags(1, "warm-up"))
    yield made
    for host in made:
        await host.distribution.close()
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(*listening)  # closing ends what listens, without an error


@kinds
async def test_a_change_published_on_any_host_is_heard_on_every_host(hosts: list[Host]) -> None:
    for number, publisher in enumerate(hosts, 1):
        changed = flags(number, candidate="v2", canary_percent=12.5, shadow_versions=("v3",), salt="s")
        await publisher.distribution.publish(changed)
        for host in hosts:
            await until(lambda host=host, changed=changed: changed in host.heard, DEADLINE_S)  # type: ignore[misc]


@kinds
async def test_of_many_changes_every_host_ends_with_the_newest_of_each_model(hosts: list[Host]) -> None:
    newest = {name: flags(40, name, canary_percent=40.0) for name in ("credit", "fraud")}
    for revision in range(1, 41):
        publisher = hosts[revision % len(hosts)]
        for name in newest:
            await publisher.distribution.publish(flags(revision, name, canary_percent=float(revision)))
    for host in hosts:
        await until(lambda host=host: all(host.newest(n) == newest[n] for n in newest), DEADLINE_S)  # type: ignore[misc]


@kinds
async def test_an_older_change_that_comes_late_never_becomes_the_newest(hosts: list[Host]) -> None:
    await hosts[0].distribution.publish(flags(7, candidate="v2"))
    for host in hosts:
        await until(lambda host=host: host.newest() == flags(7, candidate="v2"), DEADLINE_S)  # type: ignore[misc]
    await hosts[-1].distribution.publish(flags(6, candidate="v3"))
    await hosts[-1].distribution.publish(flags(1, "marker"))
    for host in hosts:
        await until(lambda host=host: host.newest("marker") is not None, DEADLINE_S)  # type: ignore[misc]
        assert host.newest() == flags(7, candidate="v2")


@kinds
async def test_after_a_correction_the_right_flags_travel_as_before(hosts: list[Host]) -> None:
    wrong, right = flags(9, candidate="v9"), flags(3, candidate="v2")
    await hosts[0].distribution.correct(wrong, right)  # nothing wrong is held: nothing happens
    await hosts[0].distribution.publish(right)
    for host in hosts:
        await until(lambda host=host: right in host.heard, DEADLINE_S)  # type: ignore[misc]
        assert wrong not in host.heard


# ---- evidence


@dataclass
class Heard:
    """A controller that writes down what it is told."""

    ticks: list[Tick] = field(default_factory=list)
    told_pairs: list[Pairs] = field(default_factory=list)
    trips: list[GuardTrip] = field(default_factory=list)
    writers: set[str] = field(default_factory=set)

    def tick(self, writer: str, tick: Tick) -> None:
        self.writers.add(writer)
        self.ticks.append(tick)

    def pairs(self, writer: str, pairs: Pairs) -> None:
        self.writers.add(writer)
        self.told_pairs.append(pairs)

    def guard_trip(self, writer: str, trip: GuardTrip) -> None:
        self.writers.add(writer)
        self.trips.append(trip)

    def requests(self, second: int) -> int:
        return sum(row.requests for tick in self.ticks if tick.tick == second for row in tick.versions)


Ends = list[tuple[Listener, Heard]]


@pytest.fixture
async def ends(kind: str, request: pytest.FixtureRequest) -> AsyncIterator[Ends]:
    """Of each host: what its workers' messages are given to, and the controller behind it."""
    if kind == "local":
        alone = Heard()
        yield [(alone, alone)]
        return
    url = request.getfixturevalue("redis_url")
    controllers = [Heard() for _ in range(HOSTS)]
    evidence = [RedisEvidence(url, f"host-{n}", heard) for n, heard in enumerate(controllers)]
    running = [asyncio.create_task(one.run()) for one in evidence]
    # Reading begins with what is newest: until every host has heard every other one, nothing counts.
    async with asyncio.timeout(DEADLINE_S):
        while any(len(heard.writers) < HOSTS for heard in controllers):
            for one in evidence:
                one.tick("warm-up", second(0, 0))
            await asyncio.sleep(0.02)
    yield list(zip(evidence, controllers, strict=True))
    for task in running:
        task.cancel()
    for task in running:
        with contextlib.suppress(asyncio.CancelledError):
            await task
    for one in evidence:
        await one.close()


def second(at: int, requests: int) -> Tick:
    row = VersionTick("credit", "v2", "canary", 5.0, 3, "rollout-1", requests, 1, 0, {60: requests})
    return Tick(at, [row])


@kinds
async def test_each_second_of_each_worker_counts_once_for_every_controller(ends: Ends) -> None:
    workers = [(end, f"w{number}") for end, _ in ends for number in range(4)]
    for number, (end, name) in enumerate(workers):
        for at in (101, 102):
            end.tick(name, second(at, 10**number % 9973))
    expected = sum(10**number % 9973 for number in range(len(workers)))
    for _, heard in ends:
        await until(lambda heard=heard: heard.requests(101) == heard.requests(102) == expected, DEADLINE_S)  # type: ignore[misc]
    for end, _ in ends:
        end.tick("w0", second(103, 1))  # after it nothing of before can still be on its way
    for _, heard in ends:
        await until(lambda heard=heard: heard.requests(103) == len(ends), DEADLINE_S)  # type: ignore[misc]
        assert heard.requests(101) == heard.requests(102) == expected


@kinds
async def test_what_is_told_arrives_unchanged_and_workers_of_different_hosts_are_told_apart(
    ends: Ends,
) -> None:
    pair = Pair("credit", "v2", "rollout-1", True, False, 1200, 900)
    sent = Pairs(55, [pair, pair])
    ends[0][0].pairs("w0", sent)
    for end, _ in ends:
        end.tick("same-name", second(7, 3))
    for _, heard in ends:
        await until(lambda heard=heard: heard.told_pairs == [sent], DEADLINE_S)  # type: ignore[misc]
        await until(lambda heard=heard: heard.ticks.count(second(7, 3)) == len(ends), DEADLINE_S)  # type: ignore[misc]
        assert len({name for name in heard.writers if name.endswith("same-name")}) == len(ends)


@kinds
async def test_a_guard_that_trips_is_told_to_its_own_controller_at_once(ends: Ends) -> None:
    trip = GuardTrip("credit", "v2", "rollout-1", 1, "Error rate 100.0% exceeds threshold 5.0%.", 20, 20, 0)
    end, heard = ends[0]
    end.guard_trip("w0", trip)
    assert heard.trips == [trip]  # before the call returns; the flags carry the consequence to other hosts


# ---- lease


@pytest.fixture
async def contenders(kind: str, request: pytest.FixtureRequest) -> AsyncIterator[list[Lease]]:
    """Everyone who may want to hold it, one for each host."""
    if kind == "local":
        made: list[Lease] = [LocalLease()]
    else:
        url = request.getfixturevalue("redis_url")
        made = [RedisLease(url, ttl_s=60.0) for _ in range(HOSTS)]
    yield made
    for one in made:
        await one.release()


async def holders(contenders: list[Lease], order: Callable[[int], int] = lambda n: n) -> set[int]:
    """Who says that it holds the lease, after all have asked for it at once."""
    places = [order(place) for place in range(len(contenders))]
    told = await asyncio.gather(*(contenders[place].acquire() for place in places))
    return {place for place, held in zip(places, told, strict=True) if held}


@kinds
async def test_of_all_who_ask_at_once_exactly_one_holds_the_lease_and_keeps_it(
    contenders: list[Lease],
) -> None:
    first = await holders(contenders)
    assert len(first) == 1
    for _ in range(10):
        assert await holders(contenders, lambda n: len(contenders) - 1 - n) == first


@kinds
async def test_after_the_holder_gave_it_back_exactly_one_holds_the_lease(contenders: list[Lease]) -> None:
    for _ in range(5):
        (holder,) = await holders(contenders)
        await contenders[holder].release()
        assert len(await holders(contenders)) == 1


@kinds
async def test_giving_back_what_one_does_not_hold_takes_it_from_nobody(contenders: list[Lease]) -> None:
    (holder,) = await holders(contenders)
    for place, one in enumerate(contenders):
        if place != holder:
            await one.release()
    assert await holders(contenders) == {holder}
