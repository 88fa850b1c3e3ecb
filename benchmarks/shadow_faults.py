"""What a shadow that does everything wrong costs production: p99 with it ÷ p99 without any shadow, in turn, many rounds.

    python -m benchmarks.shadow_faults [--rounds 7] [--seconds 6] [--rate 250] [--json]

A real worker forwards paced requests (open loop, Poisson times of a fixed seed, latency from the moment a request was due) to a model
server that takes 20 ms; one model of the worker has no shadow, the others one that answers as fast as production, hangs, resets,
answers 200 MB, or never ends its answer. The worker has one core; clients and model servers share the other, the misbehaving one at
the lowest priority, as it would stand on a machine of its own. What is reported is the median over rounds of each round's ratio, with
the quartiles; production's statuses; and what became of the copies.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import statistics
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from app.domain.flags import Flags
from app.domain.model import Match, Model, Shadow, Version
from benchmarks.peers.processes import Child
from tests.worker import RunningWorker, running_worker

ROOT = Path(__file__).resolve().parents[1]
GOAL = 1.05
KINDS = {  # model -> what its shadow does with each copy
    "alone": "",
    "answers": "answers",
    "hangs": "hang",
    "resets": "reset_before_headers",
    "answers-200-mb": "long_body",
    "never-ends": "endless_body",
}


@dataclass
class Seen:
    """Of one kind of shadow: a p99 (ms) a round, and the outcome of all requests."""

    p99_ms: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    requests: int = 0
    failed: Counter[str] = field(default_factory=Counter)


def models(production: str, good_shadow: str, bad_shadow: str) -> list[Model]:
    """One model for each kind; its path ends in the name of what the bad server does."""
    found = []
    for name, behaviour in KINDS.items():
        shadow = good_shadow if behaviour in ("", "answers") else bad_shadow
        found.append(
            Model(
                name,
                "v1",
                (Version("v1", (production,)), Version("v2", (shadow,), timeout_s=2.0)),
                match=Match(f"/{name}", strip=True),
                shadow=Shadow(timeout_s=2.0, max_concurrency=64),
            )
        )
    return found


def load(port: int, path: str, options: argparse.Namespace) -> dict[str, object]:
    """What one run of the paced generator saw."""
    command = [sys.executable, "-m", "benchmarks.peers.load", str(port), path, "--connections", "64"]
    command += ["--seconds", str(options.seconds), "--rate", str(options.rate)]
    done = subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=options.seconds + 60
    )
    result: dict[str, object] = json.loads(done.stdout)
    return result


def measure(options: argparse.Namespace, worker: RunningWorker, kinds: list[str]) -> dict[str, Seen]:
    """All rounds; the order turns, so that no kind always follows the same other."""
    seen = {name: Seen() for name in kinds}
    order = list(kinds)
    for number in range(options.rounds):
        for name in order:
            result = load(worker.port, f"/{name}/{KINDS[name] or 'answers'}", options)
            kind = seen[name]
            kind.p99_ms.append(float(str(result["p99_ms"])))
            kind.p50_ms.append(float(str(result["p50_ms"])))
            kind.requests += int(str(result["requests"]))
            kind.failed.update(result["failed"] if isinstance(result["failed"], dict) else {})
        order = order[1:] + order[:1]
        print(f"round {number + 1} of {options.rounds} measured", file=sys.stderr)
    return seen


def table(seen: dict[str, Seen], worker: RunningWorker) -> str:
    """Markdown, one line a kind of shadow."""
    lines = [
        "| shadow | p50 ms | p99 ms | p99 ÷ without (quartiles) | requests | failed | copies |",
        "|---|---|---|---|---|---|---|",
    ]
    alone = seen["alone"].p99_ms
    for name, kind in seen.items():
        ratios = [a / b for a, b in zip(kind.p99_ms, alone, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        copies = Counter(record.error or "answered" for record in worker.shadows(name))
        lines.append(
            f"| {name} | {statistics.median(kind.p50_ms):.2f} | {statistics.median(kind.p99_ms):.2f} "
            f"| {middle:.3f} ({low:.3f} to {high:.3f}) | {kind.requests} | {dict(kind.failed) or 0} | {dict(copies)} |"
        )
    return "\n".join(lines)


def ratios(seen: dict[str, Seen]) -> dict[str, float]:
    """The median over rounds of p99 ÷ p99 without a shadow, by kind of shadow."""
    alone = seen["alone"].p99_ms
    return {
        name: statistics.median(a / b for a, b in zip(kind.p99_ms, alone, strict=True))
        for name, kind in seen.items()
        if name != "alone"
    }


def run(options: argparse.Namespace, kinds: list[str]) -> tuple[dict[str, Seen], str]:
    """Start everything, measure, end everything: what was seen, and the table."""
    cores = sorted(os.sched_getaffinity(0))
    worker_core, others = frozenset(cores[:1]), frozenset(cores[1:] or cores)
    os.sched_setaffinity(0, others)
    logs = ROOT / ".cache"
    logs.mkdir(exist_ok=True)
    python = [sys.executable, "-m"]
    good_command = [*python, "benchmarks.peers.upstream"]
    bad_command = ["chrt", "--idle", "0", *python, "tests.misbehaving", "0"]
    pipe = subprocess.PIPE
    with (
        Child(
            "model servers", good_command, logs / "upstream.log", cpus=others, cwd=ROOT, stdout=pipe
        ) as good,
        Child(
            "bad model server", bad_command, logs / "misbehaving.log", cpus=others, cwd=ROOT, stdout=pipe
        ) as bad,
    ):
        ports = json.loads(good.first_line())
        bad_url = bad.first_line().split("/NAME")[0]
        production, shadow = (
            f"http://127.0.0.1:{ports[f'slow-{name}']}" for name in ("production", "shadow")
        )
        flags = [
            Flags(name, 1, "v1", None, 0.0, False, True, ("v2",) if behaviour else ())
            for name, behaviour in KINDS.items()
        ]
        with running_worker(models(production, shadow, bad_url), flags) as worker:
            os.sched_setaffinity(worker.process.pid, worker_core)
            load(worker.port, "/alone/answers", options)  # connections to the model server are opened here
            seen = measure(options, worker, kinds)
            return seen, table(seen, worker)


def main() -> int:
    """Measure, print the table; 1 when the goal was missed or an answer failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.shadow_faults", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=6.0, help="load on each kind in each round")
    parser.add_argument("--rate", type=float, default=250.0, help="requests a second")
    parser.add_argument("--only", default="*", help="kinds beside `alone`, wildcards allowed")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args()
    kinds = [name for name in KINDS if name == "alone" or fnmatch.fnmatchcase(name, options.only)]
    if options.rounds < 2:
        parser.error("--rounds must be 2 or more")
    seen, lines = run(options, kinds)
    found = ratios(seen)
    missed = {name: round(ratio, 3) for name, ratio in found.items() if ratio >= GOAL}
    failed = sum(sum(kind.failed.values()) for kind in seen.values())
    if options.json:
        print(
            json.dumps({"ratios": found, "failed": failed, "kinds": {n: asdict(k) for n, k in seen.items()}})
        )
    else:
        print(lines)
        print(
            f"goal: every ratio below {GOAL}; "
            + (f"missed: {missed}" if missed else "held")
            + f"; {failed} answers failed"
        )
        print(f"load average {os.getloadavg()[0]:.1f}")
    return 1 if missed or failed else 0


if __name__ == "__main__":
    sys.exit(main())
