"""Turns samples into a terminal table and a Markdown page. Pure: shows what was measured, adds no figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypedDict

from benchmarks.peers.cells import CELLS, Shape
from benchmarks.peers.goals import (
    GOALS,
    Spread,
    Verdict,
    by_round,
    figure,
    judge,
    proxy_cpu,
    shadowed,
    spread,
)
from benchmarks.peers.measure import Sample


class Results(TypedDict):
    """All of one run, as `--json` writes it."""

    date: str
    versions: dict[str, str]
    rounds: int
    seconds: float
    pinned: bool
    load_before: float  # load average of the last minute before the run: what else the machine did
    data_plane: str  # "compiled", or why it is not
    paced_rate: float
    failures: list[str]
    samples: list[Sample]


QUIET = 0.5  # load average of a machine that does nothing else
CELL_HEADS = (
    "cell",
    "CPU µs a request: proxy",
    "whole tree",
    "requests/s",
    "p50 ms",
    "p99 ms",
    "RSS MB",
    "PSS MB",
    "failed",
    "shadowed",
    "connections a request",
)
GOAL_HEADS = ("work", "goal", "measured: median (least to most)", "rounds", "verdict")


def cell_rows(samples: Sequence[Sample]) -> list[tuple[str, ...]]:
    """A row for each cell that was measured: medians over the rounds, CPU with its spread."""
    rows: list[tuple[str, ...]] = []
    for cell in CELLS:
        mine = [sample for sample in samples if sample["cell"] == cell.name]
        if not mine:
            continue
        proxied = cell.contender is not None
        rows.append(
            (
                cell.name,
                str(_spread(mine, proxy_cpu)) if proxied else "-",
                figure(_spread(mine, lambda s: sum(s["cpu_us"].values())).median) if proxied else "-",
                figure(_spread(mine, lambda s: s["throughput"]).median),
                figure(_spread(mine, lambda s: s["p50_ms"]).median),
                figure(_spread(mine, lambda s: s["p99_ms"]).median),
                figure(_spread(mine, lambda s: s["rss_mb"]["proxy"]).median) if proxied else "-",
                figure(_spread(mine, lambda s: s["pss_mb"]["proxy"]).median) if proxied else "-",
                str(sum(s["failed"] for s in mine)),
                f"{_spread(mine, shadowed).median:.0%}",
                figure(_spread(mine, lambda s: s["connections"]).median) if proxied else "-",
            )
        )
    return rows


def added_rows(samples: Sequence[Sample]) -> list[tuple[str, ...]]:
    """Latency that each contender adds to the model server asked directly under the same load, per round."""
    rows: list[tuple[str, ...]] = []
    for cell in CELLS:
        base = {
            (Shape.FULL, False): "direct",
            (Shape.FULL, True): "direct-20ms",
            (Shape.PACED, True): "direct-paced",
        }.get((cell.shape, cell.slow))
        pairs = [
            (seen[cell.name], seen[base])
            for seen in by_round(samples)
            if base and cell.name in seen and base in seen
        ]
        if cell.contender is None or not pairs:
            continue
        p50 = spread([over["p50_ms"] - under["p50_ms"] for over, under in pairs])
        p99 = spread([over["p99_ms"] - under["p99_ms"] for over, under in pairs])
        rows.append((cell.name, str(p50), str(p99)))
    return rows


def goal_rows(samples: Sequence[Sample]) -> list[tuple[str, ...]]:
    """A row for each goal."""
    rounds = by_round(samples)
    judged = [judge(goal, rounds) for goal in GOALS]
    return [(j.goal.title, j.goal.limit, str(j.spread or "-"), str(j.rounds), str(j.verdict)) for j in judged]


def process_rows(samples: Sequence[Sample]) -> list[tuple[str, ...]]:
    """CPU of our own processes apart: what the peers do not do stands in the control process."""
    rows: list[tuple[str, ...]] = []
    for cell in CELLS:
        mine = [sample for sample in samples if sample["cell"] == cell.name and "control" in sample["cpu_us"]]
        if mine:
            parts = [
                spread([s["cpu_us"].get(role, 0.0) for s in mine]) for role in ("proxy", "control", "other")
            ]
            control = figure(_spread(mine, lambda s: s["rss_mb"]["control"]).median)
            rows.append((cell.name, *map(str, parts), control))
    return rows


PROCESS_HEADS = ("cell", "workers µs", "control process µs", "supervisor µs", "control RSS MB")
ADDED_HEADS = ("cell", "added p50 ms", "added p99 ms")


def _spread(samples: Sequence[Sample], value: Callable[[Sample], float]) -> Spread:
    return spread([value(sample) for sample in samples])


def text(results: Results) -> str:
    """For the terminal."""
    samples = results["samples"]
    tables = (
        (CELL_HEADS, cell_rows(samples)),
        (ADDED_HEADS, added_rows(samples)),
        (PROCESS_HEADS, process_rows(samples)),
        (GOAL_HEADS, [row for row in goal_rows(samples) if row[-1] != Verdict.NOT_MEASURED]),
    )
    shown = [_aligned([heads, *rows]) for heads, rows in tables if rows]
    return "\n\n".join(
        [*shown, *(["failed: " + "; ".join(results["failures"])] if results["failures"] else [])]
    )


def _aligned(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _markdown_table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


_PAGE = """# Benchmarks

This page is made by `python -m benchmarks.peers --docs`; change the program, not the page. The raw
figures are in `benchmarks.json`; `python -m benchmarks.peers --from docs/benchmarks.json --docs` makes
the page again from them.

What it costs to put a proxy in front of a model server, side by side on one machine: {cpus} cores, Linux
{kernel}, Python {python}, nginx {nginx}, Envoy {envoy}, FastAPI {fastapi} with httpx {httpx} and uvicorn
{uvicorn}; {date}.
{neighbours}

Load: wrk with 32 connections, POSTs of 1 KB JSON, 1,000 users in `X-User-Id`; model servers answer at
once, or after 20 ms (`-20ms`, `-paced`, `-crowd`). Contenders have one worker (`two-workers` apart).
Each of {rounds} rounds starts all contenders afresh and loads them in turn, in slices of a second or
two, {seconds} s each together, so that a machine that drifts drifts for all.{paced} {place}

CPU is user and system time of the processes, from `/proc`, divided by the requests carried. No
contender writes an access log; the gateway writes its journal. *Shadowed* is the part of the requests
that reached the shadow version: a proxy that drops its shadows would look cheap, and its goal is then
`invalid`. nginx opens a connection for each mirrored request, because it never reads the mirrored
answer's body; that is part of what its mirror costs (*connections a request*). The gateway's control
mirror is off: the peers do not repeat canary requests either. {data_plane}

## Goals

Ratios are taken within a round. The median over the rounds is judged; of failures and memory, the worst
round. Where the worker's time goes, and what less would take: `decisions/0003-what-comes-together-leaves-together.md`.

{goals}

![CPU a request]({chart})

## Cells

Medians over the rounds; CPU with its least and most. *p50* and *p99* include the model server's time.

{cells}

{titles}

## Added latency

Against the model server asked directly under the same load in the same round. At full load with 32
connections this is throughput by another name (Little's law); the paced cells show what a client feels.

{added}

## Our processes apart

The control process stores what the journal holds, compares shadows and keeps statistics, which the peers
do not do. Its CPU is counted until the last record is in the store.

{processes}
"""


def _place(results: Results) -> str:
    if results["pinned"]:
        return (
            "The proxying process is pinned to one core (the second of two workers to the other), everything "
            "else to the other: load, model servers, the gateway's control process."
        )
    return "Nothing is pinned; contender, load generator and model servers share the cores."


def _neighbours(results: Results) -> str:
    if results["load_before"] < QUIET:
        return "The machine did nothing else."
    return (
        f"The machine was busy with other work (load average {results['load_before']:.1f} before the run): "
        "ratios of CPU hold, latencies and throughput are those of a busy machine."
    )


def _data_plane(results: Results) -> str:
    if results["data_plane"] == "compiled":
        return "The gateway's data plane is compiled (`make compiled`), in `ours-interpreted` it is not."
    return f"The gateway's data plane runs interpreted: {results['data_plane']}."


def markdown(results: Results, chart: str) -> str:
    """The page for the docs. `chart` is the file name of the SVG beside it."""
    samples = results["samples"]
    measured = {sample["cell"] for sample in samples}
    rate = figure(results["paced_rate"])
    return _PAGE.format(
        **results["versions"],
        date=results["date"],
        rounds=results["rounds"],
        seconds=figure(results["seconds"]),
        paced=f" Paced cells: an open loop of {rate} requests/s." if results["paced_rate"] else "",
        place=_place(results),
        data_plane=_data_plane(results),
        neighbours=_neighbours(results),
        goals=_markdown_table(GOAL_HEADS, goal_rows(samples)),
        chart=chart,
        cells=_markdown_table(CELL_HEADS, cell_rows(samples)),
        titles="\n".join(f"* `{cell.name}`: {cell.title}" for cell in CELLS if cell.name in measured),
        added=_markdown_table(ADDED_HEADS, added_rows(samples)),
        processes=_markdown_table(PROCESS_HEADS, process_rows(samples)) or "Not measured in this run.",
    )
