"""The report says of a row what its tests said, and nothing better."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.report import Report
from tests.faults.rows import ROWS, Row

ROW = Row(1, "A fault", ("tests/a.py::test_one", "tests/b.py"))


def report(**outcomes: str) -> Report:
    made = Report()
    made.outcomes = {
        name.replace("__", "/").replace("_py", ".py::test_one"): o for name, o in outcomes.items()
    }
    return made


@pytest.mark.parametrize(
    ("outcomes", "verdict"),
    [
        ({}, "not run"),
        ({"tests__a_py": "passed"}, "partly"),
        ({"tests__a_py": "passed", "tests__b_py": "passed"}, "holds"),
        ({"tests__a_py": "passed", "tests__b_py": "skipped"}, "partly"),
        ({"tests__a_py": "passed", "tests__b_py": "failed"}, "**fails**"),
    ],
)
def test_a_row_is_as_good_as_its_tests(outcomes: dict[str, str], verdict: str) -> None:
    assert report(**outcomes).line(ROW).endswith(f"| {verdict} |")


def test_a_row_that_is_measured_anew_leaves_the_others_lines() -> None:
    made = Report([Row(2, "Another", ("tests/a.py",))])
    made.outcomes = {"tests/a.py::test_one": "passed"}
    page = "# Faults\n\n| row |\n|---|\n| 1 | A | old | holds |\n| 2 | B | old | **fails** |\n| 22 | C | old | holds |\n"
    assert made.renewed(page) == page.replace(
        "| 2 | B | old | **fails** |", "| 2 | Another | 1 of 1 tests | holds |"
    )


def test_there_is_a_row_for_each_fault() -> None:
    assert [row.number for row in ROWS] == list(range(1, 34))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row.number))
def test_each_proof_names_a_test_of_its_file(row: Row) -> None:
    """A file that is not there yet leaves its row at `not run` in the report."""
    for proof in row.proofs:
        file, _, name = proof.partition("::")
        path = Path(__file__).parents[2] / file
        assert path.is_dir() or not path.exists() or f"def {name}" in path.read_text(), proof
