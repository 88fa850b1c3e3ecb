"""Which version answers a request: a sticky bucket of the routing key, and the reason.

On the path of every request: standard library only, one hash at most, and it must never raise, wait or look
at anything but its arguments. The same arguments always give the same assignment, so that every recorded
decision can be replayed.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from hashlib import sha256
from math import ceil
from typing import NamedTuple

BUCKETS = 10_000
NO_BUCKET = -1
ERASED = "erased"
"""`predictions.reason` of an erased row: that of the assignment names the bucket, which follows from the key. By it a later erasure finds
what has arrived since, such as the answer of a shadow or an outcome that was in a journal then."""
# First path segments that are the gateway's own: no model is reached there.
RESERVED = frozenset(
    {
        "admin",
        "feedback",
        "predictions",
        "metrics",
        "healthz",
        "readyz",
        "openapi.json",
        "docs",
        "ofrep",
        "ui",
    }
)


class Assignment(NamedTuple):
    """Who answers and why. `bucket` is `NO_BUCKET` when none was needed; `propensity` is the probability of
    this version. A tuple, because a frozen dataclass costs each request five calls of `object.__setattr__`.
    """

    version: str
    role: str  # production | canary
    bucket: int
    reason: str
    propensity: float = 1.0


def bucket(key: str, salt: str) -> int:
    """The first 8 bytes (big-endian) of sha256("salt:key") modulo 10,000; even to within 1 part in 10¹⁵.

    Any `str` is accepted, also one with lone surrogates from undecodable header bytes.
    """
    digest = sha256(f"{salt}:{key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % BUCKETS


def is_canary(bucket: int, percent: float) -> bool:
    """True for the lowest `percent` of buckets, so that raising the percentage only moves keys towards the
    canary.
    """
    return bucket < percent * 100


def canary_share(percent: float) -> float:
    """The exact share of buckets for which `is_canary` holds, 0..1."""
    return min(max(ceil(percent * 100), 0), BUCKETS) / BUCKETS


@lru_cache(maxsize=256)
def _split(percent: float) -> tuple[float, float, str, str]:
    """Limit, canary share and the reasons' ends at this percentage: worked out once, not for each request."""
    limit = percent * 100
    return limit, canary_share(percent), f" < {limit:g}", f" >= {limit:g}"


def assign(
    *,
    production: str,
    candidate: str | None,
    canary_percent: float,
    canary_enabled: bool,
    disabled_versions: Collection[str],
    key: str,
    salt: str,
    forced: str | None = None,
    guard_stopped: bool = False,
    need_bucket: bool = False,
) -> Assignment:
    """Decide who answers.

    `forced` wins over everything, also over a disabled version: it is how an operator probes one; that the
    version exists and that the caller may force it is the caller's to check. `guard_stopped` is this
    worker's own stop of the candidate. The key is hashed only when a canary is active or `need_bucket` is
    set.
    """
    if forced is not None:
        role = "production" if forced == production else "canary"
        return Assignment(forced, role, bucket(key, salt) if need_bucket else NO_BUCKET, "forced by caller")
    if candidate is None:
        reason = "no candidate"
    elif candidate == production:
        reason = "candidate is production"
    elif candidate in disabled_versions:
        reason = "candidate disabled"
    elif not canary_enabled:
        reason = "canary disabled"
    elif guard_stopped:
        reason = "local guard stop"
    elif not canary_percent > 0:  # NaN too
        reason = "canary at 0 percent"
    else:
        place = bucket(key, salt)
        limit, share, below, above = _split(canary_percent)
        if place < limit:
            return Assignment(candidate, "canary", place, f"bucket {place}{below}", share)
        return Assignment(production, "production", place, f"bucket {place}{above}", 1.0 - share)
    return Assignment(production, "production", bucket(key, salt) if need_bucket else NO_BUCKET, reason)
