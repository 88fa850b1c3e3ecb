"""Prediction ids: UUIDv7 (RFC 9562, section 5.7), made by the gateway, ordered by time.

An id names a prediction and finds its partition; it is not a secret and must never serve as one: the random
bits come from a seeded Mersenne Twister. Standard library only: proxy workers import this.
"""

from __future__ import annotations

import random
import uuid

_VERSION = 0x7 << 76
_VARIANT = 0b10 << 62
_TAIL_BITS = 74  # rand_a (12) and rand_b (62) together
_LOW = (1 << 62) - 1
_MAX_MS = (1 << 48) - 1


def _compose(unix_ms: int, tail: int) -> int:
    return unix_ms << 80 | _VERSION | (tail >> 62) << 64 | _VARIANT | tail & _LOW


def uuid7(unix_ms: int, random_bytes: bytes) -> uuid.UUID:
    """The UUIDv7 of a time (milliseconds since the epoch, 48 bits) and at least 10 random bytes;
    `ValueError` otherwise.
    """
    if not 0 <= unix_ms <= _MAX_MS:
        raise ValueError(f"unix_ms {unix_ms} does not fit in 48 bits")
    if len(random_bytes) < 10:
        raise ValueError(f"{len(random_bytes)} random bytes; 10 are needed")
    return uuid.UUID(int=_compose(unix_ms, int.from_bytes(random_bytes[:10], "big") >> 6))


class PredictionIds:
    """A process's source of ids, strictly increasing whatever the clock does (RFC 9562, section 6.2, method
    2).

    `seed` is the process's own randomness, at least 16 bytes; make one source a process, after forking.
    Within one millisecond, or while the clock is behind, ids grow by a random step, and borrow a
    millisecond should 74 bits overflow.
    """

    __slots__ = ("_bits", "_ms", "_tail")

    def __init__(self, seed: bytes) -> None:
        if len(seed) < 16:
            raise ValueError(f"a seed of {len(seed)} bytes; 16 are needed to tell processes apart")
        self._bits = random.Random(seed).getrandbits  # noqa: S311 - ids are no secrets
        self._ms = 0
        self._tail = self._bits(_TAIL_BITS - 1)  # the leading bit stays free, so that steps seldom overflow

    def next(self, unix_ms: int) -> bytes:
        """The next id, 16 bytes. `unix_ms` is the wall clock in milliseconds since the epoch."""
        if unix_ms > self._ms:
            self._ms = unix_ms
            tail = self._bits(_TAIL_BITS - 1)
        else:
            tail = self._tail + 1 + self._bits(32)
            if tail >> _TAIL_BITS:
                self._ms += 1
                tail = self._bits(_TAIL_BITS - 1)
        self._tail = tail
        return _compose(self._ms, tail).to_bytes(16, "big")


def format_id(value: bytes) -> str:
    """The canonical text of 16 bytes: 8-4-4-4-12 lower-case hexadecimal digits."""
    text = value.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def parse_id(text: str) -> bytes:
    """The 16 bytes of a canonical UUIDv7 (either case, no row suffix); `ValueError` for anything else."""
    if len(text) == 36 and text[8] == text[13] == text[18] == text[23] == "-":
        try:
            value = bytes.fromhex(text[:8] + text[9:13] + text[14:18] + text[19:23] + text[24:])
        except ValueError:
            value = b""
        if len(value) == 16 and value[6] >> 4 == 7 and value[8] >> 6 == 0b10:
            return value
    raise ValueError(f"{text[:80]!r} is no prediction id (a UUIDv7 such as X-Prediction-Id carries)")


def unix_ms_of(value: bytes) -> int:
    """The time in an id, milliseconds since the epoch."""
    return int.from_bytes(value[:6], "big")


def row_id(text: str, row: int) -> str:
    """The id of one row of an N-row body."""
    return f"{text}:{row}"


def split_row(text: str) -> tuple[bytes, int | None]:
    """The id and the row (None when not given) of `id` or `id:row`; `ValueError` for anything else."""
    head, colon, row = text.partition(":")
    if not colon:
        return parse_id(head), None
    if not (row.isascii() and row.isdigit() and len(row) <= 9):
        raise ValueError(f"{row[:80]!r} is no row number")
    return parse_id(head), int(row)
