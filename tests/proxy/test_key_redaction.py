"""What becomes of the routing key when privacy names the field that it comes from."""

from __future__ import annotations

import pytest

from app.domain.model import Model, Privacy, RoutingKey, Version
from app.proxy.redaction import Redactor

VERSION = Version("v1", ("http://127.0.0.1:1",))


def kept(key: RoutingKey, privacy: Privacy) -> str | None:
    model = Model("m", "v1", (VERSION,), routing_key=key, privacy=privacy)
    return Redactor(model, b"secret of the installation").key("erika")


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (RoutingKey("header", "X-User-Id"), "X-User-Id"),
        (RoutingKey("header", "X-User-Id"), "x-user-id"),
        (RoutingKey("header", "x-user-id"), "X-USER-ID"),
        (RoutingKey("cookie", "session"), "session"),
        (RoutingKey("query", "user"), "user"),
        (RoutingKey("json", "$.user_id"), "user_id"),
        (RoutingKey("json", "$.user.id"), "id"),
        (RoutingKey("json", "$.user.id"), "user.id"),
        (RoutingKey("json", "$.user.id"), "user"),
        (RoutingKey("json", "$['user.id']"), "user.id"),
        (RoutingKey("json", "$.users[0].id"), "id"),
        (RoutingKey("json", "$.users[0].id"), "users.id"),
        (RoutingKey("json", "$.ids[1]"), "ids[1]"),
        (RoutingKey("json", "$.features[2]"), "f2"),
    ],
)
def test_a_key_is_treated_as_the_field_it_comes_from(key: RoutingKey, name: str) -> None:
    hashed = kept(key, Privacy(hash=(name,)))
    assert hashed is not None
    assert hashed != "erika"
    assert len(hashed) == 16
    assert kept(key, Privacy(drop=(name,))) is None


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (RoutingKey("header", "X-User-Id"), "X-User"),
        (RoutingKey("cookie", "session"), "Session"),
        (RoutingKey("query", "user"), "User"),
        (RoutingKey("json", "$.user.id"), "owner.id"),
        (RoutingKey("json", "$.ids[1]"), "ids[0]"),
    ],
)
def test_a_key_from_another_field_stays(key: RoutingKey, name: str) -> None:
    """Only the names of header fields have no case."""
    assert kept(key, Privacy(hash=(name,))) == "erika"
