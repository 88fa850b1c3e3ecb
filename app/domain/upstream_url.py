"""Which URLs a version may be registered with through the API, and which addresses a connection to it may
reach.

An operator's token must not become a way to read the cloud's instance metadata or the gateway's own host
files: only http and https, and never an address that no model server has. Names are not resolved here:
whoever connects checks the resolved address with `forbidden` again.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

# Instance metadata services outside the link-local range: AWS over IPv6, Alibaba Cloud, Oracle Cloud.
_METADATA = frozenset(
    ipaddress.ip_address(text) for text in ("fd00:ec2::254", "100.100.100.200", "192.0.0.192")
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: an IPv4 address in the last 32 bits
_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\.?")


def forbidden(address: str) -> str | None:
    """Why nothing may connect to this IP address, or None. An IPv6 form of an IPv4 address is judged as that
    address.
    """
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "is not an IP address"
    if isinstance(ip, ipaddress.IPv6Address):
        translated = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None
        embedded = ip.ipv4_mapped or ip.sixtofour or translated or (ip.teredo or (None, None))[1]
        if embedded is not None:
            return forbidden(str(embedded))
    if ip in _METADATA or ip.is_link_local:
        return "is link-local or an instance metadata service"
    if ip.is_unspecified or ip.is_multicast or str(ip) == "255.255.255.255":
        return "is no address of a single server"
    if isinstance(ip, ipaddress.IPv4Address) and ip.is_reserved:
        return "is reserved"
    return None


def faults(url: str) -> list[str]:
    """What is wrong with this upstream URL; empty when it may be registered."""
    if (
        len(url) > 2048
        or not url.isascii()
        or any(character <= " " or character == "\x7f" for character in url)
    ):
        return ["url: only printable ASCII without spaces, at most 2048 characters"]
    try:
        parts = urlsplit(url)
        port = parts.port
        host = parts.hostname
    except ValueError as error:
        return [f"url: {error}"]
    found = []
    if parts.scheme not in ("http", "https"):
        found.append(f"url: {parts.scheme or 'no'} scheme; only http and https are forwarded to")
    if parts.username is not None or parts.password is not None:
        found.append("url: must not hold a user or password")
    if parts.query or parts.fragment or url.endswith(("?", "#")):
        found.append("url: must not hold a query or a fragment")
    if port == 0:
        found.append("url: port 0 cannot be connected to")
    if not host:
        return [*found, "url: has no host"]
    reason = _host_fault(host)
    if reason:
        found.append(f"url: {host} {reason}")
    return found


def _host_fault(host: str) -> str | None:
    if ":" in host:
        return forbidden(host)
    last = host.rstrip(".").rpartition(".")[2]
    # the resolver reads 2852039166 and 0xA9.254.43518 as addresses
    if last.isdigit() or last.lower().startswith("0x"):
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            return "is a number but no dotted address"
        return forbidden(host)
    return None if _NAME.fullmatch(host) and len(host) <= 253 else "is no host name"
