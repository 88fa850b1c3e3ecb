"""Exports a training set over HTTP and looks at the memory of the process that makes it.

    python -m benchmarks.export [--rows 10000000] [--store sqlite,postgresql] [--format parquet] [--json]

A store is filled with labelled predictions, a gateway is started on it as a user starts one, and
`GET /admin/models/credit/training-set` is read to its end. What counts is the most resident memory that the gateway's control
process ever had (VmHWM), and that every row arrived. Exit 1 when it passed 300 MB or a row is missing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx2

from app.adapters import migrations
from benchmarks.export.tables import MODEL, fill
from tests.bring_servers import main as bring
from tests.ports import free_port
from tests.servers import PostgresServer, running
from tests.system import RunningGateway, running_gateway

MOST_MB = 300.0
_MODEL = {
    "match": {"path_prefix": f"/models/{MODEL}"},
    "task": "binary",
    "production": "v1",
    "versions": {"v1": {"url": "http://127.0.0.1:9"}},  # nobody asks it anything
}


@dataclass(frozen=True, slots=True)
class Export:
    store: str
    format: str
    rows: int
    arrived: int
    megabytes: float  # of the file
    seconds: float
    before_mb: float  # the control process's most resident memory before the export,
    peak_mb: float  # and after it

    @property
    def holds(self) -> bool:
        return self.arrived == self.rows and self.peak_mb < MOST_MB


def measured(store: str, url: str, rows: int, kind: str, directory: Path) -> Export:
    """One export from a filled store."""
    file = directory / f"training-set.{kind}"
    with (
        redirect_stdout(sys.stderr),  # where the gateway's log belongs: stdout is the result's
        running_gateway(directory, {MODEL: _MODEL}, port=free_port(), store={"url": url}) as gateway,
    ):
        before, began = _peak_mb(gateway), time.perf_counter()
        _download(gateway, kind, file)
        seconds = time.perf_counter() - began
        peak = _peak_mb(gateway)
    size = file.stat().st_size / 1e6
    arrived = _rows_in(file, kind)
    file.unlink()
    return Export(store, kind, rows, arrived, size, seconds, before, peak)


def _download(gateway: RunningGateway, kind: str, file: Path) -> None:
    client = httpx2.Client(trust_env=False, timeout=120.0)
    path = f"{gateway.url}/admin/models/{MODEL}/training-set"
    headers = {"Authorization": f"Bearer {gateway.token}"}
    with (
        client,
        client.stream("GET", path, params={"format": kind}, headers=headers) as reply,
        file.open("wb") as sink,
    ):
        reply.raise_for_status()
        for piece in reply.iter_bytes():
            sink.write(piece)


def _peak_mb(gateway: RunningGateway) -> float:
    status = Path(f"/proc/{gateway.child('control')}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1000  # kB


def _rows_in(file: Path, kind: str) -> int:
    if kind == "parquet":
        import pyarrow.parquet as pq

        return int(pq.ParquetFile(file).metadata.num_rows)
    with file.open("rb") as lines:
        return sum(1 for _ in lines) - (kind == "csv")


@contextmanager
def _filled(store: str, rows: int, directory: Path) -> Iterator[str]:
    if store == "sqlite":
        (directory / "data").mkdir(exist_ok=True)
        url = f"sqlite:///{directory}/data/gateway.db"
        migrations.upgrade(url)
        fill(url, rows)
        yield url
        return
    bring()
    with running(PostgresServer()) as server:
        url = server.new_database()
        migrations.upgrade(url)
        fill(url, rows)
        yield url


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--store", default="sqlite,postgresql")
    parser.add_argument("--format", default="parquet", choices=("parquet", "csv", "ndjson"))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    made = []
    for store in arguments.store.split(","):
        with (
            tempfile.TemporaryDirectory(prefix="export") as name,
            _filled(store, arguments.rows, Path(name)) as url,
        ):
            made.append(measured(store, url, arguments.rows, arguments.format, Path(name)))
    if arguments.json:
        sys.stdout.write(json.dumps([{**asdict(one), "holds": one.holds} for one in made], indent=1) + "\n")
    else:
        for one in made:
            sys.stdout.write(
                f"{one.store}: {one.arrived:,} of {one.rows:,} rows as {one.format}, {one.megabytes:.0f} MB in "
                f"{one.seconds:.0f} s; control process {one.before_mb:.0f} MB before, {one.peak_mb:.0f} MB at most "
                f"(goal: below {MOST_MB:.0f} MB): {'holds' if one.holds else 'missed'}\n"
            )
    sys.exit(not all(one.holds for one in made))


if __name__ == "__main__":
    main()
