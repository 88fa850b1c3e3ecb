"""Reading the gateway's answers: figures that the story tells, taken out of the admin API's objects as
they come.
"""

from __future__ import annotations

import dataclasses
from typing import Any

Answer = dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Accuracy:
    """A version's share of right answers over mature outcomes, with its 95 % interval."""

    value: float
    low: float
    high: float
    n: float
    coverage: float


def accuracies(performance: Answer) -> dict[str, Accuracy]:
    """By version, for those whose accuracy is known."""
    found = {}
    for entry in performance["versions"]:
        figure = entry["metrics"].get("accuracy")
        if figure is not None and figure["value"] is not None:
            found[entry["version"]] = Accuracy(
                figure["value"], figure["low"], figure["high"], figure["n"], entry["coverage"]
            )
    return found


def shadow_lines(version: str, shadow: Answer) -> list[str]:
    """What a shadow comparison says, one line a finding."""
    lines = [
        f"{version}: {shadow['n']:,} comparisons, agreement with production {shadow['agreement_rate']:.1%}"
    ]
    latency = shadow["latency_ms"]
    lines.append(
        f"median latency {latency['production']['p50']:.1f} ms in production, "
        f"{latency['shadow']['p50']:.1f} ms as shadow"
    )
    return lines
