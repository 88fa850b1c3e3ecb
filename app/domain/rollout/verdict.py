"""What the figures of this moment say about the candidate: healthy, degraded, inconclusive or no_data.

Never says healthy without data, and never failed for the lack of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum

HALT_LOG_E = math.log(100.0)  # odds of 100 against "no worse": reason to wait, not yet to roll back
CONFIRM_LOG_E = math.log(1e3)  # what `enforce_if_worse` asks for beside a tripped guard

Figure = float | int | str | bool


class GuardMode(StrEnum):
    """What a tripped window guard does."""

    OFF = "off"  # nothing
    ADVISORY = "advisory"  # it is reported
    ENFORCE_IF_WORSE = "enforce_if_worse"  # rolls back if the evidence too says "worse", at 1e-3; else waits
    ENFORCE = "enforce"  # rolls back


class Health(StrEnum):
    """What a verdict says."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    INCONCLUSIVE = "inconclusive"
    NO_DATA = "no_data"


@dataclass(frozen=True, slots=True)
class Evidence:
    """The figures of this moment.

    Counts are the candidate's since the rollout began, so none is lost between looks.
    """

    requests: int = 0  # answered by the candidate to clients, as a canary or once promoted; no forced ones
    shadow_requests: int = 0  # answered by the candidate as a shadow
    last_request_at: float | None = None  # seconds since the epoch; None: never
    log_e: float = 0.0  # log of the e-value against "no worse"
    threshold: float = math.log(1e4)  # log(1/alpha)
    guard_tripped: bool = False  # the candidate's window, in any worker
    guard_reason: str = ""
    production_guard_tripped: bool = False  # production's own window: then the cause is shared
    labels: int = 0  # of the candidate's answers, mature and compared
    decisive_metric: str = ""  # the metric with the largest stake-weighted e-value
    pairs: int = 0  # requests that both versions answered
    # While the candidate answers everything: what part of its answers is to be paired, how many answers came since the
    # last pair, and whether pairs can still be expected after that.
    pair_share: float = 0.0
    unpaired_requests: int = 0
    pairs_expected: bool = True
    former_log_e: float = 0.0  # log of the e-value against "no worse than the former version was"
    former_finding: str = ""  # the figures behind that

    def figures(self) -> dict[str, Figure]:
        """As an event carries them: JSON-ready, None left out. `from_figures` reads them back."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_figures(cls, figures: Mapping[str, Figure]) -> Evidence:
        """What an event's figures say; figures that are none of these are left out."""
        last = figures.get("last_request_at")
        return cls(
            requests=int(figures.get("requests", 0)),
            shadow_requests=int(figures.get("shadow_requests", 0)),
            last_request_at=None if last is None else float(last),
            log_e=float(figures.get("log_e", 0.0)),
            threshold=float(figures.get("threshold", math.log(1e4))),
            guard_tripped=bool(figures.get("guard_tripped", False)),
            guard_reason=str(figures.get("guard_reason", "")),
            production_guard_tripped=bool(figures.get("production_guard_tripped", False)),
            labels=int(figures.get("labels", 0)),
            decisive_metric=str(figures.get("decisive_metric", "")),
            pairs=int(figures.get("pairs", 0)),
            pair_share=float(figures.get("pair_share", 0.0)),
            unpaired_requests=int(figures.get("unpaired_requests", 0)),
            pairs_expected=bool(figures.get("pairs_expected", True)),
            former_log_e=float(figures.get("former_log_e", 0.0)),
            former_finding=str(figures.get("former_finding", "")),
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    health: Health
    reason: str
    rollback: bool = False  # conclusive: take the candidate out now


@dataclass(frozen=True, slots=True)
class Alone:
    """The candidate answers everything, and only pairs compare it with the former production."""

    former: str
    watched: bool  # it is promoted; else at its last stage
    pairs: int = 0  # that came since


def judge(
    evidence: Evidence,
    *,
    guard_mode: GuardMode,
    requests_in_stage: int,
    min_requests: int,
    stale_s: float,
    now: float,
    labels_due: int = 0,
    alone: Alone | None = None,
) -> Verdict:
    """The verdict on a candidate.

    What rolls back is asked first: neither silence nor a small sample hides it.
    """
    e = evidence
    metric = f" ({e.decisive_metric})" if e.decisive_metric else ""
    worse = f"evidence that it is worse: log e {e.log_e:.2f}{metric}"
    if e.log_e >= e.threshold:
        return Verdict(Health.DEGRADED, f"{worse} reached the threshold {e.threshold:.2f}", rollback=True)
    guard = e.guard_tripped and guard_mode is not GuardMode.OFF
    if guard and guard_mode is GuardMode.ENFORCE:
        return Verdict(Health.DEGRADED, f"guard: {e.guard_reason}", rollback=True)
    if guard and guard_mode is GuardMode.ENFORCE_IF_WORSE and e.log_e >= min(CONFIRM_LOG_E, e.threshold):
        return Verdict(Health.DEGRADED, f"guard: {e.guard_reason} Confirmed by {worse}", rollback=True)
    uncompared = "" if alone is None else _uncompared(e, alone)
    if alone is not None and uncompared and e.former_log_e >= e.threshold:
        found = f"{uncompared}, and it does worse than {alone.former!r} did before: {e.former_finding}"
        grown = f"log e {e.former_log_e:.2f} reached the threshold {e.threshold:.2f}"
        caveat = f"An incident that {alone.former!r} would suffer too looks the same."
        return Verdict(Health.DEGRADED, f"{found}; {grown}. {caveat}", rollback=True)
    if requests_in_stage <= 0:
        return Verdict(Health.NO_DATA, "the candidate has answered nothing in this stage")
    if e.last_request_at is None or now - e.last_request_at > stale_s:
        return Verdict(Health.NO_DATA, f"the candidate has answered nothing for more than {stale_s:g} s")
    if e.log_e >= min(HALT_LOG_E, e.threshold):
        return Verdict(Health.DEGRADED, f"{worse}; below the threshold {e.threshold:.2f}, so the stage waits")
    if alone is not None and alone.watched and (uncompared or not alone.pairs):
        return Verdict(Health.NO_DATA, _not_compared(e, alone, uncompared))
    note = f" Guard: {e.guard_reason}" if guard else ""
    if guard and guard_mode is GuardMode.ENFORCE_IF_WORSE and not e.production_guard_tripped:
        unconfirmed = f"guard tripped, not confirmed by the evidence: log e {e.log_e:.2f}.{note}"
        return Verdict(Health.INCONCLUSIVE, unconfirmed)
    if requests_in_stage < min_requests:
        counted = f"{requests_in_stage} of {min_requests} requests in this stage.{note}"
        return Verdict(Health.INCONCLUSIVE, counted)
    if e.labels < labels_due:
        return Verdict(Health.INCONCLUSIVE, f"{e.labels} of {labels_due} mature labels.{note}")
    fine = f"no evidence that it is worse: log e {e.log_e:.2f} of {e.threshold:.2f}.{note}"
    return Verdict(Health.HEALTHY, fine)


def _uncompared(e: Evidence, alone: Alone) -> str:
    """Why nothing compares it; empty while pairs come, or can still be expected."""
    if e.pairs_expected:
        return ""
    if e.pair_share > 0.0:
        return f"no copy to {alone.former!r} has made a pair in {e.unpaired_requests} requests"
    return f"nothing compares it with {alone.former!r}"


def _not_compared(e: Evidence, alone: Alone, uncompared: str) -> str:
    """That nothing is known, and what would change that."""
    if not uncompared:
        return f"no pair with {alone.former!r} has come yet"
    watch = f" Only its own figures are watched: {e.former_finding}." if e.former_finding else ""
    if e.pair_share > 0.0:
        return f"{uncompared}: see gateway_shadow_dropped_total.{watch}"
    remedy = (
        "pairs need canary.control.sample and canary.control.max_share above 0 when the rollout starts, shadow.sample above "
        f"0, and the flags shadow_enabled and {alone.former!r} among shadow_versions during the watch"
    )
    return f"{uncompared}: {remedy}.{watch}"
