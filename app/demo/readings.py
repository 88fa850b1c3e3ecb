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
    low, high = shadow["agreement_interval"]
    latency = shadow["latency_ms"]
    lines = [
        f"{version}: {shadow['n']:,} comparisons, the same answer in {shadow['agreement_rate']:.1%} "
        f"(95 % interval {low:.1%} to {high:.1%})",
        f"median latency {latency['production']['p50']:.1f} ms in production, "
        f"{latency['shadow']['p50']:.1f} ms as shadow",
    ]
    if labelled := shadow["labelled"]:
        accuracy = {arm: labelled[arm]["accuracy"]["value"] for arm in ("production", "shadow")}
        if None not in accuracy.values():
            lines.append(
                f"right on the same {labelled['n']:,} labelled requests: "
                f"production {accuracy['production']:.1%}, {version} {accuracy['shadow']:.1%}"
            )
    return lines


def drifted(drift: Answer) -> str:
    """The drifted features, the largest PSI first."""
    found = [one for one in drift["results"] if one["verdict"] == "drift" and one["psi"] is not None]
    found.sort(key=lambda one: float(one["psi"]), reverse=True)
    names = list(dict.fromkeys(one["feature"] for one in found))
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more if names else "nothing"
