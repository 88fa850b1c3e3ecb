"""The requests of every cell: 1,000 users, a JSON body of exactly 1 KB each; and wrk, which sends them."""

from __future__ import annotations

import json
import random
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.processes import PeerError

USERS = 1000
BODY_BYTES = 1024
FEATURES = 40

# 21 and 7 give a full period modulo 1000 (Hull-Dobell): each user once in a thousand, in scattered order.
_SCRIPT = """
local requests, at = {{}}, 0
init = function()
  local user = 0
  for body in io.lines("{bodies}") do
    local headers = {{["Content-Type"] = "application/json", ["X-User-Id"] = "user-" .. user}}
    requests[user] = wrk.format("POST", "{path}", headers, body)
    user = user + 1
  end
end
request = function()
  at = (at * 21 + 7) % {users}
  return requests[at]
end
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '\\n{{"requests":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d,' ..
    '"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d}}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect, e.read, e.write, e.status, e.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What a load generator saw."""

    requests: int
    failures: dict[str, int]  # by kind
    seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def failed(self) -> int:
        return sum(self.failures.values())

    @property
    def throughput(self) -> float:
        """Completed requests a second."""
        return self.requests / self.seconds


def bodies(seed: int = 11) -> list[bytes]:
    """One JSON body a user, each of BODY_BYTES bytes without a line break; the same for the same seed."""
    source = random.Random(seed)
    made = []
    for _ in range(USERS):
        features = {f"f{index:02d}": round(source.gauss(0, 1), 6) for index in range(FEATURES)}
        bare = json.dumps({"features": features, "pad": ""}, separators=(",", ":"))
        made.append((bare[:-2] + "x" * (BODY_BYTES - len(bare)) + '"}').encode())
    return made


def write_script(directory: Path, path: str) -> Path:
    """wrk's script for POSTs to `path`, with its bodies beside it."""
    source = directory / "bodies.ndjson"
    source.write_bytes(b"\n".join(bodies()) + b"\n")
    script = directory / f"load-{path.strip('/').replace('/', '-')}.lua"
    script.write_text(_SCRIPT.format(bodies=source, path=path, users=USERS))
    return script


def parse_wrk(output: str) -> Load:
    """The last JSON line of wrk's output. Raises PeerError when there is none."""
    lines = [line for line in output.splitlines() if line.startswith("{")]
    if not lines:
        raise PeerError(f"wrk printed no result: {output[-500:]}")
    seen = json.loads(lines[-1])
    failures = {kind: seen[kind] for kind in ("connect", "read", "write", "status", "timeout") if seen[kind]}
    completed = seen["requests"] - seen["status"]  # wrk counts an answer of 4xx or 5xx as a request too
    return Load(completed, failures, seen["duration_us"] / 1e6, seen["p50_us"] / 1e3, seen["p99_us"] / 1e3)


def wrk(
    program: Path, script: Path, port: int, connections: int, seconds: float, cpus: frozenset[int] | None
) -> Load:
    """Run wrk with one thread against a loopback port. It ends by itself; killed when it does not."""
    pin = ["taskset", "-c", ",".join(map(str, sorted(cpus)))] if cpus else []
    whole = max(1, round(seconds))
    done = subprocess.run(
        [
            *pin,
            str(program),
            "-t1",
            f"-c{connections}",
            f"-d{whole}s",
            "-s",
            str(script),
            f"http://127.0.0.1:{port}",
        ],
        capture_output=True,
        text=True,
        timeout=whole + 30,
        check=False,
    )
    if done.returncode != 0:
        raise PeerError(f"wrk ended with {done.returncode}: {(done.stdout + done.stderr)[-500:]}")
    return parse_wrk(done.stdout)
