"""What a worker counts. Plain integers, cumulative; differences are taken when they are published, once a second."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from app.domain.evidence.tick import latency_bucket
from app.link.buckets import DURATION_BOUNDS
from app.link.messages import Series, VersionTick

_SLOTS = len(DURATION_BOUNDS) + 1


class Histogram:
    """Counts by upper bound (seconds) and their sum."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * _SLOTS
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(DURATION_BOUNDS, seconds)] += 1
        self.total += seconds

    def add(self, other: Histogram) -> None:
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.total += other.total


class Track:
    """One version of one model in one role."""

    __slots__ = (
        "_seen",
        "codes",
        "duration",
        "errors",
        "evidence",
        "first_byte",
        "latency",
        "left",
        "model",
        "requests",
        "role",
        "shared_errors",
        "version",
    )

    def __init__(self, model: str, version: str, role: str, *, evidence: bool) -> None:
        self.model = model
        self.version = version
        self.role = role
        self.evidence = evidence  # forced requests are counted, but prove nothing
        self.requests = 0
        self.errors = 0
        self.shared_errors = 0
        self.left = 0  # clients that did not wait for their answer
        self.codes: dict[int, int] = {}
        self.duration = Histogram()
        self.first_byte: Histogram | None = None  # of streamed answers, once there is one
        self.latency: dict[int, int] = {}
        self._seen: tuple[int, int, int, int, dict[int, int]] = (0, 0, 0, 0, {})

    def record(self, status: int, is_error: bool, seconds: float) -> None:
        self.requests += 1
        if is_error:
            self.errors += 1
        codes = self.codes
        codes[status] = codes.get(status, 0) + 1
        self.duration.observe(seconds)
        if self.evidence and (not is_error or status == 504):  # a quick refusal is no fast answer
            bucket = latency_bucket(seconds * 1000.0)
            latency = self.latency
            latency[bucket] = latency.get(bucket, 0) + 1

    def abandoned(self, status: int, seconds: float) -> None:
        """The client left after so long. Its answer would have taken longer still: without these, a version that is too slow
        to be waited for looks as fast as its fast answers.
        """
        self.left += 1
        self.codes[status] = self.codes.get(status, 0) + 1
        if self.evidence:
            bucket = latency_bucket(seconds * 1000.0)
            self.latency[bucket] = self.latency.get(bucket, 0) + 1

    def streamed(self, seconds: float) -> None:
        """A streamed answer whose body began after so long."""
        if self.first_byte is None:
            self.first_byte = Histogram()
        self.first_byte.observe(seconds)

    def since_last(self, percent: float, revision: int, rollout_id: str) -> VersionTick | None:
        """What came since the last call, as evidence; None when nothing did."""
        requests, errors, shared, left, latency = self._seen
        if not self.evidence or (
            self.requests == requests and self.shared_errors == shared and self.left == left
        ):
            return None
        now = dict(self.latency)
        tick = VersionTick(
            self.model,
            self.version,
            self.role,
            percent,
            revision,
            rollout_id,
            self.requests - requests,
            self.errors - errors,
            self.shared_errors - shared,
            {
                bucket: count - latency.get(bucket, 0)
                for bucket, count in now.items()
                if count != latency.get(bucket, 0)
            },
        )
        self._seen = (self.requests, self.errors, self.shared_errors, self.left, now)
        return tick


class Statistics:
    """All of a worker's counters. Label values are models, versions, roles, statuses and reasons: bounded by the configuration."""

    def __init__(self) -> None:
        self.tracks: dict[tuple[str, str, str, bool], Track] = {}
        self.overhead: dict[str, Histogram] = {}
        self.counters: dict[tuple[str, ...], int] = {}

    def track(self, model: str, version: str, role: str, *, forced: bool = False) -> Track:
        key = (model, version, role, forced)
        track = self.tracks.get(key)
        if track is None:
            track = self.tracks[key] = Track(model, version, role, evidence=not forced)
        return track

    def overhead_of(self, model: str) -> Histogram:
        return self.overhead.setdefault(model, Histogram())

    def count(self, name: str, *labels: str, by: int = 1) -> None:
        key = (name, *labels)
        self.counters[key] = self.counters.get(key, 0) + by

    def series(self) -> Iterator[Series]:
        """Everything, cumulative."""
        codes: dict[tuple[str, str, str, str], int] = {}
        durations: dict[tuple[str, str, str], Histogram] = {}
        first_bytes: dict[tuple[str, str, str], Histogram] = {}
        for track in self.tracks.values():
            for code, count in track.codes.items():
                by_code = (track.model, track.version, track.role, str(code))
                codes[by_code] = codes.get(by_code, 0) + count
            names = (track.model, track.version, track.role)
            durations.setdefault(names, Histogram()).add(track.duration)
            if track.first_byte is not None:
                first_bytes.setdefault(names, Histogram()).add(track.first_byte)
        for labels, count in codes.items():
            yield Series("gateway_requests_total", labels, count)
        for names, histogram in durations.items():
            yield Series("gateway_request_duration_seconds", names, histogram.total, tuple(histogram.counts))
        for names, histogram in first_bytes.items():
            yield Series("gateway_first_byte_seconds", names, histogram.total, tuple(histogram.counts))
        for model, histogram in self.overhead.items():
            yield Series("gateway_overhead_seconds", (model,), histogram.total, tuple(histogram.counts))
        for key, count in self.counters.items():
            yield Series(key[0], key[1:], count)
