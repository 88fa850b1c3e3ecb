"""Path tricks: one canonical decision for each spelling. A model's path never leads to the API, nor the API's to a model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.misbehaving import MisbehavingUpstream
from tests.security.tokens import from_a_new_address, guarded_gateway, raw, request, status_of
from tests.system import RunningGateway


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, upstream: MisbehavingUpstream
) -> Iterator[RunningGateway]:
    """Behind a proxy that it trusts, so that each request can come from an address without failures before it: 401 is never 429."""
    directory = tmp_path_factory.mktemp("gateway")
    with guarded_gateway(directory, upstream, trusted_proxies=["127.0.0.1"]) as running:
        yield running


REFUSED = [
    "/models/credit/../../admin/models",
    "/models/credit/..",
    "/models/credit/.",
    "/./models/credit/echo",
    "/../admin/models",
    "/models/credit/%2e%2e/%2e%2e/admin/models",
    "/models/credit/%2E./echo",
    "/models/credit/%2e%2e%2f%2e%2e%2fadmin/models",
    "/models/credit/%2e%2e%2f",
    "/models/credit/..%2F..%2Fadmin",
    "/models/credit/x%2f..",
    "/models/credit/x%2F%2e%2E%2Fecho",
    "/models/credit/.%2fecho",
    "/models%2f..%2fadmin/models",
    "/..%2fadmin/models",
    "http://t/models/credit/%2e%2e%2fecho",
    "/models/credit/.%2e/echo",
    "/models/credit\\..\\..\\admin",
    "/models/credit/%5c..%5cadmin",
    "/models/credit/%00",
    "/models/credit/echo%00.json",
    "/models/credit/%0d%0a",
    "http://t/models/credit/../../admin/models",
    "models/credit/echo",
    "*",
    "?x",
    "/models/credit/echo#fragment",
    "ftp://t/models/credit/echo",
]
# target -> what a model server gets; or the status of the API's refusal
DECIDED: dict[str, str | int] = {
    "/models/credit/echo": "/echo",
    "/%6dodels/credi%74/echo": "/echo",
    "/models/credit/%65cho": "/echo",
    "http://t/models/credit/echo": "/echo",
    "http://t:80/%6dodels/credit/echo?a=/../b": "/echo?a=/../b",
    "/models/credit//echo": "//echo",
    "/models/credit/...": "/...",
    "/models/credit/%2fecho": "/%2fecho",
    "/models/credit/..;/echo": "/..;/echo",
    "/models/credit": "/",
    "/models/creditor/echo": "/models/creditor/echo",
    "/models%2Fcredit/echo": "/models%2Fcredit/echo",
    "//models/credit/echo": "//models/credit/echo",
    "//admin/models": "//admin/models",
    "/ADMIN/models": "/ADMIN/models",
    "/admin%2Fmodels": "/admin%2Fmodels",
    "/admin;x/models": "/admin;x/models",
    "/admin%20/models": "/admin%20/models",
    "/admin/models": 401,
    "/%61dmin/models": 401,
    "/%61%64%6D%69%6E/models": 401,
    "http://elsewhere.example/admin/models": 401,
    "http://elsewhere.example/%61dmin/models?x=/models/credit": 401,
    "/admin//models": 404,
    "/admin/%6dodels/": 404,
    "/admin": 404,
}


@pytest.mark.parametrize("target", REFUSED)
def test_a_path_that_two_readers_could_understand_differently_is_refused(
    gateway: RunningGateway, upstream: MisbehavingUpstream, target: str
) -> None:
    before = upstream.count()
    assert status_of(raw(gateway.port, request("GET", target, "Connection: close"))) == 400
    assert upstream.count() == before


@pytest.mark.parametrize("target", DECIDED)
def test_each_spelling_has_one_decision(
    gateway: RunningGateway, upstream: MisbehavingUpstream, target: str
) -> None:
    expected, before = DECIDED[target], upstream.count()
    answer = raw(gateway.port, request("GET", target, from_a_new_address()))
    if isinstance(expected, int):
        assert status_of(answer) == expected
        assert upstream.count() == before
        return
    assert status_of(answer) == 200
    assert upstream.count() == before + 1
    assert upstream.requests[before].target == expected  # `credit` takes its prefix off, `root` does not


PIECES = st.sampled_from(
    ["admin", "ADMIN", "%61dmin", "models", "credit", "feedback", "metrics", "..", ".", "%2e%2e", "%2e", "%2f", "%2F", "%00",
     "%5c", "\\", ";", "..;", "a", "", "%", "%zz", "%252e", "%c0%ae", "@", ":", "//", "?", "&"]
)  # fmt: skip


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(st.lists(PIECES, min_size=1, max_size=6), st.sampled_from(["/", "//", "/%2f", "http://t/"]))
def test_no_spelling_gets_from_one_to_the_other(
    gateway: RunningGateway, upstream: MisbehavingUpstream, pieces: list[str], start: str
) -> None:
    """What reaches a model server never resolves to the API's own paths, and without a token the API tells nothing."""
    before = upstream.count()
    asked = request("GET", start + "/".join(pieces), from_a_new_address())
    assert status_of(raw(gateway.port, asked)) in (200, 400, 401, 404, 405)
    for received in upstream.requests[before:]:
        segments = received.target.partition("?")[0].split("/")
        assert not {".", "..", "%2e%2e", "%2e"} & {segment.lower() for segment in segments}
        assert segments[1] not in ("admin", "feedback", "metrics")
