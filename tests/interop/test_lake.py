"""Training sets where data teams keep theirs: partitioned files in an object store and on disk, read by DuckDB."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.dataset as ds
import pytest
from pyarrow import fs

from tests.commands.test_dataset import export
from tests.interop.processes import said_by, serving
from tests.ports import free_port
from tests.scripted_api import Reply, scripted_api

pytestmark = pytest.mark.interop

ROWS = 3000


def exported(target: str) -> None:
    """`model-gateway export training-set` into the target, in a process of its own as a user runs it."""
    with scripted_api() as api:
        api.on("GET /admin/models/credit", Reply({"name": "credit", "configuration": {"task": "binary"}}))
        api.on("GET /admin/models/credit/training-set", Reply(export(ROWS)))
        done = subprocess.run(
            [sys.executable, "-m", "app", "export", "training-set", "credit", "-o", target],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env={**os.environ, "GATEWAY_URL": api.url, "GATEWAY_TOKEN": "t"},
        )
    assert done.returncode == 0, done.stderr
    assert f"{ROWS} rows" in done.stderr


def test_duckdb_reads_the_partitions_of_a_training_set(tmp_path: Path) -> None:
    place = tmp_path / "set"
    exported(place.as_uri())
    rows = [json.loads(line) for line in export(ROWS).splitlines()]
    found = said_by("duckdb_reader.py", place, "2026-03-02", environment="lake")
    assert [one["model_version"] for one in found] == ["v 2/b", "v1"]
    for one in found:
        day = [
            row
            for row in rows
            if row["model_version"] == one["model_version"] and row["timestamp"].startswith("2026-03-02")
        ]
        assert (one["rows"], one["weight"], one["prediction"]) == (len(day), len(day) / 2, 0.25)
        assert one["oldest"] == max(
            row["features"]["age"] for row in day if row["features"]["age"] != "unknown"
        )


def test_a_training_set_goes_into_a_bucket_and_is_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    credentials = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    for name, value in credentials.items():
        monkeypatch.setenv(name, value)
    endpoint = f"http://127.0.0.1:{port}"
    with serving(
        ["moto_server", "-p", port], f"{endpoint}/moto-api/", tmp_path, environment="lake", **credentials
    ):
        store = fs.S3FileSystem(
            endpoint_override=f"127.0.0.1:{port}",
            scheme="http",
            region="us-east-1",
            allow_bucket_creation=True,
        )
        store.create_dir("lake")
        where = f"endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
        exported(f"s3://lake/credit/set?{where}")
        manifest = json.loads(store.open_input_stream("lake/credit/set/_manifest.json").read())
        assert manifest["rows"] == ROWS
        read = ds.dataset("lake/credit/set", filesystem=store, partitioning="hive", ignore_prefixes=["_"])
        table = read.to_table(columns=["prediction_id", "model_version", "sample_weight"])
        assert table.num_rows == ROWS
        assert set(table["model_version"].to_pylist()) == {"v1", "v 2/b"}
