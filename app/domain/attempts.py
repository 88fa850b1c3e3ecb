"""A bound on failed attempts by origin. The time is an argument.

Used with `settle`, it refuses wrong attempts only: nobody can lock out those who share an address with them (behind a load balancer, a
proxy, on one host). So it does not keep a guess from succeeding. What does is the length of the secret: throttling is asked for below
64 bits (NIST SP 800-63B, section 5.1.2.2), and `model-gateway token new` makes 256. The limit has guessing seen, and told to stop.
"""

from __future__ import annotations

from collections import OrderedDict

FAILURES = 10.0  # failed attempts an origin may make at once,
REFILL_S = 6.0  # and one more each time this passed
MAX_ORIGINS = 10_000


class FailureLimit:
    """A token bucket for each origin, of failures only. Bounded: the origins that failed longest ago are forgotten."""

    def __init__(self) -> None:
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # origin -> (left, at)

    def settle(self, origin: str, now: float, *, right: bool) -> int:
        """Note an attempt that was verified. 0: answer it as it deserves, which a right one always is; else the seconds until the
        origin may fail again, and all it is told. `now` is monotonic, in seconds.
        """
        if right:
            return 0
        wait = self.retry_after_s(origin, now)
        if not wait:
            self.failed(origin, now)
        return wait

    def _now_left(self, origin: str, now: float) -> float:
        known = self._left.get(origin)
        return FAILURES if known is None else min(FAILURES, known[0] + (now - known[1]) / REFILL_S)

    def retry_after_s(self, origin: str, now: float) -> int:
        """0 while the origin may fail; `now` is monotonic, in seconds."""
        left = self._now_left(origin, now)
        return 0 if left >= 1.0 else max(1, round((1.0 - left) * REFILL_S))

    def failed(self, origin: str, now: float) -> None:
        """One more failed attempt."""
        self._left[origin] = (self._now_left(origin, now) - 1.0, now)
        self._left.move_to_end(origin)
        if len(self._left) > MAX_ORIGINS:
            self._left.popitem(last=False)
