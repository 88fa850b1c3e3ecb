"""Model servers that hang, drip, reset or break HTTP: in time, never twice, and neither a place nor a connection is lost to them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

import pytest

from app.domain.model import Match, Model, Version
from app.domain.policy import ServerPolicy
from tests.client import Answer, load, post, read_answer
from tests.faults.observed import footprint, forget_peak, peak_mib
from tests.faults.totals import WorkerTotals
from tests.misbehaving import MisbehavingUpstream
from tests.proxy.test_upstream_faults import NOT_HTTP
from tests.worker import RunningWorker, eventually, running_worker

PLACES = 8
Figure = Callable[[str, object], None]


@pytest.fixture(scope="module")
def upstream() -> Iterator[MisbehavingUpstream]:
    with MisbehavingUpstream() as server:
        yield server


@pytest.fixture(scope="module")
def worker(upstream: MisbehavingUpstream) -> Iterator[RunningWorker]:
    """Three models, with a deadline each. There are `PLACES` places for requests: one that is not given back is missed."""
    models = [
        Model(name, "v1", (Version("v1", (upstream.url,), timeout_s=s),), match=Match(f"/{name}", strip=True))
        for name, s in (("brief", 0.5), ("long", 5.0), ("m", 20.0))
    ]
    with running_worker(models, server=ServerPolicy(max_inflight=PLACES)) as running:
        # From here on all its files are open.
        assert running.raw(post("/m/ok", Connection="close")).startswith(b"HTTP/1.1 200 ")
        yield running


@pytest.fixture(scope="module")
def totals(worker: RunningWorker) -> Iterator[WorkerTotals]:
    with WorkerTotals(worker) as found:
        yield found


# ---- row 1: hangs and drips

SILENT = ("hang", "hang_in_head", "drip_head", "interim_for_ever")
BEGUN = ("drip", "hang_in_body", "endless_body")
TORRENTS = ("interim_for_ever", "endless_body")  # from this very process, as fast as it can


async def ended(port: int, request: bytes) -> tuple[Answer | None, float]:
    """What a client sees, and after how many seconds: an answer, or None for one that is cut."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    begun = time.monotonic()
    try:
        writer.write(request)
        answer = await read_answer(reader)
    except (asyncio.IncompleteReadError, ConnectionError, ValueError):  # ValueError: a chunk without its size
        answer = None
    finally:
        writer.close()
    return answer, time.monotonic() - begun


@pytest.mark.parametrize(
    ("model", "deadline_s", "later_s"),
    [
        pytest.param("brief", 0.5, 1.0, id="shortly"),
        pytest.param("long", 5.0, 0.5, id="within a tenth", marks=pytest.mark.faults),
    ],
)
@pytest.mark.parametrize("behaviour", [*SILENT, *BEGUN])
async def test_a_hanging_server_costs_its_deadline_and_no_place(
    worker: RunningWorker,
    upstream: MisbehavingUpstream,
    totals: WorkerTotals,
    behaviour: str,
    model: str,
    deadline_s: float,
    later_s: float,
    record_property: Figure,
) -> None:
    clients = 1 if behaviour in TORRENTS else PLACES
    before = upstream.count()
    asked = [asyncio.create_task(ended(worker.port, post(f"/{model}/{behaviour}"))) for _ in range(clients)]
    await asyncio.to_thread(upstream.wait_until, lambda server: server.count() == before + clients)
    assert totals.inflight() == clients
    during = footprint(worker.process.pid).descriptors
    found = await asyncio.gather(*asked)
    answers = [answer for answer, _ in found]
    if behaviour in BEGUN:
        assert answers == [None] * clients
    else:
        assert [a and (a.status, a.headers["x-gateway-error"]) for a in answers] == [
            (504, "upstream_timeout")
        ] * clients
    took = [seconds for _, seconds in found]
    if behaviour in TORRENTS:  # this process has no time to look at the clock
        took = [record.latency_us / 1e6 for record in worker.predictions(model)[-clients:]]
    assert deadline_s - 0.02 <= min(took)
    assert max(took) <= deadline_s + later_s
    # The place of the request and both connections are given back, and others are served in all places at once.
    totals.all_places_free()
    eventually(
        lambda: footprint(worker.process.pid).descriptors <= during - 2 * clients, what="closed connections"
    )
    again = await load(worker.port, [post("/m/slow?delay=0.1")] * PLACES, connections=PLACES)
    assert {a.status for a in again} == {200}
    assert upstream.count() == before + clients + PLACES  # nothing was sent twice
    if deadline_s > 1:
        record_property("figure", f"{behaviour}: {min(took):.2f} to {max(took):.2f} s of {deadline_s:g} s")


# ---- row 2: resets


@pytest.mark.parametrize("behaviour", ["reset_before_headers", "close_before_headers", "reset_in_head"])
async def test_a_post_on_a_kept_connection_that_is_reset_is_sent_once(
    worker: RunningWorker, upstream: MisbehavingUpstream, totals: WorkerTotals, behaviour: str
) -> None:
    """The server may have acted on it. On a connection that was idle it is most tempting to try again."""
    await load(worker.port, [post("/m/slow?delay=0.2")] * PLACES, connections=PLACES)
    kept = {request.connection for request in upstream.requests[-PLACES:]}
    assert len(kept) == PLACES
    before = len(upstream.requests)
    answers = await load(worker.port, [post(f"/m/{behaviour}")] * PLACES, connections=PLACES)
    assert {a.status for a in answers} == {502}
    arrived = upstream.requests[before:]
    assert len(arrived) == PLACES
    assert {request.connection for request in arrived} == kept
    totals.all_places_free()


# ---- row 3: what is not HTTP


@pytest.mark.parametrize("behaviour", NOT_HTTP)
async def test_a_connection_that_spoke_no_http_is_closed_and_the_next_request_takes_another(
    worker: RunningWorker, upstream: MisbehavingUpstream, totals: WorkerTotals, behaviour: str
) -> None:
    requests = [post("/m/ok"), post(f"/m/{behaviour}"), post("/m/ok"), post("/m/ok")]
    before = len(upstream.requests)
    answers = await load(worker.port, requests, connections=1)
    assert [a.status for a in answers] == [200, 502, 200, 200]
    assert answers[1].headers["x-gateway-error"] == "upstream_protocol"
    first, broken, second, third = (request.connection for request in upstream.requests[before:])
    assert broken == first  # on a connection that had served well
    assert broken not in (second, third)
    assert second == third
    assert totals.inflight() == 0


# ---- row 4: interim answers, trailers, bodies where none belong

IN_STEP = [
    ("POST", "continue_first", 200),
    ("POST", "early_hints_first", 200),
    ("POST", "trailers", 200),
    ("POST", "body_on_204", 204),
    ("POST", "no_content", 204),
    ("POST", "body_on_304", 304),
    ("POST", "more_than_announced", 200),
    ("HEAD", "ok", 200),
    ("HEAD", "body_on_head", 200),
    ("HEAD", "continue_first", 200),
]


@pytest.mark.parametrize(("method", "behaviour", "status"), IN_STEP)
async def test_the_next_requests_on_the_clients_connection_get_their_own_answers(
    worker: RunningWorker, upstream: MisbehavingUpstream, method: str, behaviour: str, status: int
) -> None:
    """The next three, of which the first is sent before the unusual answer has come."""
    reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
    unusual = post(f"/m/{behaviour}").replace(b"POST", method.encode(), 1)
    echoes = [b'{"request": %d}' % number for number in range(3)]
    async with asyncio.timeout(10):
        writer.write(unusual + post("/m/echo", echoes[0]))
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status)
        if method != "HEAD" and status == 200:
            await reader.readuntil(b"0\r\n\r\n" if b"chunked" in head else b"}")
        for number, body in enumerate(echoes):
            if number:
                writer.write(post("/m/echo", body))
            answer = await read_answer(reader)
            assert (answer.status, answer.body) == (200, body)
    writer.close()


async def test_an_answers_trailer_without_end_is_cut_off_and_bounded(
    worker: RunningWorker, upstream: MisbehavingUpstream, totals: WorkerTotals
) -> None:
    await load(worker.port, [post("/m/ok")])
    before = footprint(worker.process.pid).resident_mib
    forget_peak(worker.process.pid)
    async with asyncio.timeout(15):  # far below the deadline of 20 s
        found = await asyncio.gather(*(ended(worker.port, post("/m/endless_trailer")) for _ in range(PLACES)))
    # Cut, or refused where the answer had not begun; never as if it were whole.
    assert {answer.status if answer is not None else None for answer, _ in found} <= {None, 502}
    assert peak_mib(worker.process.pid) - before < 32
    totals.all_places_free()
    eventually(
        lambda: (
            [r.ended for r in worker.predictions("m") if r.target == "/endless_trailer"] == ["cut"] * PLACES
        ),
        what="the records",
    )


# ---- row 5: headers without measure


async def test_answers_with_headers_of_a_megabyte_are_502_in_a_bounded_memory(
    worker: RunningWorker, upstream: MisbehavingUpstream, totals: WorkerTotals
) -> None:
    await load(worker.port, [post("/m/huge_header")] * 2)
    before = footprint(worker.process.pid).resident_mib
    forget_peak(worker.process.pid)
    requests = [post(f"/m/{name}") for name in ("huge_header", "many_headers", "endless_header")] * 16
    answers = await load(worker.port, requests, connections=PLACES)
    assert {(a.status, a.headers["x-gateway-error"]) for a in answers} == {(502, "upstream_protocol")}
    assert peak_mib(worker.process.pid) - before < 32
    totals.all_places_free()
