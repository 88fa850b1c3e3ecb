"""Measures one cell: starts the contender, warms it up, loads it, reads what it used, ends it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

from benchmarks.peers.cells import CONNECTIONS, MANY, Cell, Shape
from benchmarks.peers.contenders import PATH, ROOT, Launch, Place
from benchmarks.peers.install import Tools
from benchmarks.peers.load import DRAIN_S
from benchmarks.peers.processes import Child, PeerError, command_line, cpu_seconds, free_port, memory, tree
from benchmarks.peers.traffic import Load, write_script, wrk
from benchmarks.peers.upstream import VERSIONS

WARM_UP_S = 1.0
SETTLE_S = 0.5  # for requests that wrk left unanswered when its warm-up ended
PACED_CONNECTIONS = 256


class Sample(TypedDict):
    """One cell in one round. CPU in microseconds a completed request, memory in megabytes, by role."""

    cell: str
    round: int
    requests: int
    failed: int
    seconds: float
    throughput: float
    p50_ms: float
    p99_ms: float
    cpu_us: dict[str, float]  # proxy, control, other
    rss_mb: dict[str, float]  # the largest process of the role
    pss_mb: dict[str, float]
    shares: dict[str, float]  # requests that reached each version, divided by completed requests
    connections: float  # opened to model servers, divided by completed requests


@dataclass(slots=True)
class Bench:
    """What all cells share."""

    tools: Tools
    directory: Path
    ports: dict[str, int]
    seconds: float
    proxy_cpus: frozenset[int] | None
    load_cpus: frozenset[int] | None
    paced_rate: float = 0.0
    _started: int = field(default=0)

    @contextmanager
    def running(self, cell: Cell) -> Iterator[tuple[Launch | None, Child | None, int]]:
        """The contender of `cell`, ready for load, with the port to load."""
        speed = "slow" if cell.slow else "instant"
        if cell.contender is None:
            yield None, None, self.ports[f"{speed}-production"]
            return
        self._started += 1
        home = self.directory / f"{self._started:03d}-{cell.name}"
        home.mkdir()
        production, canary, shadow = (self.ports[f"{speed}-{version}"] for version in VERSIONS)
        place = Place(home, free_port(), production, canary, shadow)
        launch = cell.contender(self.tools, place)
        with Child(launch.command, home / "log", cpus=self.proxy_cpus, cwd=home, env=launch.env) as child:
            child.wait_listening(place.port)
            if launch.ready is not None:
                launch.ready()
            yield launch, child, place.port

    def counts(self) -> dict[str, tuple[int, int]]:
        """Requests and new connections that reached each version since the last call."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['admin']}/", timeout=10) as answer:
            counted: dict[str, tuple[int, int]] = json.loads(answer.read())
        return counted

    def saturation(self, cell: Cell) -> float:
        """Requests a second that the contender of `cell` can do with plenty of connections."""
        with self.running(cell) as (launch, _, port):
            script = write_script(self.directory, launch.path if launch else PATH)
            wrk(self.tools.wrk, script, port, PACED_CONNECTIONS, WARM_UP_S, self.load_cpus)
            load = wrk(
                self.tools.wrk, script, port, PACED_CONNECTIONS, max(2.0, self.seconds / 2), self.load_cpus
            )
            if launch is not None and launch.settle is not None:
                launch.settle()
        return load.throughput


def generate(
    bench: Bench, port: int, path: str, connections: int, seconds: float, rate: float | None
) -> Load:
    """Run the paced or closed-loop generator in a process of its own."""
    pin = ["taskset", "-c", ",".join(map(str, sorted(bench.load_cpus)))] if bench.load_cpus else []
    command = [*pin, sys.executable, "-m", "benchmarks.peers.load", str(port), path]
    command += ["--connections", str(connections), "--seconds", str(seconds)]
    command += [] if rate is None else ["--rate", str(rate)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, timeout=seconds + DRAIN_S + 30, check=False
    )
    if done.returncode != 0:
        raise PeerError(f"the load generator ended with {done.returncode}: {done.stderr[-1000:]}")
    seen = json.loads(done.stdout.splitlines()[-1])
    return Load(
        seen["requests"], sum(seen["failed"].values()), seen["seconds"], seen["p50_ms"], seen["p99_ms"]
    )


def _load(bench: Bench, cell: Cell, port: int, path: str, seconds: float) -> Load:
    match cell.shape:
        case Shape.FULL:
            script = write_script(bench.directory, path)
            return wrk(bench.tools.wrk, script, port, CONNECTIONS, seconds, bench.load_cpus)
        case Shape.PACED:
            return generate(bench, port, path, PACED_CONNECTIONS, seconds, bench.paced_rate)
        case Shape.CROWD:
            return generate(bench, port, path, MANY, seconds, None)


class _Usage:
    """CPU of a contender's processes by role, from its making to each reading."""

    def __init__(self, launch: Launch, child: Child) -> None:
        self._launch = launch
        self._child = child
        self._before = {pid: cpu_seconds(pid) for pid in tree(child.pid)}

    def cpu(self) -> dict[str, float]:
        """Seconds since the making, by role."""
        spent: dict[str, float] = {}
        for pid in tree(self._child.pid):
            role = self._launch.role(command_line(pid))
            spent[role] = spent.get(role, 0.0) + cpu_seconds(pid) - self._before.get(pid, 0.0)
        return spent

    def memory(self) -> tuple[dict[str, float], dict[str, float]]:
        """RSS and PSS in megabytes: of each role, its largest process."""
        rss: dict[str, float] = {}
        pss: dict[str, float] = {}
        for pid in tree(self._child.pid):
            role = self._launch.role(command_line(pid))
            now = memory(pid)
            rss[role] = max(rss.get(role, 0.0), now.rss / 1e6)
            pss[role] = max(pss.get(role, 0.0), now.pss / 1e6)
        return rss, pss


def measure(bench: Bench, cell: Cell, round_: int) -> Sample:
    """One cell once. Raises PeerError when the contender cannot be started or does not serve."""
    with bench.running(cell) as (launch, child, port):
        path = launch.path if launch is not None else PATH
        _load(bench, cell, port, path, WARM_UP_S)
        time.sleep(SETTLE_S)
        if launch is not None and launch.settle is not None:
            launch.settle()
        bench.counts()
        usage = _Usage(launch, child) if launch is not None and child is not None else None
        load = _load(bench, cell, port, path, bench.seconds)
        cpu = usage.cpu() if usage is not None else {}
        rss, pss = usage.memory() if usage is not None else ({}, {})
        if launch is not None and usage is not None and launch.settle is not None:
            launch.settle()
            cpu |= {
                role: spent for role, spent in usage.cpu().items() if role != "proxy"
            }  # the control process works on behind
        counts = bench.counts()
    if not load.requests:
        raise PeerError(f"no request succeeded ({load.failed} failed): {child.log_end() if child else ''}")
    speed = "slow" if cell.slow else "instant"
    return Sample(
        cell=cell.name,
        round=round_,
        requests=load.requests,
        failed=load.failed,
        seconds=load.seconds,
        throughput=load.throughput,
        p50_ms=load.p50_ms,
        p99_ms=load.p99_ms,
        cpu_us={role: spent / load.requests * 1e6 for role, spent in cpu.items()},
        rss_mb=rss,
        pss_mb=pss,
        shares={version: counts[f"{speed}-{version}"][0] / load.requests for version in VERSIONS},
        connections=sum(opened for _, opened in counts.values()) / load.requests,
    )
