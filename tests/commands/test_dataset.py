"""Training sets as partitioned data sets: read back by pyarrow as other tools read them, whole or not there."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest

from app.commands import dataset, output
from tests.commands.conftest import Run
from tests.scripted_api import Reply, ScriptedApi

START = datetime(2026, 3, 1, 22, 0, tzinfo=UTC)


def export(rows: int) -> bytes:
    """As the gateway streams it: oldest first, two versions, a text that looks like several lines."""
    lines: list[dict[str, Any]] = []
    for number in range(rows):
        at = START + timedelta(hours=6 * number / rows)
        lines.append(
            {
                "prediction_id": f"p{number}",
                "model_version": "v1" if number % 3 else "v 2/b",
                "timestamp": at.isoformat(),
                "prediction": 0.25,
                "confidence": 0.75,
                "ground_truth": number % 2 == 0,
                "ground_truth_timestamp": (at + timedelta(days=1)).isoformat(),
                "propensity": 1.0,
                "review_propensity": None,
                "latency_ms": 3.0,
                "features": {"age": 30 + number, "note": "one\u2028two\x85three", "odd": None},
                "age_days": 1.0,
                "sample_weight": 0.5,
            }
        )
    lines[-1]["features"] = {"age": "unknown"}
    return b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines)


def serve(api: ScriptedApi, reply: Reply) -> None:
    api.on("GET /admin/models/credit", Reply({"name": "credit", "configuration": {"task": "binary"}}))
    api.on("GET /admin/models/credit/training-set", reply)


def test_a_data_set_is_partitioned_by_day_and_version_with_a_manifest(
    run: Run, api: ScriptedApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "BATCH", 100)  # several batches in one file
    content = export(1000)
    serve(api, Reply(content, headers={"X-As-Of": "2026-03-05T00:00:00+00:00"}))
    place = tmp_path / "set"
    ran = run("export", "training-set", "credit", "-o", place.as_uri(), "--half-life-days", "30", "--json")
    assert ran.status == 0, ran.err
    manifest = json.loads((place / "_manifest.json").read_text())
    assert manifest == ran.json
    assert manifest["rows"] == 1000
    assert manifest["sha256"] == hashlib.sha256(content).hexdigest()
    assert manifest["query"]["as_of"] == "2026-03-05T00:00:00+00:00"
    assert manifest["query"]["half_life_days"] == 30
    assert manifest["sample_weight"] == {"min": 0.5, "max": 0.5, "sum": 500.0}
    assert {file["path"] for file in manifest["files"]} == {
        f"day=2026-03-0{day}/model_version={version}/part-0.parquet"
        for day in (1, 2)
        for version in ("v1", "v%202%2Fb")
    }
    table = ds.dataset(str(place), partitioning="hive", ignore_prefixes=["_"]).to_table()
    rows = {row["prediction_id"]: row for row in table.to_pylist()}
    assert len(rows) == 1000
    assert {row["model_version"] for row in rows.values()} == {"v1", "v 2/b"}
    assert (rows["p7"]["feature.age"], rows["p7"]["feature.note"]) == (37.0, "one\u2028two\x85three")
    assert (rows["p7"]["ground_truth"], rows["p7"]["timestamp"]) == (0.0, START + timedelta(hours=0.042))
    assert json.loads(rows["p999"]["more_features"]) == {"age": "unknown"}


def test_a_data_set_that_breaks_off_is_taken_away(run: Run, api: ScriptedApi, tmp_path: Path) -> None:
    serve(api, Reply(export(1000), cut_after=150_000))
    place = tmp_path / "set"
    ran = run("export", "training-set", "credit", "-o", place.as_uri())
    assert ran.status != 0
    assert [path for path in place.rglob("*") if path.is_file()] == []


def test_an_empty_training_set_is_a_manifest_that_says_so(run: Run, api: ScriptedApi, tmp_path: Path) -> None:
    serve(api, Reply(b""))
    place = tmp_path / "set"
    assert run("export", "training-set", "credit", "-o", place.as_uri()).status == 0
    assert json.loads((place / "_manifest.json").read_text())["rows"] == 0


@pytest.mark.parametrize("target", ["ftp://somewhere/else", "nonsense://x", "s3://"])
def test_a_place_that_no_file_system_is_known_for_is_refused(run: Run, api: ScriptedApi, target: str) -> None:
    serve(api, Reply(b""))
    ran = run("export", "training-set", "credit", "-o", target)
    assert ran.status == 2
    assert "--output" in ran.err


def test_a_place_that_is_taken_and_another_format_are_refused(
    run: Run, api: ScriptedApi, tmp_path: Path
) -> None:
    serve(api, Reply(export(3)))
    place = tmp_path / "set"
    place.mkdir()
    (place / "mine").write_text("kept")
    ran = run("export", "training-set", "credit", "-o", place.as_uri())
    assert (ran.status, "files already" in ran.err) == (2, True)
    assert (place / "mine").read_text() == "kept"
    assert run("export", "training-set", "credit", "-o", "file:///x", "--format", "csv").status == 2


def test_pieces_are_counted_on_a_terminal_and_come_through_unchanged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pieces = [b"a" * 1000, b"", b"b" * 500]
    assert list(output.counted(iter(pieces), "set.parquet")) == pieces
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    assert list(output.counted(iter(pieces), "set.parquet")) == pieces
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("TERM", "xterm")
    assert list(output.counted(iter(pieces), "set.parquet")) == pieces
    assert "1.5" in capsys.readouterr().err
