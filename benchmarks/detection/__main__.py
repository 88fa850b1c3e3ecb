"""`python -m benchmarks.detection`: the table of goals; with a mode, a scenario or rates: one setting. With
`--metrics default` alone: what the division of the stake over the default metrics costs.

Exit 0 when every goal holds (or a setting was measured), 1 when one does not, 2 for wrong usage.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict

from benchmarks.detection.goals import Effort, Goal, divided, goals
from benchmarks.detection.report import lines, measure
from benchmarks.detection.worlds import SCENARIOS, Setting

MODES = ("errors", "latency", "both", "shadow", "labels")


def main(argv: Sequence[str] | None = None) -> int:
    """Run; `argv` without the program's name."""
    args = vars(_parser().parse_args(argv))
    as_json, short, alone = args.pop("json"), args.pop("short"), args.pop("no_rivals")
    given = {name: value for name, value in args.items() if value is not None}
    if set(given) <= {"runs", "seed", "metrics"}:
        split = given.pop("metrics", "one") == "default"
        effort = Effort(**{**asdict(Effort.short() if short else Effort()), **given})
        return _table(effort, divided if split else goals, as_json=as_json)
    try:
        setting = _setting(given)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    figures = measure(setting, with_rivals=not alone)
    print(json.dumps(figures) if as_json else lines(figures))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detection", description=__doc__)
    parser.add_argument("--mode", choices=MODES)
    parser.add_argument("--scenario", choices=SCENARIOS)
    stake = "what the stake is on: the mode's metric, or the gateway's default metrics and its whole engine"
    parser.add_argument("--metrics", choices=("one", "default"), help=stake)
    named = {
        "p0": "production's error rate; wrong answers in modes labels and shadow",
        "p1": "the candidate's; without it and without --ratio the candidate is good",
        "rho": "share of the canary",
        "sigma": "standard deviation of log latency",
        "ratio": "the candidate's median latency over production's",
        "alpha": "probability of ever rolling back a good candidate",
        "overlap": "shadow: how often the candidate is wrong where production is",
        "order": "how much faster the second of two calls is",
    }
    for name, text in named.items():
        parser.add_argument(f"--{name}", type=float, help=text)
    whole = {
        "runs": "rollouts to simulate",
        "seed": "of the random numbers",
        "horizon": "canary requests a rollout, at its first share; by default what the setting needs",
        "rate": "requests a tick; by default as few as the delay needs to be fine-grained",
        "keys": "sticky: how many routing keys",
        "drip": "drip50k: good requests before the candidate turns bad",
    }
    for name, text in whole.items():
        parser.add_argument(f"--{name}", type=int, help=text)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--short", action="store_true", help="table of goals: few runs, a few seconds")
    parser.add_argument("--no-rivals", action="store_true", help="one setting: leave the other detectors out")
    return parser


def _setting(given: dict[str, object]) -> Setting:
    """The setting that the arguments describe; `ValueError` for one that cannot be simulated."""
    if "p0" in given and "p1" not in given:
        given = {**given, "p1": given["p0"]}
    if given.get("mode") == "shadow":
        given = {"p0": 0.10, "p1": 0.13, **given}
    if given.get("scenario") == "drip50k" and given.get("mode", "errors") == "errors":
        given = {"p1": 0.05, **given}
    if "mode" not in given and "p1" not in given and {"ratio", "sigma"} & set(given):
        given = {"mode": "latency", **given}
    setting = Setting(**given)  # type: ignore[arg-type]
    if not (0.0 <= setting.p0 < 1.0 and 0.0 <= setting.p1 <= 1.0 and 0.0 < setting.rho < 1.0):
        raise ValueError("--p0, --p1 and --rho are parts of 1; rho and p0 below it")
    if not (0.0 < setting.alpha < 1.0 and setting.sigma > 0.0 and setting.ratio > 0.0):
        raise ValueError("--alpha is a part of 1; --sigma and --ratio are above 0")
    if setting.runs < 1 or setting.keys < 1 or min(setting.horizon, setting.rate, setting.drip) < 0:
        raise ValueError("--runs and --keys are at least 1; --horizon, --rate and --drip are not negative")
    if setting.metrics == "default" and (
        setting.mode in ("shadow", "labels") or setting.scenario in ("sticky", "order", "bursts")
    ):
        raise ValueError(
            "--metrics default simulates requests assigned one by one, without labels and shadows"
        )
    return setting


def _table(effort: Effort, lines: Callable[[Effort], Iterator[Goal]], *, as_json: bool) -> int:
    started, found = time.monotonic(), []
    for goal in lines(effort):
        found.append(goal)
        if not as_json:
            print(_line(goal), flush=True)
    failed = [g for g in found if g.holds is False]
    if as_json:
        print(json.dumps({"runs": effort.runs, "seed": effort.seed, "goals": [asdict(g) for g in found]}))
    else:
        kept = sum(g.holds is True for g in found)
        took = f"{effort.runs} runs each, {time.monotonic() - started:.0f} s"
        print(f"\n{kept} goals hold, {len(failed)} do not; {took}")
    return 1 if failed else 0


def _line(goal: Goal) -> str:
    mark = {True: "holds ", False: "MISSED", None: "      "}[goal.holds]
    return f"{mark}  {goal.name:<78}  {goal.measured:<28}  {goal.goal}"


if __name__ == "__main__":
    sys.exit(main())
