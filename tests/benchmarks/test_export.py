"""The export benchmark in short: rows made inside the store are rows like the recorder's, and exporting more of them takes no
more memory.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from app.adapters.stores import open_store
from app.control.training_set import TrainingQuery, export, manifest
from app.domain.model import Model, Version
from benchmarks.export.tables import MODEL, fill
from tests.control_parts import tables
from tests.system import ROOT

CREDIT = Model(MODEL, "v1", (Version("v1", ("http://127.0.0.1:9",)),), task="binary")
# Prints the resident memory (kB) of a process of its own after each piece of an export.
EXPORTING = """
import asyncio, json, sys
from datetime import UTC, datetime
from pathlib import Path
from app.adapters.stores import open_store
from app.control import training_set
from app.control.training_set import TrainingQuery, export
from tests.benchmarks.test_export import CREDIT

training_set.ROW_GROUP = 10_000

def resident():
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))

async def main():
    store, seen, bytes_out = await open_store(sys.argv[1]), [], 0
    async for piece in export(TrainingQuery(CREDIT, format="parquet"), store, datetime.now(UTC)):
        seen.append(resident())
        bytes_out += len(piece)
    await store.close()
    print(json.dumps([seen, bytes_out]))

asyncio.run(main())
"""


def test_more_rows_take_no_more_memory(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/gateway.db"
    (tmp_path / "gateway.db").write_bytes(tables())
    fill(url, 100_000)
    done = subprocess.run(
        [sys.executable, "-c", EXPORTING, url],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    seen, bytes_out = json.loads(done.stdout)
    assert len(seen) >= 10
    assert bytes_out > 1_000_000
    # A row group (of 10,000 here) is held until it is written; by the second the process has grown to about its size, give or take what
    # the allocators keep (up to 35 MB were seen). The 80,000 rows after that would take more than 100 MB if they were kept.
    assert max(seen) - seen[1] < 60_000, seen


@pytest.fixture(params=["sqlite", "postgresql"])
def filled(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        (tmp_path / "gateway.db").write_bytes(tables())
        url = f"sqlite:///{tmp_path}/gateway.db"
    else:
        url = str(request.getfixturevalue("postgres_url"))
    fill(url, 3_000)
    return url


def test_every_row_that_was_made_is_exported_once(filled: str) -> None:
    async def exported() -> tuple[list[Any], Any]:
        store = await open_store(filled)
        now = datetime.now(UTC)
        pieces = [piece async for piece in export(TrainingQuery(CREDIT, format="ndjson"), store, now)]
        said = await manifest(TrainingQuery(CREDIT), store, now)
        await store.close()
        return [json.loads(line) for line in b"".join(pieces).splitlines()], said

    rows, said = asyncio.run(exported())
    assert said["rows"] == len(rows) == len({row["prediction_id"] for row in rows}) == 3_000
    assert {row["ground_truth"] for row in rows} == {0.0, 1.0}
    assert rows[0]["features"] == {"age": 20, "income": 0, "region": "r0"}
    assert [row["timestamp"] for row in rows] == sorted(row["timestamp"] for row in rows)
