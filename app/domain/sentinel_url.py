"""`redis+sentinel://` URLs: where the sentinels are, and what they call the master. Pure text; connects to nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import unquote

SCHEMES = ("redis+sentinel", "rediss+sentinel")
PORT = 26379
EXAMPLE = "redis+sentinel://SENTINEL1:26379,SENTINEL2:26379/MASTER/0"


@dataclass(frozen=True, slots=True)
class SentinelUrl:
    """`redis+sentinel://[USER:PASSWORD@]HOST[:26379],HOST…/MASTER[/DATABASE]`. User and password are Redis's, not the sentinels'."""

    sentinels: tuple[tuple[str, int], ...]
    master: str
    database: int
    tls: bool
    username: str | None = None
    password: str | None = field(default=None, repr=False)


def is_sentinel_url(url: str) -> bool:
    return url.partition("://")[0] in SCHEMES


def parse_sentinel_url(url: str) -> SentinelUrl:
    """`ValueError` that says what is wrong; it never holds the password."""
    scheme, _, rest = url.partition("://")
    if scheme not in SCHEMES:
        raise ValueError(f"has the scheme {scheme!r}; write {EXAMPLE}")
    authority, _, path = rest.partition("/")
    credentials, at, hosts = authority.rpartition("@")
    username, _, password = credentials.partition(":")
    master, _, database = path.partition("/")
    if not master or "?" in path or "#" in path:
        raise ValueError(f"does not name the master alone behind the hosts; write {EXAMPLE}")
    if database and not (database.isascii() and database.isdecimal()):
        raise ValueError(f"has a database that is no number; write {EXAMPLE}")
    return SentinelUrl(
        tuple(_address(host) for host in hosts.split(",")),
        unquote(master),
        int(database or 0),
        scheme == "rediss+sentinel",
        unquote(username) or None if at else None,
        unquote(password) or None if at else None,
    )


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":") if not text.endswith("]") and ":" in text else (text, "", "")
    if port and not (port.isascii() and port.isdecimal() and 0 < int(port) < 65_536):
        raise ValueError(f"has a sentinel whose port is none; write {EXAMPLE}")
    host = host.strip("[]")
    if not host:
        raise ValueError(f"has a sentinel without a host; write {EXAMPLE}")
    return host, int(port or PORT)
