"""The misbehaving upstream does what its behaviours say, so the tests built on it prove something."""

from __future__ import annotations

import contextlib
import socket

import pytest

from tests.misbehaving import ANSWER, AT_ACCEPT, BEHAVIOURS, MisbehavingUpstream

HANGING = {"hang", "hang_in_head", "hang_in_body"}
ENDLESS = HANGING | {"interim_for_ever", "endless_header", "endless_body", "endless_trailer", "long_body"}


def exchange(upstream: MisbehavingUpstream, path: str, limit: int = 1 << 22, timeout_s: float = 1.0) -> bytes:
    """Sends one request and reads until the end, `limit` bytes, silence, or a reset (then `b"RST"`)."""
    got = bytearray()
    with socket.create_connection(("127.0.0.1", upstream.port), timeout=timeout_s) as sock:
        sock.sendall(b"POST " + path.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
        with contextlib.suppress(OSError):  # it was reset already
            sock.shutdown(socket.SHUT_WR)
        try:
            while len(got) < limit and (data := sock.recv(65536)):
                got += data
        except ConnectionResetError:
            got += b"RST"
        except TimeoutError:
            pass
    return bytes(got)


@pytest.mark.parametrize("name", sorted(set(BEHAVIOURS) - ENDLESS - {"slow", "gzip_bomb"}))
def test_every_behaviour_that_ends_sends_something_or_hangs_up_and_counts_its_request(name: str) -> None:
    with MisbehavingUpstream() as upstream:
        got = exchange(upstream, f"/{name}?interval=0.001&delay=0.01&bytes=100000&count=100")
        assert upstream.count(name) == upstream.count() == 1
        assert upstream.requests[0].body == b"{}"
        assert got or name.startswith("close_before")
        assert got.endswith(b"RST") == (name.startswith("reset_"))
        upstream.wait_until(lambda one: one.open_connections == 0)


@pytest.mark.parametrize("name", sorted(ENDLESS))
def test_an_endless_behaviour_ends_when_the_other_side_leaves(name: str) -> None:
    with MisbehavingUpstream() as upstream:
        with socket.create_connection(("127.0.0.1", upstream.port), timeout=5) as sock:
            sock.sendall(b"GET /" + name.encode() + b" HTTP/1.1\r\nHost: x\r\n\r\n")
            upstream.wait_until(lambda one: one.count(name) == 1)
        upstream.wait_until(lambda one: one.open_connections == 0)


def test_a_script_decides_request_by_request_and_then_the_default_answers() -> None:
    with MisbehavingUpstream(script=["error_500", "reset_before_headers"]) as upstream:
        assert b" 500 " in exchange(upstream, "/predict")
        assert exchange(upstream, "/predict") == b"RST"
        assert exchange(upstream, "/predict").endswith(ANSWER)


def test_connections_are_kept_alive_and_counted() -> None:
    with MisbehavingUpstream() as upstream:
        with socket.create_connection(("127.0.0.1", upstream.port), timeout=5) as sock:
            for _ in range(3):
                sock.sendall(b"GET /predict HTTP/1.1\r\nHost: x\r\n\r\n")
                assert ANSWER in sock.recv(65536)
        assert (upstream.accepted, upstream.count()) == (1, 3)


@pytest.mark.parametrize("name", sorted(AT_ACCEPT))
def test_a_connection_can_be_met_at_the_door(name: str) -> None:
    with MisbehavingUpstream() as upstream:
        upstream.at_accept = name
        try:
            with socket.create_connection(("127.0.0.1", upstream.port), timeout=0.3) as sock:
                end = sock.recv(10)
        except ConnectionResetError:
            end = b"RST"
        except TimeoutError:
            end = b"nothing"
        assert end == {"reset_at_accept": b"RST", "close_at_accept": b"", "never_read": b"nothing"}[name]


def test_stopping_with_open_connections_leaves_none() -> None:
    with MisbehavingUpstream() as upstream:
        sock = socket.create_connection(("127.0.0.1", upstream.port), timeout=5)
        sock.sendall(b"GET /hang HTTP/1.1\r\nHost: x\r\n\r\n")
        upstream.wait_until(lambda one: one.count("hang") == 1)
    with sock:
        assert sock.recv(1) == b""
