"""Where the URL of a model server points."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Address:
    """Where a URL points: a TCP host and port, or a Unix socket; `base` is the path in front of every target."""

    host: str
    port: int
    unix: str | None
    tls: bool
    base: bytes
    authority: bytes
    literal: bool  # the host is an IP address, not a name

    @classmethod
    def of(cls, url: str) -> Address:
        """`ValueError` unless http, https or unix."""
        parts = urlsplit(url)
        if parts.scheme == "unix":
            return cls("", 0, parts.path, False, b"", b"localhost", True)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no http, https or unix URL")
        tls = parts.scheme == "https"
        default = 443 if tls else 80
        port = parts.port or default
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        authority = host if port == default else f"{host}:{port}"
        base = parts.path.rstrip("/").encode()
        return cls(parts.hostname, port, None, tls, base, authority.encode(), _is_address(parts.hostname))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
