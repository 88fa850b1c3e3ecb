"""Which addresses nothing may connect to: metadata services in every form of an address that may lead there."""

from __future__ import annotations

import pytest

from app.domain.upstream_url import faults, forbidden


@pytest.mark.parametrize(
    "address",
    [
        "::169.254.169.254",  # compatible, RFC 4291 section 2.5.5.1
        "::ffff:169.254.169.254",  # mapped, section 2.5.5.2
        "::ffff:0:169.254.169.254",  # translated, RFC 7915
        "64:ff9b::a9fe:a9fe",  # NAT64, RFC 6052
        "64:ff9b:1::a9fe:a9fe",  # NAT64 of the local network, RFC 8215, with a prefix of 96 bits,
        "64:ff9b:1:a9fe:a9:fe00::",  # 48,
        "64:ff9b:1:a9:fe:a9fe::",  # 56
        "64:ff9b:1:0:a9:fea9:fe00::",  # and 64
        "64:ff9b:1:ffff:ffff:ffff:a83f:8110",
        "2002:a9fe:a9fe::1",  # 6to4, RFC 3056
        "2001:0:a9fe:a9fe::1",  # Teredo, RFC 4380: the server,
        "2001:0:4136:e378:8000:63bf:5601:5601",  # the client
        "2001:db8::5efe:169.254.169.254",  # ISATAP, RFC 5214
        "fd00::200:5efe:a9fe:a9fe",
        "fe80::5efe:a00:1",
        "169.254.170.2",
        "fd00:ec2::254",
        "fd20:ce::254",
        "168.63.129.16",
        "::ffff:168.63.129.16",
        "::ffff:0.0.0.0",
        "::240.0.0.1",
        "::",
        "ff02::1",
        "fe80::1%eth0",
        "1.2.3",
        "",
    ],
)
def test_no_form_of_an_address_leads_to_a_metadata_service(address: str) -> None:
    assert forbidden(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.1",
        "192.168.1.1",
        "168.63.129.17",
        "::1",
        "::ffff:127.0.0.1",
        "fd12:3456::1",
        "fd20:ce::255",
        "2001:db8::1",
        "2606:4700::6810:84e5",
        "64:ff9b::8.8.8.8",
        "64:ff9b:1::10.0.0.1",
        "64:ff9b:1:a00:0:100::",
        "2002:a00:1::1",
        "2001:db8::5efe:10.0.0.1",
        "2001:db8::a9fe:a9fe",  # only looks alike
    ],
)
def test_a_model_servers_address_is_none_of_them(address: str) -> None:
    assert forbidden(address) is None
    assert faults(f"http://[{address}]:9001" if ":" in address else f"http://{address}:9001") == []
