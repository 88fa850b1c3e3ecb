"""Who a client says it is, and for which host: Host and X-Forwarded-* are believed from trusted peers only."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.domain.model import Match, Model, Version
from app.domain.policy import ServerPolicy
from tests.misbehaving import MisbehavingUpstream, Received
from tests.security.tokens import TOKENS, json_of, raw, request, status_of
from tests.system import RunningGateway
from tests.worker import RunningWorker, running_worker

FORWARDED = (
    "X-Forwarded-For: 6.6.6.6",
    "X-Forwarded-Host: inner.example",
    "X-Forwarded-Proto: https",
    "Forwarded: for=6.6.6.6;host=inner.example",
)


# Of the same family, and the twins that CGI (RFC 3875, section 4.1.18) and WSGI do not tell from them.
OTHERS = (
    "X-Forwarded-Port: 6666",
    "X-Forwarded-Prefix: /elsewhere",
    "X-Forwarded-Server: inner.example",
    "X-Forwarded-Scheme: https",
    "X-Forwarded-Ssl: on",
    "X-Real-IP: 6.6.6.6",
)
TWINS = (
    "X_Forwarded_For: 6.6.6.6",
    "X-Forwarded_For: 6.6.6.6",
    "X_Forwarded_Host: inner.example",
    "X_Forwarded_Proto: https",
    "X_Forwarded_Port: 6666",
    "X_Forwarded_Prefix: /elsewhere",
    "X_Forwarded_Server: inner.example",
    "X_Real_IP: 6.6.6.6",
)


def models(upstream: MisbehavingUpstream) -> list[Model]:
    version = Version("v1", (upstream.url,))
    return [
        Model("m", "v1", (version,), match=Match("/m", strip=True)),
        Model("inner", "v1", (version,), match=Match("/inner", host="inner.example")),
    ]


@pytest.fixture(scope="module")
def direct(upstream: MisbehavingUpstream) -> Iterator[RunningWorker]:
    with running_worker(models(upstream)) as running:
        yield running


@pytest.fixture(scope="module")
def behind_proxy(upstream: MisbehavingUpstream) -> Iterator[RunningWorker]:
    policy = ServerPolicy(trusted_proxies=("127.0.0.0/8", "::1"))
    with running_worker(models(upstream), server=policy) as running:
        yield running


def received(worker: RunningWorker, upstream: MisbehavingUpstream, *fields: str) -> Received:
    before = upstream.count()
    answer = worker.raw(request("GET", "/m/echo", *fields, "Connection: close"))
    assert status_of(answer) == 200, answer[:300]
    assert upstream.count() == before + 1
    return upstream.requests[before]


@pytest.mark.parametrize(
    "fields",
    [
        ("Host:",),
        ("Host: ",),
        ("Host: a", "Host: a"),
        ("Host: a", "Host: b"),
        ("Host: a", "host: b"),
        ("Host: a b",),
        ("Host: a/b",),
        ("Host: a@b",),
        ("Host: a, b",),
        ("Host: a#b",),
        ("Host: a?b",),
        ("Host: a\\b",),
        ("Host: [::1",),
        ("Host: a:b",),
        ("Host: a:999999",),
        ("Host: http://a",),
        (),
    ],
)
def test_a_host_that_is_none_or_two_is_refused(
    direct: RunningWorker, upstream: MisbehavingUpstream, fields: tuple[str, ...]
) -> None:
    before = upstream.count()
    head = "\r\n".join(["GET /m/echo HTTP/1.1", *fields])
    assert status_of(direct.raw(head.encode() + b"\r\n\r\n")) == 400
    assert upstream.count() == before


def test_forwarded_fields_of_a_stranger_are_replaced(
    direct: RunningWorker, upstream: MisbehavingUpstream
) -> None:
    seen = received(direct, upstream, *FORWARDED)
    assert seen.header("x-forwarded-for") == "127.0.0.1"
    assert seen.header("x-forwarded-host") == "t"
    assert seen.header("x-forwarded-proto") == "http"
    assert seen.header("forwarded") is None


@pytest.mark.parametrize("field", [*OTHERS, *TWINS])
def test_no_other_field_of_a_stranger_says_where_it_comes_from(
    direct: RunningWorker, upstream: MisbehavingUpstream, field: str
) -> None:
    seen = received(direct, upstream, field, field.swapcase())
    name = field.partition(":")[0].lower()
    assert seen.header(name) is None
    kept = [value for key, value in seen.headers if key.lower().replace(b"_", b"-") == b"x-forwarded-for"]
    assert kept == [b"127.0.0.1"]


@pytest.mark.parametrize("field", OTHERS)
def test_the_other_fields_of_a_trusted_proxy_go_on(
    behind_proxy: RunningWorker, upstream: MisbehavingUpstream, field: str
) -> None:
    name, _, value = field.partition(": ")
    assert received(behind_proxy, upstream, field).header(name.lower()) == value


def test_forwarded_fields_of_a_trusted_proxy_go_on_with_its_address_behind(
    behind_proxy: RunningWorker, upstream: MisbehavingUpstream
) -> None:
    seen = received(behind_proxy, upstream, *FORWARDED, "X-Forwarded-For: 7.7.7.7")
    assert seen.header("x-forwarded-for") == "6.6.6.6, 7.7.7.7, 127.0.0.1"
    assert seen.header("x-forwarded-host") == "inner.example"
    assert seen.header("x-forwarded-proto") == "https"


@pytest.mark.parametrize("peer", ["direct", "behind_proxy"])
def test_a_forwarded_host_never_chooses_the_model(request_of: object, peer: str) -> None:
    worker: RunningWorker = request_of(peer)  # type: ignore[operator]
    answer = worker.raw(request("GET", "/inner/echo", *FORWARDED, "Connection: close"))
    assert status_of(answer) == 404
    own = b"GET /inner/echo HTTP/1.1\r\nHost: inner.example\r\nConnection: close\r\n\r\n"
    assert status_of(worker.raw(own)) == 200


@pytest.fixture
def request_of(direct: RunningWorker, behind_proxy: RunningWorker) -> object:
    return {"direct": direct, "behind_proxy": behind_proxy}.__getitem__


def test_the_authority_of_an_absolute_target_counts_and_not_the_host_field(direct: RunningWorker) -> None:
    """RFC 9112, section 3.2.2."""
    head = b"GET http://%b/inner/echo HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n"
    assert status_of(direct.raw(head % (b"inner.example", b"t"))) == 200
    assert status_of(direct.raw(head % (b"t", b"inner.example"))) == 404


def test_the_audit_names_the_peer_and_not_what_a_stranger_wrote(gateway: RunningGateway) -> None:
    body = b'{"disabled_versions": ["v2"], "reason": "spoofed origin"}'
    answer = raw(
        gateway.port,
        request("PATCH", "/admin/models/root/flags", *FORWARDED, "Content-Type: application/json",
                token=TOKENS["operate"], body=body),
    )  # fmt: skip
    assert status_of(answer) == 200
    entries = json_of(raw(gateway.port, request("GET", "/admin/audit?model=root", token=TOKENS["admin"])))
    entry = next(e for e in entries["entries"] if e["reason"] == "spoofed origin")
    assert (entry["origin"], entry["actor"]) == ("127.0.0.1", "operate")
