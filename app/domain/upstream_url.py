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

# Instance metadata, credential and platform services outside the link-local range: AWS (EC2, EKS) over IPv6, Google Cloud, Azure's
# wire server, Alibaba Cloud, Oracle Cloud, Scaleway.
_METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
        "168.63.129.16",
        "100.100.100.200",
        "192.0.0.192",
        "fd00:c1::a9fe:a9fe",
        "fd00:42::42",
    )
)
# Prefixes of 96 bits before an IPv4 address: mapped and the deprecated "compatible" one (RFC 4291, section 2.5.5), translated
# (RFC 7915), NAT64 (RFC 6052), and NAT64 of the local network in its longest form (RFC 8215).
_BEFORE_IPV4 = tuple(
    ipaddress.IPv6Network(f"{prefix}/96")
    for prefix in ("::ffff:0:0", "::", "::ffff:0:0:0", "64:ff9b::", "64:ff9b:1::")
)
_LOCAL_NAT64 = ipaddress.IPv6Network("64:ff9b:1::/48")
_ISATAP = 0x5EFE  # RFC 5214, section 6.1: 0000:5efe or 0200:5efe before the IPv4 address, behind any prefix
_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\.?")


def forbidden(address: str) -> str | None:
    """Why nothing may connect to this IP address, or None. An IPv6 address that embeds IPv4 addresses is judged as each of them too,
    since a translator or tunnel may take it there.
    """
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "is not an IP address"
    if ip in _METADATA or ip.is_link_local:
        return "is link-local or an instance metadata service"
    if ip.is_unspecified or ip.is_multicast or str(ip) == "255.255.255.255":
        return "is no address of a single server"
    if isinstance(ip, ipaddress.IPv4Address):
        return "is reserved" if ip.is_reserved else None
    for embedded in _embedded(ip):
        reason = forbidden(str(embedded))
        if reason is not None:
            return reason
    if ip in _LOCAL_NAT64 and any(inner in _METADATA or inner.is_link_local for inner in _guessed(ip)):
        return "is link-local or an instance metadata service"
    return None


def _embedded(ip: ipaddress.IPv6Address) -> list[ipaddress.IPv4Address]:
    """The IPv4 addresses that this one leads to by its form."""
    found: list[ipaddress.IPv4Address] = []
    last = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    if not ip.is_loopback and any(ip in network for network in _BEFORE_IPV4):
        found.append(last)
    if (int(ip) >> 32) & 0xFDFFFFFF == _ISATAP:
        found.append(last)
    if ip.sixtofour is not None:  # RFC 3056
        found.append(ip.sixtofour)
    found += ip.teredo or ()  # RFC 4380: the server and the client
    return found


def _guessed(ip: ipaddress.IPv6Address) -> list[ipaddress.IPv4Address]:
    """What a translator's prefix of 48, 56, 64 or 96 bits would make of this address (RFC 6052, section 2.2). Which of them the network
    uses is not known, so only what leads to a metadata service by one of them is refused.
    """
    bits = int(ip)
    lower = bits & ((1 << 56) - 1)  # behind the octet that the forms leave out, bits 64 to 71
    found = [ipaddress.IPv4Address(bits & 0xFFFFFFFF)]
    for length in (48, 56, 64):
        before = 64 - length  # bits of the IPv4 address in front of that octet
        upper = bits >> 64 & ((1 << before) - 1)
        found.append(ipaddress.IPv4Address(upper << 32 - before | lower >> 56 - (32 - before)))
    return found


def faults(url: str) -> list[str]:
    """What is wrong with this upstream URL; empty when it may be registered. Repeats no part of it: there may be a password in it."""
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
    except ValueError:  # whose text holds what stands for the port, and that may be a password
        return ["url: is no URL; write one such as http://10.0.0.1:9001"]
    found = []
    if parts.scheme not in ("http", "https"):
        found.append("url: only http and https are forwarded to")
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
        found.append(f"url: its host {reason}")  # not repeated: it may be part of a password
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
