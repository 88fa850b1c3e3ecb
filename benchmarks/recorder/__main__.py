"""How fast records get from the journal into PostgreSQL, against `COPY` of the same rows; and outcomes from `POST /feedback`.

    python -m benchmarks.recorder [--records 200000] [--rounds 5] [--outcomes 400000] [--json]

Each round: a journal written by the journal's own writer is moved into an empty database by the recorder, in a process of its own, and
the same rows, prepared beforehand, go into another empty database of the same schema by one `COPY`. What counts is the ratio of both
rates in a round. The recorder's memory is looked at ten times on the way. Then a gateway on PostgreSQL is given outcomes as NDJSON by
one client, until the last is joined to its prediction in the store.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import asyncpg

from app.adapters import migrations
from app.adapters.rows import PREDICTION_COLUMNS, day_of
from app.adapters.stores import open_store
from app.domain.prediction import format_id
from benchmarks.recorder.feedback import Fed, feed
from benchmarks.recorder.material import predictions, rows, write_journal
from tests.bring_servers import main as bring
from tests.servers import PostgresServer, running

LEAST = 0.4  # of COPY's rate
LEAST_OUTCOMES = 20_000  # a second
_AS_IN_PRODUCTION = {
    "fsync": "on",
    "full_page_writes": "on",
    "max_wal_size": "4GB",
    "shared_buffers": "512MB",
}
GROWTH = 1.25  # memory at the end against that at half of the way
FEWEST = 50_000  # records: fewer are over before there is anything to see


@dataclass(frozen=True, slots=True)
class Round:
    recorder_per_s: float
    copy_per_s: float
    cpu_us: float  # of the recorder's process, a record
    rss_mb: tuple[float, ...]  # at each tenth of the way

    @property
    def ratio(self) -> float:
        return self.recorder_per_s / self.copy_per_s


def _prepared(server: PostgresServer, template: str) -> str:
    return server.new_database(template)


def _template(server: PostgresServer) -> str:
    """An empty database with the tables and today's partitions: all others are copies of it."""
    url = server.new_database()
    migrations.upgrade(url)

    async def partitions() -> None:
        store = await open_store(url)
        await store.maintain(store.now(), {})
        await store.close()

    asyncio.run(partitions())
    return url.rpartition("/")[2]


def _recorded(directory: Path, url: str, count: int) -> tuple[float, float, tuple[float, ...]]:
    """Records a second, CPU µs a record, memory on the way."""
    command = [sys.executable, "-m", "benchmarks.recorder.drain", str(directory), url, str(count)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    tenths = [json.loads(line) for line in told]
    last = tenths[-1]
    return (
        last["records"] / last["seconds"],
        last["cpu_s"] / last["records"] * 1e6,
        tuple(one["rss_mb"] for one in tenths),
    )


async def _copied(url: str, values: list[Any]) -> float:
    """Rows a second."""
    connection = await asyncpg.connect(url)
    try:
        begun = time.perf_counter()
        await connection.copy_records_to_table("predictions", records=values, columns=PREDICTION_COLUMNS)
        return len(values) / (time.perf_counter() - begun)
    finally:
        await connection.close()


def measure(server: PostgresServer, template: str, count: int, number: int) -> Round:
    """One round; the order of the two changes from round to round."""
    seed = number.to_bytes(16, "big")
    values = rows(predictions(count, seed))
    if len({day_of(one[0]) for one in values}) > 1:
        raise SystemExit("midnight came between the records; run it again")
    directory = Path(tempfile.mkdtemp(prefix="gateway-benchmark-"))
    try:
        write_journal(directory, predictions(count, seed))
        copied = 0.0
        used = [_prepared(server, template), _prepared(server, template)]
        if number % 2:
            copied = asyncio.run(_copied(used[0], values))
        recorded, cpu, rss = _recorded(directory, used[1], count)
        if not copied:
            copied = asyncio.run(_copied(used[0], values))
        for one in used:  # autovacuum would go through what is left behind, beside the next round
            server.run(f"DROP DATABASE {one.rpartition('/')[2]} WITH (FORCE)")
        return Round(recorded, copied, cpu, rss)
    finally:
        shutil.rmtree(directory)


def report(rounds: list[Round], fed: Fed | None) -> tuple[str, bool]:
    """For people; and whether every goal was met."""
    ratio = statistics.median(one.ratio for one in rounds)
    growth = max(one.rss_mb[-1] / one.rss_mb[4] for one in rounds)
    lines = ["round  recorder/s   COPY/s   ratio  CPU µs a record  RSS MB at 10, 50, 100 %"]
    for number, one in enumerate(rounds, 1):
        memory = ", ".join(f"{one.rss_mb[place]:.0f}" for place in (0, 4, -1))
        lines.append(
            f"{number:5}  {one.recorder_per_s:10,.0f} {one.copy_per_s:8,.0f}   {one.ratio:.2f}  {one.cpu_us:15.0f}  {memory}"
        )
    goals = [
        (f"recorder ÷ COPY, median of {len(rounds)}", f"≥ {LEAST}", f"{ratio:.2f}", ratio >= LEAST),
        ("memory at the end ÷ at 50 %, worst", f"≤ {GROWTH}", f"{growth:.2f}", growth <= GROWTH),
    ]
    if fed is not None:
        least = f"≥ {LEAST_OUTCOMES:,}"
        goals.append(
            (
                "outcomes a second, posted",
                least,
                f"{fed.posted_per_s:,.0f}",
                fed.posted_per_s >= LEAST_OUTCOMES,
            )
        )
        goals.append(
            (
                "outcomes a second, joined",
                least,
                f"{fed.joined_per_s:,.0f}",
                fed.joined_per_s >= LEAST_OUTCOMES,
            )
        )
    lines += [
        "",
        *(f"{what}: goal {goal}, {value}: {'met' if met else 'missed'}" for what, goal, value, met in goals),
    ]
    return "\n".join(lines), all(met for *_, met in goals)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--outcomes", type=int, default=400_000, help="0: leave feedback out")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.records < FEWEST or options.rounds < 1 or options.outcomes < 0:
        parser.error(f"at least {FEWEST:,} records and one round, and no negative number of outcomes")
    bring()
    with running(PostgresServer(_AS_IN_PRODUCTION)) as server:
        template = _template(server)
        rounds = []
        for number in range(options.rounds):
            rounds.append(measure(server, template, options.records, number))
            print(f"round {number + 1} of {options.rounds}: {rounds[-1].ratio:.2f}", file=sys.stderr)
        fed = None
        if options.outcomes:
            stored = list(predictions(options.outcomes, b"feedback".ljust(16)))
            url = _prepared(server, template)
            asyncio.run(_copied(url, rows(iter(stored))))
            known = [format_id(one.prediction_id) for one in stored]
            del stored
            with contextlib.redirect_stdout(sys.stderr):  # the gateway's log
                fed = feed(url, known)
    told, met = report(rounds, fed)
    if options.json:
        figures = {
            "rounds": [{**asdict(one), "ratio": one.ratio} for one in rounds],
            "feedback": fed and asdict(fed),
        }
        print(json.dumps({**figures, "load_before": os.getloadavg()[2], "met": met}, indent=1))
    else:
        print(told)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
