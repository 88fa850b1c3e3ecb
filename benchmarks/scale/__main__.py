"""The recorder's rate and the time of a performance report, with little and with much stored.

    python -m benchmarks.scale [--rows 10000000] [--less 100000] [--rounds 5] [--records 20000] [--calls 10] [--json]

Two databases of one PostgreSQL hold a month of predictions, a hundred times as many in one as in the other. Two gateways are asked in
turn for `GET /admin/models/credit/performance`; then, in turn, the recorder moves the same records from a journal into either. What
counts is the ratio within each turn. Both histories hold more mature labels than a report reads, so that both reports read the same
number. No answer is taken from the gateway's memory: each asks for another beginning, by a microsecond.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2

from app.adapters import migrations
from benchmarks.recorder.material import MODEL, predictions, write_journal
from benchmarks.scale.history import SPAN, fill
from tests.bring_servers import main as bring
from tests.ports import free_port
from tests.servers import PostgresServer, running
from tests.system import PLAIN, RunningGateway, running_gateway

MOST = 1.5  # times
HORIZON = timedelta(days=1)
_SETTINGS = {"fsync": "on", "full_page_writes": "on", "max_wal_size": "4GB", "shared_buffers": "512MB"}


@dataclass(frozen=True, slots=True)
class Turn:
    """The same thing done with less stored and with more."""

    less: float
    more: float


@dataclass(frozen=True, slots=True)
class Measured:
    less: int  # predictions stored
    more: int
    fill_s: float  # of the larger one
    report_s: tuple[Turn, ...]
    read: tuple[int, int]  # labelled rows that each report read
    recorder_per_s: tuple[Turn, ...]

    @property
    def slower_reports(self) -> tuple[float, ...]:
        return tuple(turn.more / turn.less for turn in self.report_s)

    @property
    def slower_recorder(self) -> tuple[float, ...]:
        return tuple(turn.less / turn.more for turn in self.recorder_per_s)


@contextlib.contextmanager
def _gateway(directory: Path, url: str) -> Iterator[RunningGateway]:
    directory.mkdir()
    models = {
        MODEL.name: {
            "task": MODEL.task,
            "match": {"path_prefix": "/credit"},
            "production": "v1",
            "versions": {"v1": {"url": "http://127.0.0.1:1"}},
            "labels": {"horizon_s": HORIZON.total_seconds()},
        }
    }
    with running_gateway(directory, models, port=free_port(), store={"url": url}) as gateway:
        yield gateway


def _reported(gateway: RunningGateway, client: httpx2.Client, number: int) -> tuple[float, int]:
    """Seconds, and how many labelled rows the report was made of."""
    since = datetime.now(UTC) - SPAN + timedelta(hours=1, microseconds=number)
    headers = {"Authorization": f"Bearer {gateway.token}"}
    address = f"{gateway.url}/admin/models/{MODEL.name}/performance"
    begun = time.perf_counter()
    answer = client.get(address, params={"since": since.isoformat()}, headers=headers)
    took = time.perf_counter() - begun
    if answer.status_code != 200:
        raise SystemExit(f"no report: {answer.status_code} {answer.text[:500]}")
    (version,) = answer.json()["versions"]
    return took, int(version["rows"])


def reports(directory: Path, urls: tuple[str, str], calls: int) -> tuple[tuple[Turn, ...], tuple[int, int]]:
    with (
        _gateway(directory / "less", urls[0]) as less,
        _gateway(directory / "more", urls[1]) as more,
        httpx2.Client(trust_env=False, timeout=120.0, verify=PLAIN) as client,
    ):
        both = (less, more)
        turns = []
        for number in range(calls + 1):
            took = [0.0, 0.0]
            read = [0, 0]
            for place in (0, 1) if number % 2 else (1, 0):
                took[place], read[place] = _reported(both[place], client, number)
            turns.append(Turn(*took))
    return tuple(turns[1:]), (read[0], read[1])  # the first one opens connections and loads modules


def _recorded(url: str, count: int, number: int) -> float:
    """Records a second."""
    directory = Path(tempfile.mkdtemp(prefix="gateway-benchmark-"))
    try:
        write_journal(directory, predictions(count, number.to_bytes(16, "big")))
        command = [sys.executable, "-m", "benchmarks.recorder.drain", str(directory), url, str(count)]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        last = json.loads(told[-1])
        return float(last["records"] / last["seconds"])
    finally:
        shutil.rmtree(directory)


def recordings(urls: tuple[str, str], rounds: int, count: int) -> tuple[Turn, ...]:
    turns = []
    for number in range(rounds + 1):
        rates = [0.0, 0.0]
        for place in (0, 1) if number % 2 else (1, 0):
            rates[place] = _recorded(urls[place], count, number)
        turns.append(Turn(*rates))
    return tuple(turns[1:])  # the first one extends files and loads what lies on disk


def report(measured: Measured) -> tuple[str, bool]:
    """For people; and whether every goal was met."""
    lines = [
        f"stored predictions: {measured.less:,} and {measured.more:,} (made in {measured.fill_s:.0f} s); "
        f"labelled rows a report reads: {measured.read[0]:,} and {measured.read[1]:,}",
        "",
        "what                          less        more       goal  more ÷ less: median (least to most)  verdict",
    ]
    met = True
    for what, turns, slower, unit in (
        ("performance report, ms", measured.report_s, measured.slower_reports, 1000.0),
        ("recorder, records/s", measured.recorder_per_s, measured.slower_recorder, 1.0),
    ):
        times = statistics.median(slower)
        met = met and times <= MOST
        less, more = (
            statistics.median(side) * unit for side in zip(*((t.less, t.more) for t in turns), strict=True)
        )
        lines.append(
            f"{what:24} {less:11,.0f} {more:11,.0f}     ≤ {MOST}  {times:.2f} ({min(slower):.2f} to {max(slower):.2f}), "
            f"{len(turns)} turns  {'met' if times <= MOST else 'missed'}"
        )
    return "\n".join([*lines, "(times slower: of the recorder, less ÷ more)"]), met


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10_000_000, help="predictions in the larger history")
    parser.add_argument("--less", type=int, default=100_000, help="predictions in the smaller one")
    parser.add_argument("--rounds", type=int, default=5, help="of the recorder")
    parser.add_argument("--records", type=int, default=20_000, help="of each round")
    parser.add_argument("--calls", type=int, default=10, help="performance reports of each")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if (
        min(options.rounds, options.calls) < 1
        or options.records < 1000
        or not 1000 <= options.less <= options.rows
    ):
        parser.error("at least one round and one call, 1,000 records, and 1,000 <= --less <= --rows")
    load = os.getloadavg()[0]
    bring()
    with (
        running(PostgresServer(_SETTINGS)) as server,
        tempfile.TemporaryDirectory(prefix="gateway-benchmark-") as directory,
    ):
        urls = server.new_database(), server.new_database()
        for url in urls:
            migrations.upgrade(url)
        print(f"making {options.less:,} and {options.rows:,} predictions", file=sys.stderr)
        fill(urls[0], options.less)
        fill_s = fill(urls[1], options.rows)
        print(f"made in {fill_s:.0f} s; asking for reports", file=sys.stderr)
        with contextlib.redirect_stdout(sys.stderr):  # gateways tell their logs when they end
            report_s, read = reports(Path(directory), urls, options.calls)
        print("recording", file=sys.stderr)
        recorded = recordings(urls, options.rounds, options.records)
    measured = Measured(options.less, options.rows, fill_s, report_s, read, recorded)
    told, met = report(measured)
    if options.json:
        slower = {"slower_reports": measured.slower_reports, "slower_recorder": measured.slower_recorder}
        print(json.dumps({**asdict(measured), **slower, "load_before": load, "met": met}, indent=1))
    else:
        print(told)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
