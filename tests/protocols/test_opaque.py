"""Protocol `opaque`: one bare row for each exchange, whatever its bytes."""

from __future__ import annotations

from app.protocols.record import BARE_ROW, Exchange
from app.protocols.registry import build_reader


def test_an_opaque_exchange_is_one_bare_row_without_a_reason() -> None:
    reader = build_reader("opaque")
    for body in (b"", b'{"features":{"x":1}}', b"\x00\xff" * 100):
        extraction = reader(Exchange(body, body, request_truncated=True, status=500))
        assert extraction.rows == (BARE_ROW,)
        assert extraction.reason is None
