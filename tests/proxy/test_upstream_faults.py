"""What a model server can do wrong, byte by byte, and what the client sees of it: a clear answer or a cut one, never a wrong one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.domain.model import Match, Model, Version
from tests.misbehaving import MisbehavingUpstream
from tests.worker import RunningWorker, eventually, running_worker

NOT_HTTP = [
    "bad_chunk_size",
    "bad_status_code",
    "bad_status_line",
    "bare_cr_in_field",
    "bare_lf",
    "chunk_longer_than_said",
    "chunked_twice",
    "close_in_head",
    "content_length_list",
    "endless_header",
    "folded_field",
    "http_2_preface",
    "huge_header",
    "length_and_chunked",
    "many_headers",
    "negative_content_length",
    "not_http",
    "nul_in_field",
    "reset_in_head",
    "signed_content_length",
    "space_before_colon",
    "status_99999",
    "switching_protocols",
    "two_content_lengths",
    "unknown_transfer_encoding",
]
TOO_SLOW = ["drip_head", "hang", "hang_in_head", "interim_for_ever", "slow"]
NO_ANSWER = ["close_before_headers", "reset_before_headers"]
CUT = [
    "close_before_last_chunk",
    "close_mid_body",
    "drip",
    "hang_in_body",
    "reset_mid_body",
    "reset_mid_chunk",
    "reset_mid_long_body",
]
RIGHT = {
    "body_on_204": 204,
    "body_on_304": 304,
    "chunked": 200,
    "close_after_answer": 200,
    "continue_first": 200,
    "early_hints_first": 200,
    "error_500": 500,
    "error_503": 503,
    "hop_by_hop": 200,
    "more_than_announced": 200,
    "no_content": 204,
    "ok": 200,
    "redirect": 307,
    "trailers": 200,
    "until_close": 200,
}


@pytest.fixture(scope="module")
def upstream() -> Iterator[MisbehavingUpstream]:
    with MisbehavingUpstream() as server:
        yield server


@pytest.fixture(scope="module")
def worker(upstream: MisbehavingUpstream) -> Iterator[RunningWorker]:
    model = Model("m", "v1", (Version("v1", (upstream.url,), timeout_s=0.5),), match=Match("/m", strip=True))
    patient = Model(
        "patient",
        "v1",
        (Version("v1", (upstream.url,), timeout_s=30.0),),
        match=Match("/patient", strip=True),
    )
    with running_worker([model, patient]) as running:
        yield running


def ask(worker: RunningWorker, behaviour: str, *, keep: bool = False) -> tuple[int, bytes, bytes]:
    """(status, head, body) of one POST."""
    connection = b"" if keep else b"Connection: close\r\n"
    request = b"POST /m/%b HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n%b\r\n{}" % (
        behaviour.encode(),
        connection,
    )
    head, _, body = worker.raw(request).partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), head, body


def next_is_in_step(worker: RunningWorker, upstream: MisbehavingUpstream) -> None:
    """Whatever came before, the following request gets its own answer."""
    status, _, body = ask(worker, "ok")
    assert (status, b"smuggled" in body) == (200, False)


@pytest.mark.parametrize("behaviour", NOT_HTTP)
def test_an_answer_that_is_not_http_is_502_and_its_connection_is_not_used_again(
    worker: RunningWorker, upstream: MisbehavingUpstream, behaviour: str
) -> None:
    status, head, _ = ask(worker, behaviour)
    assert status == 502
    assert b"X-Gateway-Error: upstream_protocol" in head
    assert upstream.count(behaviour) == 1  # never sent twice
    next_is_in_step(worker, upstream)


@pytest.mark.parametrize("behaviour", TOO_SLOW)
def test_no_answer_within_the_deadline_is_504(
    worker: RunningWorker, upstream: MisbehavingUpstream, behaviour: str
) -> None:
    status, head, _ = ask(worker, behaviour)
    assert status == 504
    assert b"X-Gateway-Error: upstream_timeout" in head
    assert upstream.count(behaviour) == 1
    next_is_in_step(worker, upstream)


@pytest.mark.parametrize("behaviour", NO_ANSWER)
def test_a_connection_lost_before_the_answer_is_502_and_the_post_is_not_sent_twice(
    worker: RunningWorker, upstream: MisbehavingUpstream, behaviour: str
) -> None:
    status, head, _ = ask(worker, behaviour)
    assert status == 502
    assert b"X-Gateway-Error: upstream_unreachable" in head
    assert upstream.count(behaviour) == 1


@pytest.mark.parametrize("behaviour", CUT)
def test_a_cut_answer_is_never_ended_cleanly(
    worker: RunningWorker, upstream: MisbehavingUpstream, behaviour: str
) -> None:
    status, head, body = ask(worker, behaviour)
    assert status == 200
    if b"Transfer-Encoding: chunked" in head:
        assert not body.endswith(b"0\r\n\r\n")
    else:
        length = next(
            int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
        )
        assert len(body) < length
    assert upstream.count(behaviour) == 1
    record = eventually(
        lambda: next((r for r in worker.predictions("m") if r.target == f"/{behaviour}"), None),
        what="the record of the cut answer",
    )
    assert (record.ended, record.error[:9]) == ("cut", "upstream_")


@pytest.mark.parametrize("behaviour", RIGHT)
def test_unusual_but_right_answers_arrive_as_they_are(
    worker: RunningWorker, upstream: MisbehavingUpstream, behaviour: str
) -> None:
    status, head, body = ask(worker, behaviour)
    assert status == RIGHT[behaviour]
    assert b"forged" not in head
    assert b"smuggled" not in body
    if status in (204, 304):
        assert body == b""
    assert upstream.count(behaviour) >= 1
    if behaviour == "close_after_answer":
        # A POST that has left when the server hangs up must not be sent again (RFC 9110, section 9.2.2): it may be answered 502.
        eventually(lambda: ask(worker, "ok")[0] == 200, what="a worker that has seen the server hang up")
    next_is_in_step(worker, upstream)


def test_bytes_that_nobody_asked_for_end_an_idle_connection(
    worker: RunningWorker, upstream: MisbehavingUpstream
) -> None:
    before = upstream.accepted
    assert ask(worker, "late_extra_answer")[0] == 200
    upstream.wait_until(lambda server: server.open_connections == 0)
    next_is_in_step(worker, upstream)
    assert upstream.accepted > before


def test_hop_by_hop_fields_end_at_the_gateway_and_end_to_end_fields_do_not(worker: RunningWorker) -> None:
    _, head, _ = ask(worker, "hop_by_hop")
    lower = head.lower()
    assert b"x-secret" not in lower
    assert b"upgrade" not in lower
    assert b"proxy-authenticate" not in lower
    assert b"keep-alive:" not in lower
    assert b"x-kept: yes" in lower
    assert lower.count(b"set-cookie:") == 2


def test_a_head_answer_has_no_body_and_leaves_the_connection_in_step(
    worker: RunningWorker, upstream: MisbehavingUpstream
) -> None:
    answer = worker.raw(b"HEAD /m/ok HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert body == b""
    next_is_in_step(worker, upstream)


def test_a_long_answer_streams_whole(worker: RunningWorker) -> None:
    request = b"POST /patient/long_body?bytes=20000000 HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
    _, _, body = worker.raw(request, timeout_s=30.0).partition(b"\r\n\r\n")
    assert len(body) == 20_000_000


def test_a_client_that_leaves_ends_the_upstream_call_and_is_recorded_as_aborted(
    worker: RunningWorker, upstream: MisbehavingUpstream
) -> None:
    before = upstream.count("hang")
    client = worker.connect()
    client.sendall(b"POST /m/hang?left HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\n{}")
    upstream.wait_until(lambda server: server.count("hang") == before + 1)
    client.close()
    record = eventually(
        lambda: next((r for r in worker.predictions("m") if r.target == "/hang?left"), None),
        what="the record of the aborted request",
    )
    assert (record.ended, record.status) == ("aborted", 499)
