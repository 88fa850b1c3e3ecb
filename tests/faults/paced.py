"""Clients that send at their own pace, in a process of their own: what they see of an overload is not what they do to the one who measures.

    python -m tests.faults.paced PORT PATH --connections N --seconds S [--rate R]

The load is that of `benchmarks.peers.load`: latency counts from the moment a request was due. Prints one JSON line, see `Seen`.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop

from benchmarks.peers.load import Connection, LoadRun, percentile
from tests.faults.observed import quantile

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Seen:
    """What was answered: second in which a request was due, status, milliseconds."""

    seconds: float
    answers: list[tuple[int, int, float]]
    lost: dict[str, int]  # requests without an answer, by what became of them

    def statuses(self) -> dict[int, int]:
        return dict(Counter(status for _, status, _ in self.answers))

    def ms(self, status: int, share: float) -> float:
        """The quantile of the answers with this status; 0 when there is none."""
        return percentile(sorted(ms for _, its, ms in self.answers if its == status), share)

    def rate(self) -> float:
        """Good answers a second."""
        return self.statuses().get(200, 0) / self.seconds

    def normal_from(self, p99_ms: float) -> float:
        """The second from which on all requests are answered well and their p99 is not above this; infinity when there is none."""
        for since in range(int(self.seconds) - 1):  # two seconds' answers at least
            rest = [(status, ms) for second, status, ms in self.answers if second >= since]
            if {status for status, _ in rest} == {200} and quantile([ms for _, ms in rest], 0.99) <= p99_ms:
                return since
        return math.inf


class _Watched(LoadRun):
    def __init__(self, port: int, path: str, connections: int, seconds: float, rate: float | None) -> None:
        super().__init__(port, path, connections, seconds, rate)
        self.began = time.monotonic()
        self.answers: list[tuple[int, int, float]] = []

    def answered(self, connection: Connection, due: float, status: bytes) -> None:
        took_ms = (time.monotonic() - due) * 1000
        self.answers.append((int(due - self.began), int(status), took_ms))
        super().answered(connection, due, status)


def paced(
    port: int,
    path: str,
    *,
    connections: int,
    seconds: float,
    rate: float | None = None,
    before: Sequence[str] = (),
) -> Seen:
    """Run it and wait for its end. Without a rate each connection always awaits an answer. `before` runs its arguments."""
    command = [*before, sys.executable, "-m", "tests.faults.paced", str(port), path]
    command += ["--connections", str(connections), "--seconds", str(seconds)]
    command += [] if rate is None else ["--rate", str(rate)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=seconds + 60)
    found = json.loads(done.stdout)
    answers = [(second, status, ms) for second, status, ms in found["answers"]]
    lost = {why: count for why, count in found["failed"].items() if not why.startswith("status ")}
    return Seen(seconds, answers, lost)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.paced")
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--rate", type=float, default=None)
    options = parser.parse_args()

    async def run() -> dict[str, object]:
        load = _Watched(options.port, options.path, options.connections, options.seconds, options.rate)
        result = await load.run()
        return {"answers": load.answers, "failed": result["failed"]}

    sys.stdout.write(json.dumps(uvloop.run(run())) + "\n")


if __name__ == "__main__":
    main()
