"""Reads a partitioned training set with DuckDB: python duckdb_reader.py DIRECTORY DAY."""

from __future__ import annotations

import json
import sys

import duckdb

directory, day = sys.argv[1:]
found = duckdb.sql(
    f"""
    SELECT model_version, count(*) AS rows, sum(sample_weight) AS weight, avg(prediction) AS prediction,
           max("feature.age") AS oldest, CAST(min(timestamp) AS VARCHAR) AS first
    FROM read_parquet('{directory}/**/*.parquet', hive_partitioning = true)
    WHERE day = DATE '{day}'
    GROUP BY model_version ORDER BY model_version
    """
)
print(json.dumps([dict(zip(found.columns, row, strict=True)) for row in found.fetchall()], default=str))
