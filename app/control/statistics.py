"""The workers' cumulative series added up: what `/metrics` shows of the data plane. Counters never go back
when a worker dies.

Only metrics of the catalogue are taken, with as many labels as it says, up to a fixed number of series:
whatever a worker sends, the exposition stays small.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from app.link.buckets import DURATION_BOUNDS
from app.link.messages import Series

MAX_SERIES = 20_000
MAX_HISTOGRAMS = 2_000  # of them: each is seventeen lines of the exposition
_MAX_LABEL = 200
Key = tuple[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Metric:
    kind: str  # counter | gauge | histogram
    labels: tuple[str, ...]
    help: str


CATALOGUE: dict[str, Metric] = {
    "gateway_requests_total": Metric(
        "counter",
        ("model", "version", "role", "code"),
        "Requests by the version that served them; 499: the client left.",
    ),
    "gateway_request_duration_seconds": Metric(
        "histogram",
        ("model", "version", "role"),
        "Request head complete to last byte of the version's answer.",
    ),
    "gateway_first_byte_seconds": Metric(
        "histogram",
        ("model", "version", "role"),
        "Streamed answers: request sent to the first byte of the answer's body.",
    ),
    "gateway_overhead_seconds": Metric(
        "histogram", ("model",), "Time a request spent in the gateway itself."
    ),
    "gateway_shadow_dropped_total": Metric(
        "counter",
        ("model", "version", "reason"),
        "Shadow calls that were not made, or whose answer was not kept.",
    ),
    "gateway_pairs_dropped_total": Metric(
        "counter", ("model",), "Control-mirror pairs that were not kept as evidence."
    ),
    "gateway_upstream_ejections_total": Metric(
        "counter",
        ("model", "version", "replica", "reason"),
        "A URL of a version, by its place in the list from 0, left out for a while after failing several times in a row.",
    ),
    "gateway_upstream_ejected_urls": Metric(
        "gauge",
        ("model", "version"),
        "URLs of a version that are left out now, added up over the workers; only of versions with several URLs.",
    ),
    "gateway_refused_total": Metric(
        "counter", ("reason",), "Requests answered by the gateway itself with an error."
    ),
    "gateway_journal_records_total": Metric("counter", ("kind",), "Records written to the journal."),
    "gateway_journal_dropped_total": Metric(
        "counter", ("reason",), "Records that the journal could not keep."
    ),
    "gateway_journal_fsync_errors_total": Metric("counter", (), "Failed fsync calls of the journal."),
    "gateway_link_errors_total": Metric(
        "counter", (), "Frames from the control process that a worker could not read."
    ),
    "gateway_inflight_requests": Metric("gauge", (), "Requests being served now."),
    "gateway_journal_pending_records": Metric(
        "gauge", (), "Records in the journal that the store does not have yet."
    ),
    "gateway_recorded_total": Metric("counter", ("kind",), "Records that the recorder has stored."),
    "gateway_unread_total": Metric(
        "counter",
        ("model", "reason"),
        "Requests of which something could not be read; docs/protocols.md has the reasons.",
    ),
    "gateway_quarantined_total": Metric("counter", ("reason",), "Records kept in quarantine."),
    "gateway_shadow_comparisons_total": Metric(
        "counter", ("model", "version", "result"), "Shadow answers compared with production's."
    ),
    "gateway_feedback_total": Metric(
        "counter", ("model", "result"), "Outcomes received, by what became of them."
    ),
    "gateway_canary_percent": Metric(
        "gauge", ("model",), "Share of requests that the candidate answers, in percent."
    ),
    "gateway_guard_trips_dropped_total": Metric(
        "counter",
        ("reason",),
        "Trips of a worker's guard beyond what may wait: for the control process (`unsent`), or in it (`busy`).",
    ),
    "gateway_rollbacks_total": Metric("counter", ("model", "version", "reason"), "Candidates taken out."),
    "gateway_flags_revision": Metric("gauge", ("model",), "Revision of the flags in force."),
    "gateway_flags_stale_seconds": Metric(
        "gauge", (), "Since the flags were last known to agree with the store."
    ),
    "gateway_flags_refused_total": Metric(
        "counter",
        (),
        "Flags from Redis or another host that were refused: unreadable, not servable, or not the store's.",
    ),
    "gateway_dependency_up": Metric("gauge", ("dependency",), "1 while the dependency answers."),
    "gateway_workers": Metric("gauge", (), "Workers connected to the control process."),
    "gateway_performance": Metric("gauge", ("model", "version", "metric"), "Performance over mature labels."),
    "gateway_label_coverage": Metric(
        "gauge", ("model", "version"), "Share of predictions past the label horizon that have one."
    ),
    "gateway_drift_statistic": Metric(
        "gauge", ("model", "version", "feature"), "Drift by feature, the 20 largest of a model."
    ),
    "gateway_retraining_decision": Metric(
        "gauge", ("model", "urgency"), "1 for the urgency of a retraining that is called for."
    ),
    "gateway_spans_total": Metric(
        "counter", ("result",), "Spans for OpenTelemetry: exported, or dropped while no collector took them."
    ),
    "gateway_registry_changes_total": Metric(
        "counter",
        ("result",),
        "Aliases in the model registry: moved, removed, refused (no such version there), failed (no answer; tried again).",
    ),
    "gateway_event_clients": Metric("gauge", (), "Clients that follow /admin/events."),
    "gateway_event_clients_dropped_total": Metric(
        "counter", ("reason",), "Clients of /admin/events dropped for not reading (slow), or refused (limit)."
    ),
    "gateway_metrics_refused_total": Metric(
        "counter", (), "Series left out of this exposition: unknown, or too many."
    ),
}


@dataclass(slots=True)
class Sum:
    """A counter's or gauge's value; a histogram's sum of values and counts by upper bound, not cumulative."""

    value: float = 0.0
    buckets: tuple[int, ...] = ()

    def add(self, value: float, buckets: tuple[int, ...]) -> None:
        self.value += value
        self.buckets = (
            tuple(a + b for a, b in zip(self.buckets, buckets, strict=True)) if self.buckets else buckets
        )


class WorkerTotals:
    """The latest totals of each living worker process, and the sum of the dead ones'."""

    def __init__(self) -> None:
        self._latest: dict[str, list[Series]] = {}  # by journal writer, which is unique to a process
        self._slots: dict[str, str] = {}  # slot -> writer of its present process
        self._dead: dict[Key, Sum] = {}
        self.refused = 0  # series that are not in the catalogue, or too many

    def hello(self, slot: str, writer: str) -> None:
        """A process said who it is. Another process than before in this slot: the one before is dead."""
        before = self._slots.get(slot)
        if before is not None and before != writer:
            self._bury(before)
        self._slots[slot] = writer

    def update(self, writer: str, series: list[Series]) -> None:
        """A process's newest totals; those of a process that a newer one has replaced are ignored."""
        if writer in self._slots.values():
            self._latest[writer] = self._admitted(series)

    def _admitted(self, series: list[Series]) -> list[Series]:
        kept = []
        for one in series[:MAX_SERIES]:
            metric = CATALOGUE.get(one.name)
            slots = len(DURATION_BOUNDS) + 1 if metric is not None and metric.kind == "histogram" else 0
            if (
                metric is None
                or len(one.labels) != len(metric.labels)
                or len(one.buckets) != slots
                or any(len(label) > _MAX_LABEL for label in one.labels)
            ):
                self.refused += 1
            else:
                kept.append(one)
        self.refused += max(0, len(series) - MAX_SERIES)
        return kept

    def _bury(self, writer: str) -> None:
        living = self._latest.pop(writer, [])
        self._add(self._dead, (one for one in living if CATALOGUE[one.name].kind != "gauge"))

    def _add(self, into: dict[Key, Sum], series: Iterable[Series]) -> None:
        self.refused += add_up(into, series)

    def total(self) -> dict[Key, Sum]:
        """Everything added up."""
        result = {key: Sum(one.value, one.buckets) for key, one in self._dead.items()}
        for series in self._latest.values():
            self._add(result, series)
        return result


def add_up(into: dict[Key, Sum], series: Iterable[Series]) -> int:
    """Add series to sums; returns how many had no room."""
    refused = 0
    histograms = sum(bool(one.buckets) for one in into.values())
    for one in series:
        key = (one.name, one.labels)
        found = into.get(key)
        if found is None:
            histograms += bool(one.buckets)
            if len(into) >= MAX_SERIES or (histograms > MAX_HISTOGRAMS and one.buckets):
                refused += 1
                continue
            found = into[key] = Sum()
        found.add(one.value, one.buckets)
    return refused
