"""Server-sent events through a worker: each leaves as it comes, the journal keeps a capped text, who leaves stops the work."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from collections.abc import Iterator

import pytest

from app.domain.flags import Flags, initial
from app.domain.model import Match, Model, Shadow, Version
from app.domain.policy import JournalPolicy
from app.proxy.statistics import Statistics
from tests.misbehaving import MisbehavingUpstream
from tests.worker import eventually, running_worker

EVENTS = [b'data: {"choices":[{"index":0,"delta":{"content":"word %d "}}]}\n\n' % n for n in range(5)]
DONE = b"data: [DONE]\n\n"
REQUEST = b"POST /llm/v1/chat/completions HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\n{}"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


class SteppedServer:
    """Sends one event for each step that the test allows, and knows whether its client is still there."""

    def __init__(self) -> None:
        self.steps: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.left = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._listener.accept()
            with connection:
                head = b""
                while b"\r\n\r\n{}" not in head:
                    head += connection.recv(65536)
                connection.sendall(
                    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
                )
                threading.Thread(target=self._watch, args=(connection,), daemon=True).start()
                while (event := self.steps.get()) is not None:
                    connection.sendall(b"%x\r\n%b\r\n" % (len(event), event))
                connection.sendall(b"0\r\n\r\n")

    def _watch(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.recv(1)  # nothing more is sent by a gateway that waits: this ends when it closes
        self.left.set()

    def close(self) -> None:
        self.steps.put(None)
        self._listener.close()
        self._thread.join(10)


@pytest.fixture
def server() -> Iterator[SteppedServer]:
    stepped = SteppedServer()
    yield stepped
    stepped.close()


def language_model(url: str) -> Model:
    return Model("chat", "v1", (Version("v1", (url,)),), Match("/llm", strip=True), protocol="openai")


def read_until(client: socket.socket, mark: bytes) -> bytes:
    found = b""
    while mark not in found:
        piece = client.recv(65536)
        assert piece, f"the connection ended before {mark!r}: {found!r}"
        found += piece
    return found


def test_each_event_is_with_the_client_before_the_next_is_sent(server: SteppedServer) -> None:
    journal = JournalPolicy("", capture_bytes=100)
    with running_worker([language_model(server.url)], journal=journal) as worker, worker.connect() as client:
        client.sendall(REQUEST)
        for event in EVENTS:
            server.steps.put(event)  # only now: the one before has arrived
            assert event in read_until(client, event)
        server.steps.put(DONE)
        server.steps.put(None)
        read_until(client, b"0\r\n\r\n")
        record = eventually(lambda: worker.predictions("chat"), what="the record")[0]  # type: ignore[index]
    whole = b"".join(EVENTS) + DONE
    assert (record.ended, record.response_size) == ("complete", len(whole))
    assert record.response_body == whole[:100]
    assert 0 <= record.first_byte_us <= record.latency_us
    assert record.redacted is False


def test_a_client_that_leaves_in_the_middle_ends_the_call_to_the_model_server(server: SteppedServer) -> None:
    with running_worker([language_model(server.url)]) as worker:
        with worker.connect() as client:
            client.sendall(REQUEST)
            server.steps.put(EVENTS[0])
            read_until(client, EVENTS[0])
            assert not server.left.is_set()
        assert server.left.wait(10), "the model server goes on working for nobody"
        record = eventually(lambda: worker.predictions("chat"), what="the record")[0]  # type: ignore[index]
    assert (record.status, record.ended, record.response_body) == (499, "aborted", EVENTS[0])


def test_time_to_the_first_byte_is_counted_for_streamed_answers_only() -> None:
    statistics = Statistics()
    for forced in (False, True):
        track = statistics.track("chat", "v1", "production", forced=forced)
        track.record(200, False, 1.5)
        track.streamed(0.02)
    statistics.track("credit", "v1", "production").record(200, False, 0.01)
    found = [one for one in statistics.series() if one.name == "gateway_first_byte_seconds"]
    assert [(one.labels, sum(one.buckets)) for one in found] == [(("chat", "v1", "production"), 2)]
    assert found[0].value == pytest.approx(0.04)


@pytest.mark.parametrize("traced", [True, False])
def test_a_copy_of_a_traced_request_has_a_span_of_its_own(traced: bool) -> None:
    header = f"traceparent: 00-{TRACE}-00f067aa0ba902b7-01\r\ntracestate: a=b\r\n".encode() if traced else b""
    with MisbehavingUpstream() as upstream:
        model = Model(
            "credit",
            "v1",
            tuple(Version(name, (f"{upstream.url}/{name}",)) for name in ("v1", "v2")),
            shadow_versions=("v2",),
            # Else production is asked once more for one request in a hundred.
            shadow=Shadow(noise_sample=0.0),
        )
        flags: list[Flags] = [initial(model)]
        with running_worker([model], flags) as worker:
            worker.raw(
                b"POST /ok HTTP/1.1\r\nHost: t\r\nConnection: close\r\n"
                + header
                + b"Content-Length: 0\r\n\r\n"
            )
            upstream.wait_until(lambda server: server.count() == 2)
        sent = [request.header("traceparent") for request in upstream.requests]
    if not traced:
        assert sent == [None, None]
        return
    parents = [value.split("-")[2] for value in sent if value]
    assert {value.split("-")[1] for value in sent if value} == {TRACE}
    assert len({*parents, "00f067aa0ba902b7"}) == 3
    assert {request.header("tracestate") for request in upstream.requests} == {"a=b"}
