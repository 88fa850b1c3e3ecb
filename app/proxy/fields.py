"""Header fields on their way through: which end here, which go on, and what the gateway says itself.

RFC 9110 section 7.6.1 (Connection and hop-by-hop fields), 7.6.3 (Via); RFC 9457 (problems); W3C Trace Context (traceparent).
"""

from __future__ import annotations

import json
import random
import re
from http import HTTPStatus

Field = tuple[bytes, bytes]

HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
# Not forwarded as they came: the gateway writes its own, or none.
REQUEST_OWN = HOP_BY_HOP | {
    b"host",
    b"content-length",
    b"expect",
    b"via",
    b"forwarded",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-proto",
    b"x-gateway-version",
    b"x-gateway-token",
    b"x-prediction-id",
    b"traceparent",
    b"tracestate",
}
RESPONSE_OWN = HOP_BY_HOP | {
    b"content-length",
    b"x-prediction-id",
    b"x-model-version",
    b"x-model-role",
    b"x-gateway-error",
    b"via",
}
PLAIN = frozenset((b"close", b"keep-alive"))  # a Connection field that names no other field
VIA = b"1.1 model-gateway"

_TRACEPARENT = re.compile(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_ZERO_TRACE, _ZERO_SPAN = b"0" * 32, b"0" * 16

STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %s\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus
}


def status_line(status: int) -> bytes:
    return STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


def listed(value: bytes) -> list[bytes]:
    """The lower-case names in a Connection field."""
    return [name.strip().lower() for name in value.split(b",")]


def carry_on(traceparent: bytes) -> bytes | None:
    """The same trace with a parent id of ours; None when it is not valid (then tracestate goes too)."""
    found = _TRACEPARENT.fullmatch(traceparent)
    if found is None or found[1] == _ZERO_TRACE or found[2] == _ZERO_SPAN:
        return None
    return b"00-%s-%016x-%s" % (found[1], random.getrandbits(64) | 1, found[3])


def begin_trace(share: float) -> bytes:
    """A trace that begins here; sampled with this probability (W3C Trace Context, section 3.2.2.5.1)."""
    sampled = 1 if random.random() < share else 0  # noqa: S311  # sampling, nothing that must not be guessed
    return b"00-%032x-%016x-%02x" % (random.getrandbits(128) | 1, random.getrandbits(64) | 1, sampled)


def own_span(traceparent: bytes) -> bytes:
    """The same trace for another call of ours: with a span id of its own. `traceparent` must be valid."""
    return b"%s%016x%s" % (traceparent[:36], random.getrandbits(64) | 1, traceparent[52:])


# X-Gateway-Error -> status, title, what the reader can do
PROBLEMS: dict[str, tuple[int, str, str]] = {
    "no_route": (404, "No route", "No model matches this request; GET /admin/models lists what is served."),
    "payload_too_large": (413, "Payload too large", "The body is larger than server.max_body_bytes."),
    "headers_too_large": (
        431,
        "Request header fields too large",
        "The request head is larger than server.max_header_bytes.",
    ),
    "bad_request": (400, "Bad request", "The request is not valid HTTP/1.1."),
    "overloaded": (
        503,
        "Overloaded",
        "The gateway takes no more requests right now; try again after Retry-After seconds.",
    ),
    "draining": (503, "Draining", "This gateway is shutting down; send the request again."),
    "upstream_unreachable": (
        502,
        "Upstream unreachable",
        "The model server refused the connection or closed it without an answer.",
    ),
    "upstream_timeout": (
        504,
        "Upstream timeout",
        "The model server did not answer within the version's timeout_s.",
    ),
    "upstream_protocol": (502, "Upstream protocol error", "The model server's answer is not valid HTTP/1.1."),
    "forbidden": (
        403,
        "Forbidden",
        "X-Gateway-Version needs a token with scope operate in X-Gateway-Token or Authorization.",
    ),
    "control_unavailable": (
        503,
        "Control process unavailable",
        "Model traffic goes on; try this call again after Retry-After seconds.",
    ),
    "timeout": (408, "Request timeout", "The request did not arrive within server.receive_timeout_s."),
}
RETRY = frozenset(("overloaded", "draining", "control_unavailable"))


def problem(
    error: str, detail: str = "", *, close: bool = False, extra: bytes = b"", head_only: bool = False
) -> tuple[int, bytes]:
    """Status and whole answer for one of the gateway's own errors. `extra` are further header lines, each with its CRLF."""
    status, title, remedy = PROBLEMS[error]
    body = json.dumps(
        {
            "type": "about:blank",
            "title": title,
            "status": status,
            "code": error,  # the name under which the API's problems have it
            "detail": detail or remedy,
            "error": error,
        },
        ensure_ascii=True,
    ).encode()
    lines = [
        status_line(status),
        b"Content-Type: application/problem+json\r\n",
        b"Content-Length: %d\r\n" % len(body),
        b"X-Gateway-Error: %s\r\n" % error.encode(),
        b"Cache-Control: no-store\r\n",
        extra,
    ]
    if error in RETRY:
        lines.append(b"Retry-After: 1\r\n")
    if close:
        lines.append(b"Connection: close\r\n")
    lines.append(b"\r\n")
    if not head_only:
        lines.append(body)
    return status, b"".join(lines)
