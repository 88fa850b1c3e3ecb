"""A URL that fails while its siblings do not is left out for a growing time; never more than half of them are."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

from hypothesis import given
from hypothesis import strategies as st

from app.domain.model import Canary, Match, Model, Version
from app.proxy.address import Address
from app.proxy.attempt import Attempt
from app.proxy.outliers import CONSECUTIVE, FIRST_S, LONGEST_S, Standing
from app.proxy.upstream import Upstream
from tests.client import load, post
from tests.misbehaving import MisbehavingUpstream
from tests.ports import free_port
from tests.worker import eventually, running_worker


def failed(standing: Standing, now: float, siblings: list[Standing], times: int) -> list[bool]:
    return [standing.failed(now, siblings) for _ in range(times)]


def test_several_failures_in_a_row_eject_and_a_success_between_them_does_not() -> None:
    siblings = [Standing(), Standing()]
    assert failed(siblings[0], 0.0, siblings, CONSECUTIVE - 1) == [False] * (CONSECUTIVE - 1)
    siblings[0].succeeded(0.0)
    assert failed(siblings[0], 0.0, siblings, CONSECUTIVE) == [False] * (CONSECUTIVE - 1) + [True]
    assert siblings[0].out_until == FIRST_S


def test_each_ejection_is_twice_as_long_up_to_a_bound_and_short_again_after_a_good_time() -> None:
    siblings = [Standing(), Standing()]
    one, now, spans = siblings[0], 0.0, []
    failed(one, now, siblings, CONSECUTIVE - 1)
    for _ in range(10):
        assert one.failed(now, siblings)  # once back, one failure suffices
        spans.append(one.span_s)
        now = one.out_until + 0.01
    assert spans[:4] == [FIRST_S, 2 * FIRST_S, 4 * FIRST_S, 8 * FIRST_S]
    assert spans[-1] == LONGEST_S
    one.succeeded(now)
    assert one.ejections > 0  # back, but not for long
    one.succeeded(now + LONGEST_S)
    failed(one, now + LONGEST_S, siblings, CONSECUTIVE)
    assert one.span_s == FIRST_S


@given(
    count=st.integers(1, 8),
    events=st.lists(st.tuples(st.integers(0, 7), st.booleans(), st.floats(0.0, 2.0)), max_size=300),
)
def test_never_more_than_half_are_out(count: int, events: list[tuple[int, bool, float]]) -> None:
    siblings = [Standing() for _ in range(count)]
    now = 0.0
    for place, good, later in events:
        now += later
        one = siblings[place % count]
        if good:
            one.succeeded(now)
        else:
            one.failed(now, siblings)
        assert 2 * sum(standing.out_until > now for standing in siblings) <= count


class Head:
    def at(self, address: Address, framing: bytes) -> bytes:
        return b"POST / HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (address.authority, framing)


class Asked:
    """Whoever waits for an attempt; a failure is as much an end as an answer."""

    def __init__(self) -> None:
        self.ended: asyncio.Future[Attempt] = asyncio.get_running_loop().create_future()

    def progressed(self, attempt: Attempt) -> None:
        pass

    def answered(self, attempt: Attempt) -> None:
        self.ended.set_result(attempt)

    failed = answered
    drained = stalled = progressed


async def ask(upstream: Upstream) -> Attempt:
    asked = Asked()
    upstream.start(Attempt(upstream, asked, b"POST", Head(), b"Content-Length: 0\r\n", b""))
    return await asked.ended


async def test_each_kind_of_failure_counts_and_is_told_with_its_reason() -> None:
    reasons = {
        "error_503": "status",
        "reset_before_headers": "unreachable",
        "bad_status_line": "protocol",
        "hang": "timeout",
        "close_mid_body": "cut",
    }
    for behaviour, reason in reasons.items():
        told: list[tuple[int, str]] = []
        with MisbehavingUpstream(default=behaviour) as bad, MisbehavingUpstream() as good:
            upstream = Upstream(
                asyncio.get_running_loop(),
                (bad.url, good.url),
                timeout_s=0.05 if behaviour == "hang" else 5.0,
                connect_timeout_s=2.0,
                on_eject=lambda place, why, told=told: told.append((place, why)),  # type: ignore[misc]
            )
            async with asyncio.timeout(20):
                while not told:
                    assert upstream.ejected == 0
                    await ask(upstream)
                assert upstream.ejected == 1
                while upstream.ejected:  # its time is over
                    await asyncio.sleep(0.05)
            upstream.close()
        assert told == [(0, reason)]


def several(urls: tuple[str, ...]) -> Model:
    version = Version("v1", urls, timeout_s=5.0, connect_timeout_s=0.5)
    return Model("m", "v1", (version,), match=Match("/m", strip=True), canary=Canary(fallback="none"))


async def test_a_failing_url_gets_no_requests_until_it_comes_back_and_recovers() -> None:
    with ExitStack() as stack:
        bad = stack.enter_context(MisbehavingUpstream(default="error_500"))
        good = [stack.enter_context(MisbehavingUpstream()) for _ in range(2)]
        worker = stack.enter_context(running_worker([several((bad.url, *(one.url for one in good)))]))
        answers = await load(worker.port, [post("/m/x")] * 300, connections=2)
        failures = sum(answer.status == 500 for answer in answers)
        # The first failures; two may be under way when it is ejected; one each time that it comes back.
        assert CONSECUTIVE <= failures == bad.count() <= CONSECUTIVE + 10
        bad.default = "ok"
        before = bad.count()
        answers = []
        while bad.count() < before + 20:  # its time is over: it does well, and is as good as the others
            answers += await load(worker.port, [post("/m/x")] * 20, connections=2)
        assert {answer.status for answer in answers} == {200}


async def test_when_all_urls_fail_half_of_them_are_still_asked() -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(MisbehavingUpstream(default="error_503")) for _ in range(4)]
        worker = stack.enter_context(running_worker([several(tuple(one.url for one in servers))]))
        answers = await load(worker.port, [post("/m/x")] * 200, connections=4)
        assert {answer.status for answer in answers} == {503}  # the servers' own answer each time
        assert sum(one.count() for one in servers) == 200


async def test_a_url_that_refuses_connections_costs_no_request() -> None:
    with MisbehavingUpstream() as good:
        gone = f"http://127.0.0.1:{free_port()}"
        with running_worker([several((gone, good.url))]) as worker:
            answers = await load(worker.port, [post("/m/x")] * 200, connections=4)
            assert {answer.status for answer in answers} == {200}
            eventually(lambda: good.count() == 200)
