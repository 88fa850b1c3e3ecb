"""What the side-by-side benchmark reads and concludes: /proc, wrk, message framing, ratios, verdicts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.peers import chart, goals, report, snapshot, traffic
from benchmarks.peers.__main__ import selected
from benchmarks.peers.cells import CELLS
from benchmarks.peers.load import percentile
from benchmarks.peers.measure import Sample
from benchmarks.peers.processes import TICKS_PER_S, PeerError, parse_rollup, parse_stat
from benchmarks.peers.upstream import message_length, response

VERSIONS = {
    "nginx": "1.2",
    "envoy": "1.3",
    "fastapi": "0.1",
    "httpx": "0.28",
    "uvicorn": "0.5",
    "python": "3.11",
    "kernel": "6",
    "cpus": "2",
}


def sample(cell: str, round_: int, proxy: float, **more: object) -> Sample:
    made: dict[str, object] = {
        "cell": cell,
        "round": round_,
        "requests": 1000,
        "carried": 1000,
        "failed": 0,
        "failures": {},
        "seconds": 1.0,
        "throughput": 1000.0,
        "p50_ms": 1.0,
        "p99_ms": 2.0,
        "cpu_us": {"proxy": proxy},
        "rss_mb": {"proxy": 50.0},
        "pss_mb": {"proxy": 40.0},
        "shares": {"production": 0.9, "canary": 0.1, "shadow": 1.0},
        "connections": 0.0,
    }
    made.update(more)
    return Sample(**made)  # type: ignore[typeddict-item]


def goal(title: str) -> goals.Goal:
    return next(goal for goal in goals.GOALS if title in goal.title)


def test_the_cpu_of_a_process_whose_name_holds_spaces_and_brackets() -> None:
    line = "42 (nginx: (worker) x) S 7 42 42 0 -1 4194304 1 2 3 4 150 50 25 25 20 0 1 0 9 9 9\n"
    assert parse_stat(line) == (7, 250 / TICKS_PER_S)


def test_memory_is_read_in_bytes() -> None:
    text = "55-7f ---p 0 00:00 0 [rollup]\nRss:      1640 kB\nPss:       403 kB\nPss_Dirty: 1 kB\n"
    seen = parse_rollup(text)
    assert (seen.rss, seen.pss) == (1640 * 1024, 403 * 1024)


def test_every_user_has_a_body_of_one_kilobyte_and_they_differ() -> None:
    made = traffic.bodies()
    assert {len(body) for body in made} == {traffic.BODY_BYTES}
    assert len(set(made)) == traffic.USERS
    assert all(len(json.loads(body)["features"]) == traffic.FEATURES for body in made)


def test_the_order_of_users_visits_each_once_in_a_thousand() -> None:
    at, seen = 0, set()
    for _ in range(traffic.USERS):
        at = (at * 21 + 7) % traffic.USERS
        seen.add(at)
    assert len(seen) == traffic.USERS


def test_every_kind_of_failure_that_wrk_counts_is_a_failure() -> None:
    line = json.dumps(
        {"requests": 14, "duration_us": 2_000_000, "p50_us": 1500, "p99_us": 2500}
        | {"connect": 1, "read": 2, "write": 3, "status": 4, "timeout": 5}
    )
    load = traffic.parse_wrk(f"Running 2s test\n  Latency 1ms\n\n{line}\n")
    assert (load.failed, load.throughput, load.p50_ms, load.p99_ms) == (15, 5.0, 1.5, 2.5)


def test_wrk_without_a_result_is_an_error() -> None:
    with pytest.raises(PeerError, match="unable to connect"):
        traffic.parse_wrk("unable to connect to 127.0.0.1")


def test_a_message_ends_where_its_content_length_says() -> None:
    whole = b"POST /x HTTP/1.1\r\nHost: a\r\ncontent-LENGTH: 3\r\n\r\nabc"
    assert message_length(whole + b"GET") == len(whole)
    assert message_length(whole[:20]) is None
    assert message_length(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest") == len(
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    )
    answer = response("200 OK", b'{"content-length: 99": 1}')
    assert message_length(answer) == len(answer)


def test_a_chunked_message_is_refused_not_guessed() -> None:
    with pytest.raises(ValueError, match="chunked"):
        message_length(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")


def test_percentiles_are_nearest_rank() -> None:
    values = [float(value) for value in range(100)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile([], 0.5)) == (50.0, 99.0, 0.0)


def test_the_median_of_the_rounds_ratios_is_judged() -> None:
    pairs = [(80.0, 100.0), (30.0, 100.0), (300.0, 100.0)]  # ratios 0.8, 0.3, 3.0
    rounds = goals.by_round(
        [
            one
            for n, (ours, envoy) in enumerate(pairs)
            for one in (sample("ours", n, ours), sample("envoy", n, envoy))
        ]
    )
    judged = goals.judge(goal("journal + metrics ÷ Envoy"), rounds)
    assert judged.spread == goals.Spread(0.3, 0.8, 3.0)
    assert judged.verdict is goals.Verdict.MET


def test_a_contender_that_dropped_its_shadows_gets_no_verdict() -> None:
    shares = {"production": 0.9, "canary": 0.1, "shadow": 0.5}
    rounds = goals.by_round([sample("ours", 1, 10.0, shares=shares), sample("envoy", 1, 100.0)])
    assert goals.judge(goal("journal + metrics ÷ Envoy"), rounds).verdict is goals.Verdict.INVALID


def test_one_failed_request_in_any_round_misses_the_goal_of_none() -> None:
    rounds = goals.by_round([sample("ours-crowd", n, 10.0, failed=int(n == 2)) for n in range(5)])
    assert goals.judge(goal("failed requests"), rounds).verdict is goals.Verdict.MISSED


def test_rounds_without_both_cells_do_not_count() -> None:
    rounds = goals.by_round([sample("ours", 1, 10.0), sample("fastapi", 2, 1000.0)])
    assert goals.judge(goal("FastAPI"), rounds).verdict is goals.Verdict.NOT_MEASURED


def test_added_latency_is_not_judged_against_an_envoy_that_added_none() -> None:
    cells = ("direct-paced", "envoy-paced", "ours-paced")
    rounds = goals.by_round([sample(cell, 1, 10.0) for cell in cells])
    assert goals.judge(goal("added p99"), rounds).verdict is goals.Verdict.NOT_MEASURED


def test_every_goal_names_cells_that_exist() -> None:
    known = {cell.name for cell in CELLS}
    assert {name for goal in goals.GOALS for name in goal.cells + goal.shadowed} <= known


def test_a_pattern_that_names_no_cell_is_refused_with_the_known_ones() -> None:
    assert [cell.name for cell in selected("fastapi,ours")] == ["fastapi", "ours"]
    with pytest.raises(PeerError, match="known are direct"):
        selected("apache")


def test_the_page_and_the_chart_show_each_measured_cell() -> None:
    samples = [sample(cell.name, 1, 10.0 if cell.contender else 0.0) for cell in CELLS]
    results = report.Results(
        date="2026-01-01",
        versions=VERSIONS,
        rounds=1,
        seconds=1.0,
        pinned=True,
        load_before=0.1,
        data_plane="compiled",
        paced_rate=100.0,
        failures=["ours, round 1"],
        samples=samples,
    )
    page = report.markdown(results, "benchmarks.svg")
    assert all(f"| {cell.name} |" in page for cell in CELLS)
    drawing = chart.svg(samples)
    assert drawing.count("text-anchor") == len(chart.bars(samples)) == 10
    shown = report.text(results | {"samples": samples[:2]})
    assert "not measured" not in shown
    assert shown.endswith("failed: ours, round 1")


def test_extensions_compiled_from_other_sources_are_never_measured(tmp_path: Path) -> None:
    sources, built = tmp_path / "sources", tmp_path / "built"
    for home in (sources, built):
        (home / "app").mkdir(parents=True)
        (home / "app" / "plane.py").write_text("x = 1\n")
    assert "not compiled" in snapshot.take(tmp_path / "none", sources, built)
    assert snapshot.tree(tmp_path / "none", compiled=True) == tmp_path / "none" / "plain"
    (built / "app" / "plane.cpython-311.so").write_bytes(b"C")
    (built / "abc__mypyc.so").write_bytes(b"C")
    assert snapshot.take(tmp_path / "fresh", sources, built) == ""
    assert {p.name for p in (tmp_path / "fresh" / "compiled").rglob("*.so")} == {
        "plane.cpython-311.so",
        "abc__mypyc.so",
    }
    assert snapshot.tree(tmp_path / "fresh", compiled=False) == tmp_path / "fresh" / "plain"
    (sources / "app" / "plane.py").write_text("x = 2\n")
    assert "older than app/plane.py" in snapshot.take(tmp_path / "stale", sources, built)
    assert not (tmp_path / "stale" / "compiled").exists()
