"""`make faults`: runs every test of `rows` in its long form and writes docs/faults.md: row, procedure, figure, verdict.

A pytest plugin and the command that loads it. A test gives its figure with `record_property("figure", …)`. It must never call a row good of
which nothing ran: a row is only as good as its tests. `make faults ARGS="--row 11"` measures one row anew and leaves the others' lines.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.faults.rows import ROWS, Row

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "faults.md"
_HEAD = """# Faults survived

<!-- Made by `make faults`. The rows and the tests that show each are in tests/faults/rows.py. -->

Real processes over real sockets, loopback only. A figure is what the last run measured on the machine named below, the tests' clients and
servers on the same cores; a verdict is `holds` only if every test of the row ran and passed.

`make faults` runs each test that takes time twice. The short form is that of `make test`, which must not fail because a machine is busy: it
asks for counts, and for orders of magnitude of time. The long form asks for all that the row promises: deadlines within a tenth, the end of
a call within a second, goodput, p99, memory.

Ratios of latencies (rows 6 and 9) are those of `benchmarks/slow_clients.py` and `benchmarks/shadow_faults.py`: the worker has a core of its
own; clients, attackers and model servers run in processes of their own on the others. Each is the median over rounds that take turns. The
long form of row 31 is laid out the same way. Of a client that is slow to read, time counts from the first byte of its answer.

"""


class Report:
    def __init__(self, rows: Sequence[Row] = ROWS) -> None:
        self.rows = rows
        self.outcomes: dict[str, str] = {}
        self.figures: defaultdict[str, list[str]] = defaultdict(list)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        worst = ("passed", "skipped", "failed")
        if report.when == "call" or report.outcome != "passed":
            before = self.outcomes.get(report.nodeid, "passed")
            self.outcomes[report.nodeid] = max(before, report.outcome, key=worst.index)
        if report.when == "call":
            self.figures[report.nodeid] += [str(v) for k, v in report.user_properties if k == "figure"]

    def line(self, row: Row) -> str:
        """The row as Markdown has it."""
        missing = [proof for proof in row.proofs if not any(t.startswith(proof) for t in self.outcomes)]
        tests = [test for test in self.outcomes if test.startswith(row.proofs)]
        counted = Counter(self.outcomes[test] for test in tests)
        if counted["failed"]:
            verdict = "**fails**"
        elif missing or counted["skipped"]:
            verdict = "partly" if counted["passed"] else "not run"
        else:
            verdict = "holds"
        figures = [figure for test in tests for figure in self.figures[test]]
        passed = f"{counted['passed']} of {len(tests)} tests"
        return f"| {row.number} | {row.fault} | {'; '.join([*figures, passed])} | {verdict} |"

    def page(self) -> str:
        machine = f"{os.cpu_count()} cores, {platform.system()} {platform.release().partition('-')[0]}, Python {platform.python_version()}"
        table = ["| row | procedure | figures | verdict |", "|---|---|---|---|", *map(self.line, ROWS)]
        return _HEAD + "\n".join(table) + f"\n\nMachine: {machine}.\n"

    def renewed(self, page: str) -> str:
        """A page on which only these rows' lines are new."""
        lines = {row.number: self.line(row) for row in self.rows}
        numbered = re.compile(r"\| (\d+) \|")
        return "".join(
            lines.get(int(found[1]), line.rstrip("\n")) + "\n" if (found := numbered.match(line)) else line
            for line in page.splitlines(keepends=True)
        )

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if hasattr(session.config, "workerinput"):
            return  # a worker of pytest-xdist sees only its own tests
        some = len(self.rows) < len(ROWS) and PAGE.exists()
        PAGE.write_text(self.renewed(PAGE.read_text("utf-8")) if some else self.page(), "utf-8")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("faults")
        for row in self.rows:
            terminalreporter.write_line(self.line(row))


def main(arguments: list[str]) -> int:
    """All tests of all rows (or of those named by `--row N`), short and long forms, one after the other: they measure."""
    parser = argparse.ArgumentParser(prog="make faults")
    parser.add_argument("--row", type=int, action="append", help="only this row; may be repeated")
    chosen, others = parser.parse_known_args(arguments)
    rows = [row for row in ROWS if chosen.row is None or row.number in chosen.row]
    proofs = {proof for row in rows for proof in row.proofs}
    files = sorted({proof.partition("::")[0] for proof in proofs})
    there = [file for file in files if (ROOT / file).exists()]
    patient = ["--timeout", "3600", "-o", "faulthandler_timeout=4000"]  # long forms take minutes each
    options = ["-m", "not interop and not browser", "-n", "0", *patient, *there, *others]
    return int(pytest.main(options, plugins=[Report(rows)]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
