"""TLS on both sides over real sockets: who is let in, whom the gateway trusts, and that nothing but an explicit word makes it trust more.

The model server that speaks TLS is itself a gateway worker: each test then goes through both sides.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.commands.gateway import Gateway, UnreachableError, UsageError
from app.domain.model import Match, Model, UpstreamTls, Version
from app.domain.policy import ServerPolicy, ServerTls
from tests.certificates import Authority
from tests.misbehaving import MisbehavingUpstream
from tests.worker import RunningWorker, eventually, read_all, read_answer, running_worker

REQUEST = b"POST /m/echo HTTP/1.1\r\nHost: t\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "ours")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"), "theirs")


@pytest.fixture(scope="module")
def upstream() -> Iterator[MisbehavingUpstream]:
    with MisbehavingUpstream(default="echo") as server:
        yield server


def model(url: str, tls: UpstreamTls | None = None, prefix: str = "/m") -> Model:
    version = Version("v1", (url,), timeout_s=5.0, connect_timeout_s=2.0)
    return Model(
        prefix[1:], "v1", (version,), match=Match(prefix, strip=prefix != "/m"), tls=tls or UpstreamTls()
    )


def policy(authority: Authority, client_ca: str | None = None, **more: float) -> ServerPolicy:
    pair = authority.issue("server")
    return ServerPolicy(tls=ServerTls(pair.certificate, pair.key, client_ca), **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def secure(authority: Authority, upstream: MisbehavingUpstream) -> Iterator[RunningWorker]:
    """Speaks TLS, takes anyone."""
    server = policy(authority, receive_timeout_s=1.0)
    with running_worker([model(upstream.url)], server=server, tls=authority.client()) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(authority: Authority, upstream: MisbehavingUpstream) -> Iterator[RunningWorker]:
    """Speaks TLS, takes only clients with a certificate of the authority."""
    own = authority.issue("client", names="DNS:client")
    with running_worker(
        [model(upstream.url)], server=policy(authority, authority.ca), tls=authority.client(own)
    ) as running:
        yield running


def test_clients_are_served_over_tls_and_the_model_server_is_told(
    secure: RunningWorker, upstream: MisbehavingUpstream
) -> None:
    answer = secure.raw(REQUEST)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"{}")
    assert upstream.requests[-1].header("x-forwarded-proto") == "https"


def test_a_connection_is_kept_and_a_large_body_goes_both_ways(secure: RunningWorker) -> None:
    body = bytes(range(256)) * 8192
    with secure.connect() as client:
        for _ in range(3):
            client.sendall(
                b"POST /m/echo HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            )
            assert read_answer(client).partition(b"\r\n\r\n")[2] == body


def test_plain_http_and_old_versions_of_tls_are_not_spoken(secure: RunningWorker) -> None:
    with socket.create_connection(("127.0.0.1", secure.port), timeout=10) as client:
        client.sendall(REQUEST)
        assert b"200" not in read_all(client)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", secure.port), timeout=10) as client,
        pytest.raises((ssl.SSLError, ConnectionResetError)),
    ):
        old.wrap_socket(client)


def test_a_client_that_never_finishes_its_handshake_is_let_go(secure: RunningWorker) -> None:
    with socket.create_connection(("127.0.0.1", secure.port), timeout=10) as client:
        client.sendall(b"\x16\x03\x01")
        assert read_all(client) == b""  # closed by the gateway, after receive_timeout_s


def test_only_a_certificate_of_the_authority_lets_a_client_in(
    guarded: RunningWorker, authority: Authority, stranger: Authority, upstream: MisbehavingUpstream
) -> None:
    assert guarded.raw(REQUEST).startswith(b"HTTP/1.1 200 ")
    before = upstream.count()
    foreign = stranger.issue("client", names="DNS:client")
    expired = authority.issue("expired", days=-1)
    for own in (None, foreign, expired):
        plain = socket.create_connection(("127.0.0.1", guarded.port), timeout=10)
        answer = b""
        # In TLS 1.3 the refusal comes after the client's own handshake: while it sends or reads.
        with (
            contextlib.closing(plain),
            contextlib.suppress(ssl.SSLError, ConnectionError),
            authority.client(own).wrap_socket(plain, server_hostname="localhost") as client,
        ):
            client.sendall(REQUEST)
            answer = read_all(client)
        assert answer == b""
    assert upstream.count() == before


TRUST: dict[str, tuple[Callable[[Authority, Authority], UpstreamTls], str, int]] = {
    "its authority": (lambda ours, theirs: UpstreamTls(ca=ours.ca), "https://localhost", 200),
    "its authority, by address": (lambda ours, theirs: UpstreamTls(ca=ours.ca), "https://127.0.0.1", 200),
    "the system's authorities": (lambda ours, theirs: UpstreamTls(), "https://localhost", 502),
    "another authority": (lambda ours, theirs: UpstreamTls(ca=theirs.ca), "https://localhost", 502),
    "another name": (
        lambda ours, theirs: UpstreamTls(ca=ours.ca, server_name="model.example"),
        "https://localhost",
        502,
    ),
    "another name by address": (
        lambda ours, theirs: UpstreamTls(ca=ours.ca, server_name="localhost"),
        "https://127.0.0.1",
        200,
    ),
    "anyone, said explicitly": (
        lambda ours, theirs: UpstreamTls(insecure_skip_verify=True),
        "https://localhost",
        200,
    ),
    "a file that is gone": (lambda ours, theirs: UpstreamTls(ca=ours.ca + ".gone"), "https://localhost", 502),
}


@pytest.fixture(scope="module")
def front(secure: RunningWorker, authority: Authority, stranger: Authority) -> Iterator[RunningWorker]:
    """One model for each case of TRUST, all with the same TLS server behind."""
    models = [
        model(f"{base}:{secure.port}/m", trust(authority, stranger), f"/trust{number}")
        for number, (trust, base, _) in enumerate(TRUST.values())
    ]
    with running_worker(models) as running:
        yield running


@pytest.mark.parametrize("case", TRUST)
def test_a_model_server_is_trusted_by_its_certificate(
    front: RunningWorker, upstream: MisbehavingUpstream, case: str
) -> None:
    expected = TRUST[case][2]
    before = upstream.count()
    request = REQUEST.replace(b"/m/", b"/trust%d/" % list(TRUST).index(case))
    answer = front.raw(request)
    assert answer.startswith(b"HTTP/1.1 %d " % expected), answer
    assert upstream.count() - before == (expected == 200)
    if expected == 502:
        assert b"X-Gateway-Error: upstream_unreachable" in answer


def test_a_model_server_that_asks_for_a_certificate_gets_the_gateways(
    guarded: RunningWorker, authority: Authority, stranger: Authority
) -> None:
    own, foreign = authority.issue("gateway"), stranger.issue("gateway")
    url = f"https://localhost:{guarded.port}/m"
    models = [
        model(url, UpstreamTls(authority.ca, own.certificate, own.key), "/with"),
        model(url, UpstreamTls(authority.ca), "/without"),
        model(url, UpstreamTls(authority.ca, foreign.certificate, foreign.key), "/foreign"),
    ]
    with running_worker(models) as running:
        got = {
            name: running.raw(REQUEST.replace(b"/m/", b"/%b/" % name))[9:12]
            for name in (b"with", b"without", b"foreign")
        }
    assert got == {b"with": b"200", b"without": b"502", b"foreign": b"502"}


class Truncating:
    """A TLS server whose answer ends with its connection: properly or, as an attacker on the way would end it, without TLS's own end."""

    def __init__(self, authority: Authority, *, properly: bool) -> None:
        pair = authority.issue("truncating")
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(pair.certificate, pair.key)
        self._properly = properly
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        plain, _ = self._listener.accept()
        with self._context.wrap_socket(plain, server_side=True) as client:
            client.settimeout(10)
            client.recv(65536)
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\nhalf of it")
            if self._properly:
                with contextlib.suppress(OSError):
                    client.unwrap()

    def __enter__(self) -> Truncating:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self._thread.join(10)


@pytest.mark.parametrize("properly", [True, False])
def test_an_answer_cut_off_below_tls_is_never_taken_for_whole(authority: Authority, properly: bool) -> None:
    """RFC 9112 section 9.8: an answer that ends with its connection is whole only after TLS's closure alert."""
    with Truncating(authority, properly=properly) as server:
        one = model(f"https://localhost:{server.port}", UpstreamTls(ca=authority.ca))
        with running_worker([one]) as running:
            answer = running.raw(REQUEST)
            record = eventually(lambda: running.predictions("m"), what="the record")[0]  # type: ignore[index]
    assert record.ended == ("complete" if properly else "cut")
    if not properly:
        assert not answer.endswith(b"0\r\n\r\n")


def test_the_command_line_trusts_the_authority_that_it_is_given(
    secure: RunningWorker, authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def look() -> int:
        with Gateway.at(secure.url, "a-token", tmp_path) as gateway:
            return gateway.look("/readyz")[0]

    with pytest.raises(UnreachableError, match="CERTIFICATE_VERIFY_FAILED"):
        look()
    monkeypatch.setenv("GATEWAY_CA", authority.ca)
    assert look() == 200
    monkeypatch.setenv("GATEWAY_CA", str(tmp_path / "gone.pem"))
    with pytest.raises(UsageError, match="GATEWAY_CA"):
        look()


def test_a_start_with_wrong_files_ends_with_a_reason(tmp_path: Path, authority: Authority) -> None:
    from app.config import load
    from app.errors import ConfigurationError
    from app.main import serve

    pair, other = authority.issue("one"), authority.issue("two")
    file = tmp_path / "gateway.yaml"
    file.write_text(
        f"data_dir: {tmp_path}/data\n"
        f"server: {{port: 0, tls: {{certificate: {pair.certificate}, key: {other.key}}}}}\n"
        "models:\n"
        "  m: {production: v1, versions: {v1: {url: 'https://localhost:1'}}, tls: {ca: /not/there.pem}}\n"
    )
    with pytest.raises(ConfigurationError) as found:
        serve(load(file, environ={}), frozenset({"proxy"}))
    assert [fault.partition(":")[0] for fault in found.value.faults] == ["server.tls", "models.m.tls"]
