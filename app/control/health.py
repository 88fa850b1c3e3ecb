"""How each version did in the last minute, from what the workers count every second. For people and
dashboards: nothing is decided by it.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from app.domain.evidence.batch import Arm
from app.domain.evidence.tick import bucket_floor_ms
from app.link.messages import VersionTick

WINDOW_S = 60
MAX_TRACKS = 2000
_QUANTILES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))


@dataclass(slots=True)
class _Second:
    at: int
    requests: int = 0
    errors: int = 0
    latency: Counter[int] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class VersionHealth:
    """One version in one role. Latencies in milliseconds, each the lower edge of a bucket that is 10 %
    wide; None without any.
    """

    version: str
    role: str
    requests: int
    errors: int
    error_rate: float | None
    latency_ms: dict[str, float | None]
    window_s: int


class RecentHealth:
    """A sliding window of seconds for each (model, version, role), bounded in number."""

    def __init__(self, window_s: int = WINDOW_S) -> None:
        self._window_s = window_s
        self._tracks: dict[tuple[str, str, str], deque[_Second]] = {}

    def add(self, second: int, tick: VersionTick) -> None:
        """Count in what a worker saw in this second. Seconds far from the newest (a jumped clock) start
        the window anew.
        """
        key = (tick.model, tick.version, tick.role)
        track = self._tracks.get(key)
        if track is None:
            if len(self._tracks) >= MAX_TRACKS:
                return
            track = self._tracks[key] = deque()
        if track and not -self._window_s < second - track[-1].at < 10 * self._window_s:
            track.clear()
        if not track or track[-1].at < second:
            track.append(_Second(second))
        here = next((one for one in reversed(track) if one.at <= second), track[0])
        here.requests += tick.requests
        here.errors += tick.errors
        here.latency.update(tick.latency)
        while track[0].at <= second - self._window_s:
            track.popleft()

    def arm(self, model: str, version: str, role: str, now_s: int) -> Arm:
        """What one version answered in one role within the window."""
        track = self._tracks.get((model, version, role), ())
        seconds = [
            Arm(one.requests, one.errors, one.latency) for one in track if one.at > now_s - self._window_s
        ]
        return sum(seconds, Arm())

    def view(self, model: str, now_s: int) -> list[VersionHealth]:
        """Every version of the model that was asked anything lately."""
        found = []
        for (name, version, role), track in list(self._tracks.items()):
            if name != model:
                continue
            while track and track[0].at <= now_s - self._window_s:
                track.popleft()
            if not track:
                del self._tracks[name, version, role]
                continue
            latency: Counter[int] = Counter()
            for second in track:
                latency.update(second.latency)
            requests = sum(second.requests for second in track)
            errors = sum(second.errors for second in track)
            rate = errors / requests if requests else None
            found.append(
                VersionHealth(version, role, requests, errors, rate, _quantiles(latency), self._window_s)
            )
        return sorted(found, key=lambda one: (one.version, one.role))


def _quantiles(latency: Counter[int]) -> dict[str, float | None]:
    total = sum(latency.values())
    result: dict[str, float | None] = {name: None for name, _ in _QUANTILES}
    seen = 0
    for bucket in sorted(latency):
        seen += latency[bucket]
        for name, quantile in _QUANTILES:
            if result[name] is None and seen >= quantile * total:
                result[name] = bucket_floor_ms(bucket)
    return result
