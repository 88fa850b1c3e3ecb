"""Measures a group of cells: starts the contenders, warms them up, loads them in turn, reads their use."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypedDict

from benchmarks.peers.cells import CONNECTIONS, MANY, Cell, Shape
from benchmarks.peers.contenders import PATH, Launch, Place
from benchmarks.peers.install import Tools
from benchmarks.peers.load import DRAIN_S
from benchmarks.peers.processes import Child, PeerError, command_line, cpu_seconds, memory, pin, tree
from benchmarks.peers.snapshot import ROOT
from benchmarks.peers.traffic import Load, write_script, wrk
from benchmarks.peers.upstream import VERSIONS
from tests.ports import free_port

WARM_UP_S = 1.0
SETTLE_S = 0.3  # for requests that a load generator left unanswered when it ended
SLICE_S = {Shape.FULL: 1.0, Shape.PACED: 2.0}  # a crowd has one slice: its connections are opened only once
PACED_CONNECTIONS = 256
TROUBLE = (PeerError, OSError, subprocess.TimeoutExpired)


class Sample(TypedDict):
    """One cell in one round. CPU in microseconds a carried request, memory in megabytes, by role.

    Completed requests are those that the load generator saw answered; carried ones reached production or
    canary, some still under way when the load ended; their CPU counts too. Latencies: medians over slices.
    """

    cell: str
    round: int
    requests: int  # completed
    carried: int
    failed: int
    failures: dict[str, int]  # by kind, as the load generator names them
    seconds: float
    throughput: float
    p50_ms: float
    p99_ms: float
    cpu_us: dict[str, float]  # proxy, control, other
    rss_mb: dict[str, float]  # the largest process of the role
    pss_mb: dict[str, float]
    shares: dict[str, float]  # requests that reached each version, divided by carried requests
    connections: float  # opened to model servers, divided by carried requests


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
        place = Place(home, self.directory / "code", free_port(), production, canary, shadow)
        launch = cell.contender(self.tools, place)
        with Child(
            cell.name, launch.command, home / "log", cpus=self.proxy_cpus, cwd=home, env=launch.env
        ) as child:
            child.wait_listening(place.port)
            if launch.ready is not None:
                try:
                    launch.ready()
                except PeerError as error:
                    raise PeerError(f"{error}; its log: {child.log_end()}") from error
            self._pin(launch, child)
            yield launch, child, place.port

    def _pin(self, launch: Launch, child: Child) -> None:
        """The first proxy process stays where all started; further ones and the others go elsewhere."""
        if self.load_cpus is None:
            return
        proxies = 0
        for pid in tree(child.pid):
            if launch.role(command_line(pid)) == "proxy":
                proxies += 1
                if proxies == 1:
                    continue
            pin(pid, self.load_cpus)

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
    return Load(seen["requests"], seen["failed"], seen["seconds"], seen["p50_ms"], seen["p99_ms"])


def _load(bench: Bench, cell: Cell, port: int, path: str, seconds: float) -> Load:
    match cell.shape:
        case Shape.FULL:
            script = write_script(bench.directory, path)
            return wrk(bench.tools.wrk, script, port, CONNECTIONS, seconds, bench.load_cpus)
        case Shape.PACED:
            return generate(bench, port, path, PACED_CONNECTIONS, seconds, bench.paced_rate)
        case Shape.CROWD:
            return generate(bench, port, path, MANY, seconds, None)


class Subject:
    """A started contender and what its slices have added up to. Raises PeerError when it does not serve."""

    def __init__(
        self, bench: Bench, cell: Cell, launch: Launch | None, child: Child | None, port: int
    ) -> None:
        self.cell = cell
        self._bench = bench
        self._launch = launch
        self._child = child
        self._port = port
        self._loads: list[Load] = []
        self._cpu: dict[str, float] = {}
        self._rss: dict[str, float] = {}
        self._pss: dict[str, float] = {}
        self._arrived = dict.fromkeys(VERSIONS, 0)
        self._opened = 0

    def warm_up(self) -> None:
        self._run(WARM_UP_S)
        self._settle()

    def slice(self, seconds: float) -> None:
        """Load it for so long, and add what it used; what works on behind the answers counts to its end."""
        self._bench.counts()
        before = self._usage()
        self._loads.append(self._run(seconds))
        time.sleep(SETTLE_S)
        spent = {"proxy": self._usage().get("proxy", 0.0)}
        self._remember_memory()
        self._settle()
        spent |= {role: used for role, used in self._usage().items() if role != "proxy"}
        for role, used in spent.items():
            self._cpu[role] = self._cpu.get(role, 0.0) + used - before.get(role, 0.0)
        speed = "slow" if self.cell.slow else "instant"
        counts = self._bench.counts()
        for version in VERSIONS:
            arrived, opened = counts[f"{speed}-{version}"]
            self._arrived[version] += arrived
            self._opened += opened

    def sample(self, round_: int) -> Sample:
        """All slices together."""
        loads = self._loads
        carried = self._arrived["production"] + self._arrived["canary"]
        requests = sum(load.requests for load in loads)
        seconds = sum(load.seconds for load in loads)
        failures = sum((Counter(load.failures) for load in loads), Counter[str]())
        if not requests or not carried:
            log = self._child.log_end() if self._child is not None else ""
            raise PeerError(f"no request succeeded; failed: {dict(failures)}; its log: {log}")
        return Sample(
            cell=self.cell.name,
            round=round_,
            requests=requests,
            carried=carried,
            failed=sum(failures.values()),
            failures=dict(failures),
            seconds=seconds,
            throughput=requests / seconds,
            p50_ms=statistics.median(load.p50_ms for load in loads),
            p99_ms=statistics.median(load.p99_ms for load in loads),
            cpu_us={role: spent / carried * 1e6 for role, spent in self._cpu.items()} if self._launch else {},
            rss_mb=self._rss,
            pss_mb=self._pss,
            shares={version: arrived / carried for version, arrived in self._arrived.items()},
            connections=self._opened / carried,
        )

    def _run(self, seconds: float) -> Load:
        path = self._launch.path if self._launch is not None else PATH
        return _load(self._bench, self.cell, self._port, path, seconds)

    def _settle(self) -> None:
        time.sleep(SETTLE_S)
        if self._launch is not None and self._launch.settle is not None:
            self._launch.settle()

    def _processes(self) -> list[tuple[str, int]]:
        """Role and id of each process."""
        if self._launch is None or self._child is None:
            return []
        return [(self._launch.role(command_line(pid)), pid) for pid in tree(self._child.pid)]

    def _usage(self) -> dict[str, float]:
        """CPU seconds of each role since its start."""
        spent: dict[str, float] = {}
        for role, pid in self._processes():
            spent[role] = spent.get(role, 0.0) + cpu_seconds(pid)
        return spent

    def _remember_memory(self) -> None:
        """Of each role the largest process, at the end of the slice in which it was largest."""
        for role, pid in self._processes():
            now = memory(pid)
            self._rss[role] = max(self._rss.get(role, 0.0), now.rss / 1e6)
            self._pss[role] = max(self._pss.get(role, 0.0), now.pss / 1e6)


def measure(
    bench: Bench, group: Sequence[Cell], round_: int, failed: Callable[[Cell, Exception], None]
) -> list[Sample]:
    """Each cell of a group once, in interleaved slices. A contender that fails is reported and left out."""
    subjects: list[Subject] = []

    def attempt(subject: Subject, step: Callable[[], None]) -> None:
        try:
            step()
        except TROUBLE as error:
            failed(subject.cell, error)
            subjects.remove(subject)

    with ExitStack() as stack:
        for cell in group:
            try:
                subjects.append(Subject(bench, cell, *stack.enter_context(bench.running(cell))))
            except TROUBLE as error:
                failed(cell, error)
        for subject in subjects:
            attempt(subject, subject.warm_up)
        each = min(SLICE_S.get(group[0].shape, bench.seconds), bench.seconds)
        for _ in range(max(1, round(bench.seconds / each))):
            for subject in subjects:
                attempt(subject, partial(subject.slice, each))
        samples = []
        for subject in subjects:
            try:
                samples.append(subject.sample(round_))
            except PeerError as error:
                failed(subject.cell, error)
    return samples
