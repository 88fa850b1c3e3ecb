"""URLs of Redis behind sentinels: what they say, and that a wrong one is told without its password."""

from __future__ import annotations

import pytest

from app.domain.sentinel_url import SentinelUrl, parse_sentinel_url


def test_hosts_master_database_and_credentials_are_read() -> None:
    assert parse_sentinel_url("redis+sentinel://a:1,b,[::1]:3/flags/2") == SentinelUrl(
        (("a", 1), ("b", 26379), ("::1", 3)), "flags", 2, tls=False
    )
    secured = parse_sentinel_url("rediss+sentinel://me:p%40ss@a/flags")
    assert (secured.username, secured.password, secured.tls, secured.database) == ("me", "p@ss", True, 0)
    assert parse_sentinel_url("redis+sentinel://:only@a/flags").password == "only"
    assert "p@ss" not in repr(secured)


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://a:26379",
        "redis+sentinel:///flags",
        "redis+sentinel://a,,b/flags",
        "redis+sentinel://a:0/flags",
        "redis+sentinel://a:x/flags",
        "redis+sentinel://a/flags/zero",
        "redis+sentinel://a/flags?db=1",
        "sentinel://a/flags",
    ],
)
def test_what_is_wrong_is_said_with_an_example_and_without_the_password(url: str) -> None:
    with pytest.raises(ValueError, match=r"redis\+sentinel://SENTINEL1") as found:
        parse_sentinel_url(url.replace("://a", "://u:geheim@a"))
    assert "geheim" not in str(found.value)
