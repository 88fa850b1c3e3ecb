"""`python -m benchmarks.retraining_trap [--seeds 30] [--json FILE]`: regret by world, policy and training data.

The half-life of each world is chosen on other seeds than those that are reported, for the calendar policy.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t

from benchmarks.retraining_trap.policies import WHAT, WHEN, regret
from benchmarks.retraining_trap.worlds import WORLDS, weeks

HALF_LIVES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, math.inf)  # weeks
TUNED_ON = 1_000  # seeds from here on
TUNED = ("recency", "weighted", "all labels")


def tuned(world: str, seeds: int) -> dict[str, float]:
    """The half-life of least regret, for each kind of data that has one."""
    histories = [weeks(world, TUNED_ON + seed) for seed in range(seeds)]
    return {
        what: min(
            HALF_LIVES,
            key=lambda h: float(np.mean([regret(world, w, "calendar", what, h)[0] for w in histories])),
        )
        for what in TUNED
    }


def figures(world: str, seeds: int) -> dict[str, Any]:
    """By policy and data: mean regret, and its difference from never retraining (paired by seed) with a 95 % interval."""
    half_lives = tuned(world, max(2, seeds // 5))
    histories = [weeks(world, seed) for seed in range(seeds)]
    never = np.array([regret(world, w, "never", "append", 8.0)[0] for w in histories])
    cells = []
    for when in WHEN:
        for what in WHAT:
            found = [regret(world, w, when, what, half_lives.get(what, 8.0)) for w in histories]
            losses = np.array([loss for loss, _ in found])
            apart = losses - never
            half = float(t.ppf(0.975, seeds - 1) * apart.std(ddof=1) / np.sqrt(seeds))
            cells.append(
                {
                    "when": when,
                    "what": what,
                    "regret": float(losses.mean()),
                    "against_never": [
                        float(apart.mean() - half),
                        float(apart.mean()),
                        float(apart.mean() + half),
                    ],
                    "retrainings": float(np.mean([count for _, count in found])),
                }
            )
    # JSON has no infinity: null is no half-life, all rows alike.
    named = {what: None if math.isinf(value) else value for what, value in half_lives.items()}
    return {"world": world, "never": float(never.mean()), "half_life_weeks": named, "cells": cells}


def table(results: list[dict[str, Any]]) -> str:
    """Markdown; regret in thousandths of a nat, against never retraining: < 0 is better."""
    lines = []
    for one in results:
        lines += [
            "",
            f"### {one['world']}",
            "",
            f"Never retrained: {1000 * one['never']:.1f}. Half-life: "
            + ", ".join(
                f"{'none' if value is None else f'{value:g} weeks'} ({what})"
                for what, value in one["half_life_weeks"].items()
            )
            + ".",
            "",
            "| when | " + " | ".join(WHAT) + " | retrainings |",
            "|---|" + "---|" * (len(WHAT) + 1),
        ]
        for when in WHEN:
            mine = [cell for cell in one["cells"] if cell["when"] == when]
            shown = [
                f"{1000 * mean:+.1f} ({1000 * low:+.1f} … {1000 * high:+.1f})"
                for low, mean, high in (cell["against_never"] for cell in mine)
            ]
            times = "/".join(f"{cell['retrainings']:.0f}" for cell in mine)
            lines.append(f"| {when} | " + " | ".join(shown) + f" | {times} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--world", action="append", choices=WORLDS)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results = []
    for world in arguments.world or WORLDS:
        results.append(figures(world, arguments.seeds))
        sys.stdout.write(table(results[-1:]) + "\n")
        sys.stdout.flush()
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
