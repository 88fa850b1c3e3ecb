"""Header injection both ways: what could split a message or speak for the gateway is refused or ends at a real worker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from app.domain.model import Match, Model, Version
from tests.faults.observed import footprint, forget_peak, peak_mib
from tests.misbehaving import MisbehavingUpstream
from tests.security.tokens import request, status_of
from tests.worker import RunningWorker, running_worker


@pytest.fixture(scope="module")
def worker(upstream: MisbehavingUpstream) -> Iterator[RunningWorker]:
    model = Model("m", "v1", (Version("v1", (upstream.url,), timeout_s=5.0),), match=Match("/m", strip=True))
    with running_worker([model]) as running:
        yield running


REFUSED = {
    "a bare CR in a value": b"X-A: b\rX-Injected: 1\r\n",
    "a bare LF in a value": b"X-A: b\nX-Injected: 1\r\n",
    "NUL in a value": b"X-A: b\0c\r\n",
    "NUL in a name": b"X-\0A: b\r\n",
    "a space in a name": b"X A: b\r\n",
    "a space before the colon": b"X-A : b\r\n",
    "no name": b": b\r\n",
    "no colon": b"X-Injected\r\n",
    "a folded line": b"X-A: b\r\n X-Injected: 1\r\n",
    "a control character": b"X-A: b\x01\r\n",
    "a name beyond ASCII": b"X-\xc3\xa9: b\r\n",
    "CR CR LF": b"X-A: b\r\r\nX-Injected: 1\r\n",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_field_that_could_split_the_head_is_refused(
    worker: RunningWorker, upstream: MisbehavingUpstream, name: str
) -> None:
    before = upstream.count()
    answer = worker.raw(b"GET /m/echo HTTP/1.1\r\nHost: t\r\n" + REFUSED[name] + b"\r\n")
    assert status_of(answer) == 400
    assert b"X-Gateway-Error: bad_request" in answer
    assert b"X-Injected" not in answer
    assert upstream.count() == before


@pytest.mark.parametrize(
    "target",
    [
        b"/m/a\rb",
        b"/m/a\x00b",
        b"/m/a\x0bb",
        b"/m/a b",
        b"/m/%0d%0aX-Injected:%201",
        b"/m/%0D%0ASet-Cookie:x",
        b"/m/%00",
    ],
)
def test_a_target_that_could_split_the_head_is_refused(
    worker: RunningWorker, upstream: MisbehavingUpstream, target: bytes
) -> None:
    before = upstream.count()
    assert status_of(worker.raw(b"GET " + target + b" HTTP/1.1\r\nHost: t\r\n\r\n")) == 400
    assert upstream.count() == before


def test_encoded_line_ends_in_a_query_stay_encoded(
    worker: RunningWorker, upstream: MisbehavingUpstream
) -> None:
    target = "/m/echo?next=%0d%0aX-Injected:%201"
    assert status_of(worker.raw(request("GET", target, "Connection: close"))) == 200
    received = next(r for r in upstream.requests if "next=" in r.target)
    assert received.target == target[2:]
    assert received.header("x-injected") is None


def test_values_that_the_gateway_writes_itself_cannot_be_forged_by_a_client(
    worker: RunningWorker, upstream: MisbehavingUpstream
) -> None:
    forged = ["X-Prediction-Id: forged", "X-Gateway-Token: secret", "Forwarded: for=6.6.6.6", "X-Forwarded-Host: evil",
              "Proxy-Authorization: Basic x", "Proxy-Connection: keep-alive", "TE: trailers", "Trailer: X-Secret"]  # fmt: skip
    listed = "Connection: close, X-Secret, X-Prediction-Id, Host, Content-Length"
    worker.raw(request("GET", "/m/echo?forged", *forged, listed, "X-Secret: 1"))
    received = next(r for r in upstream.requests if r.target == "/echo?forged")
    names = [name.lower() for name, _ in received.headers]
    assert not {b"x-secret", b"x-gateway-token", b"forwarded", b"proxy-authorization", b"proxy-connection",
                b"te", b"trailer", b"connection"} & set(names)  # fmt: skip
    assert len(names) == len(set(names))
    assert received.header("x-prediction-id") not in ("forged", None)
    assert received.header("x-forwarded-host") == "t"


@pytest.mark.parametrize(
    "behaviour",
    ["bare_cr_in_field", "bare_lf", "nul_in_field", "space_before_colon", "folded_field", "many_headers", "huge_header"],
)  # fmt: skip
def test_an_upstreams_field_that_could_split_the_answer_is_502(worker: RunningWorker, behaviour: str) -> None:
    answer = worker.raw(request("GET", f"/m/{behaviour}", "Connection: close"))
    assert status_of(answer) == 502
    head = answer.partition(b"\r\n\r\n")[0]
    assert b"X-Gateway-Error: upstream_protocol" in head
    assert answer.count(b"HTTP/1.1 ") == 1
    assert {line.partition(b":")[0] for line in head.split(b"\r\n")[1:]} <= {
        b"Content-Type", b"Content-Length", b"X-Gateway-Error", b"Cache-Control", b"X-Prediction-Id",
        b"X-Model-Version", b"X-Model-Role", b"Via", b"Connection",
    }  # fmt: skip


def test_an_upstream_cannot_speak_for_the_gateway(worker: RunningWorker) -> None:
    head = worker.raw(request("GET", "/m/hop_by_hop", "Connection: close")).partition(b"\r\n\r\n")[0]
    assert b"forged" not in head
    assert b"X-Secret" not in head
    assert head.count(b"X-Prediction-Id: ") == 1


@pytest.mark.parametrize(
    ("name", "piece", "count"),
    [
        ("20,000 fields", b"X-A: b\r\n", 20_000),
        ("one of 20 MB", b"x" * 20_000, 1000),
        ("20 MB of fields", b"X-A: " + b"x" * 19_993 + b"\r\n", 1000),
    ],
)
async def test_an_endless_head_is_refused_before_it_is_kept(
    worker: RunningWorker, upstream: MisbehavingUpstream, name: str, piece: bytes, count: int
) -> None:
    before, resident = upstream.count(), footprint(worker.process.pid).resident_mib
    forget_peak(worker.process.pid)
    head = b"GET /m/echo HTTP/1.1\r\nHost: t\r\n" + (b"X-Long: " if name == "one of 20 MB" else b"")
    reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
    writer.write(head + piece * count + b"\r\n\r\n")
    assert status_of(await reader.readuntil(b"\r\n\r\n")) == 431
    writer.close()
    assert upstream.count() == before
    assert peak_mib(worker.process.pid) - resident < 8.0
