"""TLS on both sides: what the gateway shows and whom it trusts. Never weaker than TLS 1.2, never unverified but by an explicit word.

RFC 9325 (recommendations for TLS), RFC 9110 section 4.3.4 (the name in the certificate is the one that was asked for).
"""

from __future__ import annotations

import ssl

from app.domain.model import UpstreamTls
from app.domain.policy import ServerTls

ALPN = ["http/1.1"]


def server_context(tls: ServerTls) -> ssl.SSLContext:
    """For the listening sockets. `OSError` (`ssl.SSLError` is one) when a file is missing or is not what it should be."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.load_cert_chain(tls.certificate, tls.key, password=_no_passphrase)
    if tls.client_ca is not None:
        context.load_verify_locations(cafile=tls.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(ALPN)
    return context


def client_context(tls: UpstreamTls) -> ssl.SSLContext:
    """For connections to a model's servers. `OSError` as above."""
    context = ssl.create_default_context(cafile=tls.ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.certificate is not None:
        context.load_cert_chain(tls.certificate, tls.key, password=_no_passphrase)
    if tls.insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(ALPN)
    return context


def _no_passphrase() -> str:
    """Called for an encrypted key; the default would ask at the terminal and wait for ever."""
    raise OSError("the key has a passphrase; store it without one, readable by this user only")
