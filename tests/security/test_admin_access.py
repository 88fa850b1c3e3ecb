"""The admin API without the right token: every spelling of every way is refused, and nothing of it reaches the flags."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.misbehaving import MisbehavingUpstream
from tests.security.tokens import (
    TOKENS,
    from_a_new_address,
    guarded_gateway,
    json_of,
    raw,
    request,
    status_of,
)
from tests.system import RunningGateway

CHANGE = b'{"production": "v2", "reason": "taken over"}'
FLAGS = "/admin/models/credit/flags"


@pytest.fixture(scope="module")
def own_gateway(
    tmp_path_factory: pytest.TempPathFactory, upstream: MisbehavingUpstream
) -> Iterator[RunningGateway]:
    """Behind a proxy that it trusts, so that each request can come from an address of its own and has no failures before it."""
    directory = tmp_path_factory.mktemp("gateway")
    with guarded_gateway(directory, upstream, trusted_proxies=["127.0.0.1"]) as running:
        yield running


def change(gateway: RunningGateway, *fields: str, target: str = FLAGS, token: str | None = None) -> bytes:
    return raw(
        gateway.port,
        request(
            "PATCH",
            target,
            from_a_new_address(),
            "Content-Type: application/json",
            *fields,
            token=token,
            body=CHANGE,
        ),
    )


def unchanged(gateway: RunningGateway) -> bool:
    return bool(gateway.get(FLAGS)["production"] == "v1")


@pytest.mark.parametrize(
    "fields",
    [
        (),
        ("Authorization:",),
        ("Authorization: Bearer",),
        ("Authorization: Bearer ",),
        ("Authorization: Bearer null",),
        (f"Authorization: Basic {TOKENS['admin']}",),
        (f"Authorization: {TOKENS['admin']}",),
        (f"X-Gateway-Token: {TOKENS['admin']}",),
    ],
)
def test_no_empty_or_misplaced_token_is_401(own_gateway: RunningGateway, fields: tuple[str, ...]) -> None:
    answer = change(own_gateway, *fields)
    assert (status_of(answer), json_of(answer)["code"]) == (401, "unauthenticated")
    assert unchanged(own_gateway)


@pytest.mark.parametrize(
    "token",
    [
        TOKENS["admin"][:-1],
        TOKENS["admin"] + "x",
        TOKENS["admin"].upper(),
        TOKENS["admin"] + "\xa0",
        "x" * 4000,
        "' OR ''='",
        "*",
    ],
)
def test_a_wrong_token_is_refused(own_gateway: RunningGateway, token: str) -> None:
    answer = change(own_gateway, token=token)
    assert status_of(answer) == 401
    assert TOKENS["admin"].encode() not in answer
    assert unchanged(own_gateway)


def test_a_token_doubled_or_listed_is_none(own_gateway: RunningGateway) -> None:
    both = change(own_gateway, "Authorization: Bearer wrong", token=TOKENS["admin"])
    listed = change(own_gateway, f"Authorization: Bearer {TOKENS['admin']}, Bearer wrong")
    assert {status_of(both), status_of(listed)} <= {400, 401}
    assert unchanged(own_gateway)


@pytest.mark.parametrize("scope", ["read", "feedback"])
def test_a_scope_that_is_too_small_is_403_for_every_change(own_gateway: RunningGateway, scope: str) -> None:
    token, json = TOKENS[scope], "Content-Type: application/json"
    for method, target in (
        ("PATCH", FLAGS),
        ("PUT", "/admin/models/credit/versions/v9"),
        ("DELETE", "/admin/models/credit/versions/v2?reason=x"),
        ("POST", "/admin/models/credit/rollouts"),
        ("POST", "/admin/models/credit/rollouts/r1/promote"),
        ("POST", "/admin/models/credit/retraining"),
        ("POST", "/admin/models/credit/baseline"),
        ("POST", "/admin/models/credit/review/01900000-0000-7000-8000-000000000000"),
    ):
        answer = raw(own_gateway.port, request(method, target, json, token=token, body=CHANGE))
        assert (status_of(answer), json_of(answer)["code"]) == (403, "forbidden"), (method, target)
    assert unchanged(own_gateway)


def test_only_scope_operate_may_choose_a_version(own_gateway: RunningGateway) -> None:
    statuses = {
        scope: status_of(
            raw(
                own_gateway.port,
                request("GET", "/models/credit/echo", "X-Gateway-Version: v2", f"X-Gateway-Token: {token}"),
            )
        )
        for scope, token in TOKENS.items()
    }
    assert statuses == {"read": 403, "feedback": 403, "operate": 200, "admin": 200}


@pytest.mark.parametrize("token", [None, "wrong", TOKENS["read"]], ids=["no token", "wrong", "read"])
@pytest.mark.parametrize(
    "target",
    [
        "/%61dmin/models/credit/flags",
        "/admin/%6dodels/credit/flags",
        "/admin/models/%63redit/flags",
        "/admin/models/credit/%66lags",
        "/admin/models/credit/flags/",
        "/admin/models/credit//flags",
        "/admin//models/credit/flags",
        "//admin/models/credit/flags",
        "/admin/models/credit/flags%2f",
        "/admin/models/credit/flags;x=1",
        "/admin/models/credit/flags?x=/metrics",
        "/admin/models/credit/flags/../flags",
        "/metrics/../admin/models/credit/flags",
        "/metrics/%2e%2e/admin/models/credit/flags",
        "/ADMIN/models/credit/flags",
        "/admin%2Fmodels/credit/flags",
        "/admin%252Fmodels/credit/flags",
        "http://t/admin/models/credit/flags",
        "http://t/%61dmin/models/credit/flags",
    ],
)
def test_no_spelling_of_the_path_gets_around_the_token(
    own_gateway: RunningGateway, target: str, token: str | None
) -> None:
    for spoofed in (
        (),
        ("X-HTTP-Method-Override: GET", f"X-Original-URL: {FLAGS}", "X-Forwarded-For: 127.0.0.1"),
    ):
        answer = change(own_gateway, *spoofed, target=target, token=token)
        # 200 only as the model's answer to a path that is not the API's: the echo of the body.
        assert status_of(answer) in (400, 401, 403, 404, 405) or answer.endswith(b"\r\n\r\n" + CHANGE)
    assert unchanged(own_gateway)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "PATCH", "TRACE"])
def test_no_method_gets_around_the_token(own_gateway: RunningGateway, method: str) -> None:
    asked = request(method, FLAGS, from_a_new_address(), "Connection: close", body=CHANGE)
    answer = raw(own_gateway.port, asked, until_close=True)
    assert status_of(answer) in (400, 401, 405)
    assert unchanged(own_gateway)


def test_guesses_are_told_to_wait_and_lock_out_nobody_who_shares_the_address(
    own_gateway: RunningGateway,
) -> None:
    """Neither a token that was used from there before nor one that was not: behind a load balancer all callers share one address."""
    address = from_a_new_address()

    def status(token: str) -> int:
        return status_of(raw(own_gateway.port, request("GET", FLAGS, address, token=token)))

    assert status(TOKENS["admin"]) == 200
    assert [status(f"guess {number}") for number in range(15)] == [401] * 10 + [429] * 5
    assert (status(TOKENS["admin"]), status(TOKENS["read"])) == (200, 200)
    assert status("guess") == 429


def test_no_token_is_in_the_log_or_in_any_answer(own_gateway: RunningGateway) -> None:
    texts = [(own_gateway.directory / "gateway.log").read_bytes()]
    texts += [
        raw(own_gateway.port, request("GET", target, token=TOKENS["admin"]))
        for target in ("/metrics", "/admin/models", "/admin/audit", "/openapi.json", "/admin/models/credit")
    ]
    for text in texts:
        for token in TOKENS.values():
            assert token.encode() not in text
