"""Valid messages with a few bytes changed, in any pieces: the worker answers or refuses, forwards nothing malformed, and stays in step.

Over real sockets, with the worker's parsers as they run; seeds are fixed, so that a failure comes again.
"""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from app.domain.model import Match, Model, Version
from app.domain.policy import ServerPolicy
from tests.misbehaving import MisbehavingUpstream
from tests.proxy.replying import Replying
from tests.proxy.test_conformance_of_answers import RIGHT
from tests.proxy.test_conformance_of_requests import CASES
from tests.worker import RunningWorker, read_answer, running_worker

REQUESTS = [case.sent for case in CASES.values() if len(case.sent) < 1000]
ANSWERS = [case.sent for case in RIGHT.values() if len(case.sent) < 1000 and not case.closes]
STATUS = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) ")
# What framing hangs on, more often than chance would have it.
BYTES = st.one_of(
    st.sampled_from([bytes([b]) for b in b"\r\n\0 \t:;,0\x0b\x7f\xff"]), st.binary(min_size=1, max_size=2)
)
CHANGES = st.lists(
    st.tuples(st.sampled_from(["put", "replace", "remove"]), st.floats(0.0, 1.0, exclude_max=True), BYTES),
    max_size=3,
)


def changed(message: bytes, changes: list[tuple[str, float, bytes]]) -> bytes:
    for kind, place, data in changes:
        at = int(place * len(message))
        behind = at if kind == "put" else at + 1
        message = message[:at] + (b"" if kind == "remove" else data) + message[behind:]
    return message


@pytest.fixture(scope="module")
def upstream() -> Iterator[MisbehavingUpstream]:
    with MisbehavingUpstream(default="echo") as server:
        yield server


@pytest.fixture(scope="module")
def server() -> Iterator[Replying]:
    with Replying() as running:
        yield running


@pytest.fixture(scope="module")
def worker(upstream: MisbehavingUpstream, server: Replying) -> Iterator[RunningWorker]:
    models = [
        Model("requests", "v1", (Version("v1", (upstream.url,), timeout_s=5.0),), match=Match("/")),
        Model("answers", "v1", (Version("v1", (server.url,), timeout_s=0.4),), match=Match("/answers")),
    ]
    with running_worker(models, server=ServerPolicy(receive_timeout_s=0.3)) as running:
        yield running


@seed(9112)
@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(message=st.sampled_from(REQUESTS), changes=CHANGES, cut=st.floats(0.0, 1.0))
def test_a_changed_request_is_answered_or_refused_and_nothing_malformed_goes_on(
    worker: RunningWorker,
    upstream: MisbehavingUpstream,
    message: bytes,
    changes: list[tuple[str, float, bytes]],
    cut: float,
) -> None:
    upstream.requests.clear()
    sent = changed(message, changes)
    at = int(cut * len(sent))
    with worker.connect() as client, contextlib.suppress(ConnectionError):
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(sent[:at])
        client.sendall(sent[at:])
        answer = read_answer(client)
        found = STATUS.match(answer)
        assert found, answer[:100]  # always an answer: at the latest that the rest did not come in time
        assert found[1] not in (b"500", b"502", b"504"), answer
    # The test's server reads strictly what it gets: had it been given two requests for one, or half of one, it would show.
    assert len(upstream.requests) <= 1 + sent.count(b"HTTP/1.")
    for got in upstream.requests:
        names = [name.lower() for name, _ in got.headers]
        assert names.count(b"host") == 1
        assert not (b"content-length" in names and b"transfer-encoding" in names)
        assert all(re.fullmatch(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) for name, _ in got.headers)
        assert not any(re.search(rb"[\r\n\0]", value) for _, value in got.headers)
        assert got.target.startswith("/")
        assert not re.search(r"[\s#\\]|/\.\.?(/|\?|$)", got.target.partition("?")[0])
    assert worker.process.poll() is None


@seed(9110)
@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(message=st.sampled_from(ANSWERS), changes=CHANGES)
def test_a_changed_answer_never_puts_the_next_one_out_of_step(
    worker: RunningWorker, server: Replying, message: bytes, changes: list[tuple[str, float, bytes]]
) -> None:
    server.served.clear()
    server.answers = [(changed(message, changes), False)]
    request = b"POST /answers HTTP/1.1\r\nHost: t\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"
    answer = worker.raw(request)
    assert STATUS.match(answer), answer[:100]
    head = answer.partition(b"\r\n\r\n")[0].lower()
    assert not (b"\r\ncontent-length:" in head and b"\r\ntransfer-encoding:" in head)
    assert not re.search(rb"[\0]|[^\r]\n|\r[^\n]", head)
    assert len(server.served) == 1
    assert worker.raw(request).endswith(
        b"\r\n\r\nnext"
    )  # whatever came before, this is the answer to this one
