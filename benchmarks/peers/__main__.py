"""Command line of the side-by-side benchmark: `python -m benchmarks.peers --help`."""

from __future__ import annotations

import argparse
import fnmatch
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.peers import chart, install, report, snapshot
from benchmarks.peers.cells import CELLS, Cell, Shape
from benchmarks.peers.contenders import Gateway
from benchmarks.peers.measure import Bench, Sample, measure
from benchmarks.peers.processes import Child, PeerError
from benchmarks.peers.snapshot import ROOT

CACHE = ROOT / ".cache" / "peers"


def arguments() -> argparse.Namespace:
    """The parsed command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description="The gateway beside nginx, Envoy and a FastAPI + httpx proxy, on the same load, in turn.",
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often each cell is measured (default 5)")
    parser.add_argument(
        "--seconds", type=float, default=5, help="load on each cell, whole seconds (default 5)"
    )
    parser.add_argument(
        "--only", default="*", help="cells to run, comma-separated, wildcards allowed: 'fastapi,ours*'"
    )
    parser.add_argument(
        "--pin",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="proxies on one core, all else on the others (default)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there")
    parser.add_argument("--docs", action="store_true", help="write docs/benchmarks.md, .svg and .json")
    parser.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="FILE",
        help="measure nothing; report the samples of this file",
    )
    parser.add_argument("--list", action="store_true", help="list the cells and end")
    options = parser.parse_args()
    if options.rounds < 1 or options.seconds < 1:
        parser.error("--rounds and --seconds must be 1 or more")
    return options


def selected(patterns: str) -> list[Cell]:
    """Cells that any of the comma-separated patterns names. Raises PeerError when one names none."""
    wanted = [pattern.strip() for pattern in patterns.split(",") if pattern.strip()]
    for pattern in wanted:
        if not any(fnmatch.fnmatchcase(cell.name, pattern) for cell in CELLS):
            raise PeerError(
                f"--only {pattern}: no such cell; known are {', '.join(cell.name for cell in CELLS)}"
            )
    return [cell for cell in CELLS if any(fnmatch.fnmatchcase(cell.name, pattern) for pattern in wanted)]


def processors(pin: bool) -> tuple[frozenset[int] | None, frozenset[int] | None]:
    """Cores of the contenders, and of load with model servers; None: not pinned, or only one core."""
    usable = sorted(os.sched_getaffinity(0))
    if not pin or len(usable) < 2:
        return None, None
    return frozenset(usable[:1]), frozenset(usable[1:])


def run(options: argparse.Namespace) -> report.Results:
    """Install, measure all rounds, return what was seen; a cell that fails is noted and the others go on."""
    cells = selected(options.only)
    say("looking for nginx, Envoy, wrk, FastAPI and httpx; installing what is missing")
    tools = install.ensure(CACHE)
    proxy_cpus, load_cpus = processors(options.pin)
    samples: list[Sample] = []
    load_before = os.getloadavg()[0]
    failures: list[str] = []
    with tempfile.TemporaryDirectory(prefix="run-", dir=CACHE) as name:
        directory = Path(name)
        remark = snapshot.take(directory / "code")
        if any(isinstance(cell.contender, Gateway) for cell in cells):
            snapshot.check(directory / "code")
        if remark:
            say(remark)
        upstream = [sys.executable, "-m", "benchmarks.peers.upstream"]
        with Child(
            "model servers",
            upstream,
            directory / "upstream.log",
            cpus=load_cpus,
            cwd=ROOT,
            stdout=subprocess.PIPE,
        ) as servers:
            line = servers.first_line()
            bench = Bench(tools, directory, json.loads(line), options.seconds, proxy_cpus, load_cpus)
            pace(bench, cells, failures)
            for number in range(1, options.rounds + 1):
                for _, group in itertools.groupby(cells, lambda cell: cell.group):

                    def failed(cell: Cell, error: Exception, number: int = number) -> None:
                        failures.append(f"{cell.name}, round {number}")
                        say(f"{failures[-1]}: {error}")

                    measured = measure(bench, list(group), number, failed)
                    samples += measured
                    for sample in measured:
                        tell(sample)
    return report.Results(
        date=datetime.now(UTC).date().isoformat(),
        versions=install.versions(tools),
        rounds=options.rounds,
        seconds=options.seconds,
        pinned=proxy_cpus is not None,
        load_before=load_before,
        data_plane=remark or "compiled",
        paced_rate=bench.paced_rate,
        failures=failures,
        samples=samples,
    )


def pace(bench: Bench, cells: list[Cell], failures: list[str]) -> None:
    """Set the rate of the paced cells: half of what the slowest of their contenders can do."""
    rates = []
    for cell in cells:
        if cell.shape is Shape.PACED and cell.contender is not None:
            try:
                rates.append(bench.saturation(cell))
                say(f"saturation of {cell.name}: {rates[-1]:,.0f} requests/s")
            except PeerError as error:
                failures.append(f"{cell.name}, looking for its saturation")
                say(f"{failures[-1]}: {error}")
    bench.paced_rate = min(rates, default=1000.0) / 2


def tell(sample: Sample) -> None:
    """One line of progress."""
    cpu = " ".join(f"{role} {spent:.0f}" for role, spent in sample["cpu_us"].items())
    shares = " ".join(f"{version} {share:.1%}" for version, share in sample["shares"].items())
    say(
        f"round {sample['round']} {sample['cell']:18} {sample['throughput']:8,.0f}/s "
        f"p50 {sample['p50_ms']:.2f} p99 {sample['p99_ms']:.2f} ms, CPU µs: {cpu or '-'}, "
        f"failed {sample['failures'] or 0}, reached: {shares}, {sample['connections']:.3f} connections a request"
    )


def say(line: str) -> None:
    """Progress goes to standard error; the tables alone go to standard output."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def write_docs(results: report.Results, directory: Path) -> None:
    """The page, its chart and its raw figures."""
    directory.mkdir(exist_ok=True)
    (directory / "benchmarks.json").write_text(json.dumps(results, indent=1) + "\n")
    (directory / "benchmarks.svg").write_text(chart.svg(results["samples"]))
    (directory / "benchmarks.md").write_text(report.markdown(results, "benchmarks.svg"))


def _terminated(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """0: all cells measured; 1: some failed; 2: wrong usage, or the machine cannot; 130: interrupted."""
    options = arguments()
    if options.list:
        sys.stdout.writelines(f"{cell.name:18} {cell.title}\n" for cell in CELLS)
        return 0
    signal.signal(signal.SIGTERM, _terminated)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        results: report.Results = json.loads(options.source.read_text()) if options.source else run(options)
    except (PeerError, OSError, subprocess.TimeoutExpired) as error:
        say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        return 130
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    if options.docs and results["failures"]:
        say("the docs are left as they are: a page without the cells that failed would mislead")
    elif options.docs:
        write_docs(results, ROOT / "docs")
    sys.stdout.write(report.text(results) + "\n")
    return 1 if results["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
