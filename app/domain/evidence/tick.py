"""What a worker counts in one second of one version, and the latency ladder that these counts use.

Runs in proxy workers after each request: standard library only, constant time and memory, never raises.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, field

RATIO = 1.1  # between the lower edges of neighbouring buckets
BELOW_10_MS = 48  # rungs under 10 ms: the lowest bucket holds everything under 0.113 ms
BUCKETS = BELOW_10_MS + 81  # the top bucket starts at 20.5 s and holds every timeout
TOP = BUCKETS - 1
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


@dataclass(frozen=True, slots=True)
class VersionCounts:
    """One second of one version in one role, with one canary percentage in force: a part of a batch."""

    model: str
    version: str
    role: str  # production | canary | shadow | control
    percent: float  # canary percent in force
    flags_revision: int
    rollout_id: str  # "" outside a rollout
    requests: int  # votes: with `unit: key` one a key an epoch
    errors: int  # failed, shared ones included
    shared_errors: int  # of these, production failed on the same request too: not the canary's fault
    latency: dict[int, int]  # bucket -> count


@dataclass(slots=True)
class _Running:
    requests: int = 0
    errors: int = 0
    shared_errors: int = 0
    latency: dict[int, int] = field(default_factory=dict)


class TickCounts:
    """The counts of the running second, for all versions of a worker."""

    __slots__ = ("_running",)

    def __init__(self) -> None:
        self._running: dict[tuple[str, str, str, float, int, str], _Running] = {}

    def add(
        self,
        model: str,
        version: str,
        role: str,
        percent: float,
        flags_revision: int,
        rollout_id: str,
        *,
        latency_ms: float,
        error: bool = False,
        timed_out: bool = False,
        shared: bool = False,
    ) -> None:
        """One answer, or its absence. Percent and revision are those of the assignment, not of the answer.

        A timeout is an error in the top bucket; any other error has no latency, since a quick refusal is no
        fast answer. `shared`: production failed on the same request too. Retries of one request are one call.
        Forced requests and those that the client left are no evidence: do not add them.
        """
        key = (model, version, role, percent, flags_revision, rollout_id)
        running = self._running.get(key)
        if running is None:
            running = self._running[key] = _Running()
        running.requests += 1
        if error or timed_out:
            running.errors += 1
            running.shared_errors += shared
        if timed_out or not error:
            bucket = TOP if timed_out else latency_bucket(latency_ms)
            running.latency[bucket] = running.latency.get(bucket, 0) + 1

    def drain(self) -> list[VersionCounts]:
        """What was counted since the last call; counting starts anew."""
        running, self._running = self._running, {}
        return [
            VersionCounts(*key, c.requests, c.errors, c.shared_errors, c.latency)
            for key, c in running.items()
        ]


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
