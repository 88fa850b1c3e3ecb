"""The latency ladder that workers count on, and which request is a routing key's one vote.

Runs in proxy workers after each request: standard library only, constant time and memory, never raises.
"""

from __future__ import annotations

import math
import zlib

RATIO = 1.1  # between the lower edges of neighbouring buckets
BELOW_10_MS = 48  # rungs under 10 ms: the lowest bucket holds everything under 0.113 ms
BUCKETS = BELOW_10_MS + 81  # the top bucket starts at 20.5 s
TOP = BUCKETS - 1
LEAST_MS = 10.0  # shorter latencies are alike to who compares: what is faster than that is fast enough
LEAST = BELOW_10_MS - 1  # the bucket that stands for all of them
_PER_LOG = 1.0 / math.log(RATIO)
_OFFSET = BELOW_10_MS - math.log(10.0) * _PER_LOG
_LOWEST_MS = 10.0 / RATIO ** (BELOW_10_MS - 1)
_TOP_MS = 10.0 * RATIO**80


def latency_bucket(ms: float) -> int:
    """The bucket of a latency in milliseconds: 0..128, each 10 % wide; bucket 48 starts at 10 ms.

    NaN is the top one.
    """
    if ms < _LOWEST_MS:
        return 0
    if ms < _TOP_MS:
        return int(math.log(ms) * _PER_LOG + _OFFSET)
    return TOP


def bucket_floor_ms(bucket: int) -> float:
    """The lower edge of a bucket in milliseconds; 0 for the lowest."""
    return 10.0 * RATIO ** (bucket - BELOW_10_MS) if bucket > 0 else 0.0


class KeyVotes:
    """`unit: key`: which request is the one vote of its routing key in an epoch. One a model.

    A bitmap of fixed size instead of the keys: two keys that fall on one bit share a vote, in either arm
    alike, which costs evidence and never makes any. 2^16 bits lose half of the votes at about 100,000 keys an
    epoch.
    """

    __slots__ = ("_bits", "_epoch", "_epoch_s", "_seen")

    def __init__(self, epoch_s: int = 60, bits: int = 16) -> None:
        self._epoch_s = max(epoch_s, 1)
        self._bits = bits
        self._epoch = -1
        self._seen = bytearray(1 << max(bits - 3, 0))

    def is_first(self, key: str, tick: int) -> bool:
        """Whether this is the key's first request in the epoch of `tick`; only that one is to be added."""
        epoch = tick // self._epoch_s
        if epoch != self._epoch:
            self._epoch = epoch
            self._seen = bytearray(len(self._seen))
        # The epoch is hashed in, so that keys that collide once do not collide for ever.
        slot = zlib.crc32(key.encode("utf-8", "surrogatepass"), epoch & 0xFFFFFFFF) & ((1 << self._bits) - 1)
        mask = 1 << (slot & 7)
        if self._seen[slot >> 3] & mask:
            return False
        self._seen[slot >> 3] |= mask
        return True
