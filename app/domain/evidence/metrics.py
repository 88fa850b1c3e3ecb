"""The metrics of the engine: which part of the stake each has, and which bets. Fixed when a rollout begins.

A metric that joins later, because its data came, would change what the others are worth after they were seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from app.domain.evidence.bets import ERROR_STAKES, EVEN_STAKES, REFERENCE_STAKES, Floats
from app.domain.evidence.labels import SCORE_STAKES as MEAN_STAKES
from app.domain.evidence.pairs import SCORE_STAKES, SIDE_STAKES
from app.domain.evidence.shadow import SHIFT_STAKES, Severity, severity_stakes

GROUP_STAKES = MappingProxyType({"errors": 0.35, "latency": 0.35, "shadow": 0.15, "labels": 0.15})
GROUPS = MappingProxyType(
    {
        "errors": "errors",  # both arms of the canary
        "paired_errors": "errors",  # canary and its control on the same input
        "latency": "latency",  # both arms; only where requests, not keys, are assigned
        "paired_latency": "latency",
        "shadow_errors": "shadow",  # the shadow fails where production does not
        "shadow_severity": "shadow",  # differences too large to be an improvement
        "shadow_shift": "shadow",  # the mean answer moved; for candidates that are meant to answer alike
        "labels": "labels",  # wrong answers in both arms of the canary
        "paired_labels": "labels",  # one of the two versions was wrong on the same request
        "label_loss": "labels",  # Brier, log loss or absolute error in both arms
        "paired_loss": "labels",  # the same on the same request
        "label_order": "labels",  # a positive scored below a negative, in both arms: 1 − AUC
        "paired_order": "labels",  # the same on the same requests
        "label_f1": "labels",  # the candidate's F1 against a goal
    }
)


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What a rollout is judged by.

    `alpha` bounds the probability of ever rolling back a candidate that is no worse.
    """

    alpha: float = 1e-4
    margin: float = 1.0  # an odds ratio of errors up to this counts as no worse
    floor: float = 0.0  # an error rate up to this is accepted, whatever production's is
    metrics: tuple[str, ...] = ("errors", "latency")
    sticky: bool = False  # requests are assigned by a routing key, not one by one
    horizon: int = 3600  # ticks over which most of the stake enters
    warmup_requests: int = 0  # of a fresh candidate, not counted
    severity: Severity = field(default_factory=Severity)
    own_noise: bool = (
        False  # production is asked twice on a sample: only what goes beyond its noise is severe
    )
    loss_scale: float = 0.0  # of paired losses; 0: from production's
    f1_goal: float = 0.0

    def __post_init__(self) -> None:
        unknown = [m for m in self.metrics if m not in GROUPS]
        if unknown or not self.metrics or len(set(self.metrics)) != len(self.metrics):
            raise ValueError(f"metrics {self.metrics}: name each once, of {', '.join(GROUPS)}")
        if not (
            0.0 < self.alpha < 1.0 and self.margin >= 1.0 and 0.0 <= self.floor < 1.0 and self.horizon > 0
        ):
            raise ValueError(f"{self}: alpha and floor are parts of 1, margin is at least 1, horizon above 0")
        if self.sticky and "latency" in self.metrics:
            raise ValueError("latency: with sticky keys two arms differ by their keys; use paired_latency")
        if "shadow_severity" in self.metrics and not self.severity.thresholds:
            raise ValueError("shadow_severity: give the thresholds, such as Severity.of(agreement_threshold)")
        if "label_f1" in self.metrics and not 0.0 < self.f1_goal < 1.0:
            raise ValueError("label_f1: give the goal, above 0 and below 1")


LABEL_KINDS = MappingProxyType(
    {  # what labels can be asked for: metric on the same request, metric of the two arms
        "accuracy": ("paired_labels", "labels"),
        "auc": ("paired_order", "label_order"),
        "brier": ("paired_loss", "label_loss"),
        "log_loss": ("paired_loss", "label_loss"),
        "absolute_error": ("paired_loss", "label_loss"),
        "f1": ("label_f1", "label_f1"),
    }
)


def default_metrics(
    *, sticky: bool, control: bool, shadow: bool = False, alike: bool = False, labels: Sequence[str] = ()
) -> tuple[str, ...]:
    """The metrics for a rollout: `sticky` routing keys forbid comparing two arms by anything but errors,
    `control` mirrors allow pairs, `alike` candidates are meant to answer as production does. `labels` names
    kinds of `LABEL_KINDS`.
    """
    chosen = ["errors"]
    chosen += ["paired_errors"] if control else []
    chosen += [] if sticky else ["latency"]
    chosen += ["paired_latency"] if control else []
    chosen += ["shadow_errors"] if shadow else []
    chosen += ["shadow_severity", "shadow_shift"] if alike and (shadow or control) else []
    for kind in labels:
        paired, arms = LABEL_KINDS[kind]
        chosen += [paired] if shadow or control or paired == arms else []
        chosen += [arms] if not sticky and paired != arms else []
    return tuple(dict.fromkeys(chosen))


def stake_parts(metrics: tuple[str, ...]) -> dict[str, float]:
    """Each metric's part of the stake: its group's, shared evenly in the group; of all groups present they
    sum to 1.
    """
    groups = [GROUPS[m] for m in metrics]
    total = sum(GROUP_STAKES[g] for g in set(groups))
    return {m: GROUP_STAKES[g] / total / groups.count(g) for m, g in zip(metrics, groups, strict=True)}


def bet_stakes(metric: str, config: EngineConfig) -> Floats:
    """How a metric's stake is spread over its bets, (J,)."""
    match metric:
        case "errors" if not config.sticky:
            return ERROR_STAKES
        case "errors" | "labels" | "label_order":
            return EVEN_STAKES
        case "latency" | "label_loss":
            return REFERENCE_STAKES
        case "paired_errors" | "paired_labels" | "shadow_errors" | "paired_order":
            return SIDE_STAKES
        case "paired_loss" | "label_f1":
            return MEAN_STAKES
        case "paired_latency":
            return SCORE_STAKES
        case "shadow_severity":
            return severity_stakes(config.severity)
        case "shadow_shift":
            return SHIFT_STAKES
        case _:
            raise ValueError(f"{metric!r} is no metric")
