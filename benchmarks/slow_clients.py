"""What good clients notice of slow ones: p99 amid them ÷ p99 without them, in turn, several rounds.

    python -m benchmarks.slow_clients [--sockets 2000] [--rounds 3] [--seconds 12] [--rate 250] [--json]

A real worker forwards paced requests (open loop, Poisson times of a fixed seed, latency from the moment a request was due) to a model
server that takes 20 ms, while so many sockets send nothing, a head, a field, a body or chunks byte by byte, or read nothing, or a byte at
a time, of a long answer or of many asked for at once. They arrive within one receive time-out, and whoever is closed comes back at once: as
many arrive at any time, and the attack does not fade. The worker has one core; clients, slow clients (an interpreter of their own) and
model servers share the others. Reported is the median over rounds of each round's ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from app.domain.model import Match, Model, Version
from app.domain.policy import ServerPolicy
from benchmarks.peers.processes import Child
from tests.faults.slow_clients import KINDS, slow_clients
from tests.worker import RunningWorker, running_worker

ROOT = Path(__file__).resolve().parents[1]
GOAL = 2.0


@dataclass
class Found:
    """A p99 (ms) a round without and amid slow clients; what failed; what became of the slow ones."""

    sockets: int
    receive_timeout_s: float
    alone_ms: list[float] = field(default_factory=list)
    amid_ms: list[float] = field(default_factory=list)
    requests: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    closed: int = 0
    slowest_s: dict[str, float] = field(default_factory=dict)  # by kind

    @property
    def ratio(self) -> float:
        return statistics.median(b / a for a, b in zip(self.alone_ms, self.amid_ms, strict=True))

    def line(self) -> str:
        """All of it in words."""
        slowest = max(self.slowest_s.values(), default=0.0)
        return (
            f"{self.sockets} slow sockets at any time, {self.closed} closed, the slowest after {slowest:.1f} s (limit "
            f"{self.receive_timeout_s:g} s); good p99 {statistics.median(self.amid_ms):.1f} ms amid them, "
            f"{statistics.median(self.alone_ms):.1f} ms without ({self.ratio:.2f}×), {sum(self.failed.values())} of "
            f"{self.requests} good requests failed"
        )


def load(port: int, options: argparse.Namespace, found: Found) -> float:
    """One run of the paced generator; its p99 in ms."""
    command = [sys.executable, "-m", "benchmarks.peers.load", str(port), "/good/ok", "--connections", "64"]
    command += ["--seconds", str(options.seconds), "--rate", str(options.rate)]
    done = subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=options.seconds + 60
    )
    result = json.loads(done.stdout)
    found.requests += int(result["requests"])
    found.failed.update(result["failed"])
    return float(result["p99_ms"])


def measure(options: argparse.Namespace, worker: RunningWorker, found: Found) -> None:
    """All rounds."""
    for number in range(options.rounds):
        found.alone_ms.append(load(worker.port, options, found))
        with slow_clients(
            worker.port,
            options.sockets,
            path="/slow",
            kinds=options.kind,
            over_s=found.receive_timeout_s,
            again=True,
        ) as slow:
            found.amid_ms.append(load(worker.port, options, found))
        found.closed += slow.closed
        for kind, seconds in slow.slowest_s.items():
            found.slowest_s[kind] = max(found.slowest_s.get(kind, 0.0), seconds)
        print(f"round {number + 1} of {options.rounds} measured", file=sys.stderr)


def run(options: argparse.Namespace) -> Found:
    """Start everything, measure, end everything."""
    cores = sorted(os.sched_getaffinity(0))
    worker_core, others = frozenset(cores[:1]), frozenset(cores[1:] or cores)
    os.sched_setaffinity(0, others)
    logs = ROOT / ".cache"
    logs.mkdir(exist_ok=True)
    # A body or an answer that is under way has a place; else the slow ones would take all, and good ones get 503 (`max_inflight`).
    policy = ServerPolicy(max_inflight=2 * options.sockets + 64)
    found = Found(options.sockets, policy.receive_timeout_s)
    good_command = [sys.executable, "-m", "benchmarks.peers.upstream"]
    slow_command = ["chrt", "--idle", "0", sys.executable, "-m", "tests.misbehaving", "0"]
    pipe = subprocess.PIPE
    with (
        Child(
            "model servers", good_command, logs / "upstream.log", cpus=others, cwd=ROOT, stdout=pipe
        ) as good,
        Child(
            "long answers", slow_command, logs / "misbehaving.log", cpus=others, cwd=ROOT, stdout=pipe
        ) as long,
    ):
        urls = {
            "good": f"http://127.0.0.1:{json.loads(good.first_line())['slow-production']}",
            "slow": long.first_line().split("/NAME")[0],
        }
        models = [
            Model(name, "v1", (Version("v1", (url,)),), match=Match(f"/{name}", strip=True))
            for name, url in urls.items()
        ]
        with running_worker(models, server=policy) as worker:
            os.sched_setaffinity(worker.process.pid, worker_core)
            load(worker.port, options, Found(0, 0.0))  # connections to the model server are opened here
            measure(options, worker, found)
    return found


def main() -> int:
    """Measure, print; 1 when the goal was missed or a good request failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.slow_clients", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--sockets", type=int, default=2000)
    parser.add_argument(
        "--kind", choices=KINDS, action="append", default=[], help="only this kind of slow client"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=12.0, help="load without, and amid, in each round")
    parser.add_argument("--rate", type=float, default=250.0, help="requests a second")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args()
    if options.rounds < 1 or options.sockets < 1:
        parser.error("--rounds and --sockets must be 1 or more")
    found = run(options)
    if options.json:
        print(json.dumps({**asdict(found), "ratio": found.ratio, "line": found.line()}))
    else:
        held = "held" if found.ratio < GOAL else "missed"
        print(found.line())
        print(f"goal: a ratio below {GOAL:g}, none failed; {held}")
        print(f"load average {os.getloadavg()[0]:.1f}, {len(os.sched_getaffinity(0))} cores for the clients")
    return 1 if found.ratio >= GOAL or found.failed else 0


if __name__ == "__main__":
    sys.exit(main())
