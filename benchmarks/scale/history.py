"""A month of predictions with their outcomes, made inside PostgreSQL: what the recorder would have left behind, in minutes.

How this gets there is never measured. Rows are as the recorder stores them, but for what updates leave of dead rows. Each day's
partition is filled before it is attached, so that its indexes are built once.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta

import asyncpg

from app.adapters.partitions import partition_name
from app.adapters.rows import id_floor

SPAN = timedelta(days=30)
LABELLED_OF_10 = 6
LABEL_AFTER = "1 hour"
AT_ONCE = 4  # days
_DAY_MS = 86_400_000
_SPAN_MS = SPAN.days * _DAY_MS
_DEADLINE_S = 900.0

# Row i of n. An id begins with its time; what follows is a digest of i. Whether the score was right is drawn from i as well.
_PREDICTIONS = f"""
INSERT INTO {{table}} (prediction_id, model, model_version, role, timestamp, features, prediction, confidence, ground_truth,
    ground_truth_timestamp, latency_ms, status, routing_key, bucket, canary_percent, flags_revision, forced, propensity, reason, ended)
SELECT left(h, 8) || '-' || right(h, 4) || '-7' || substr(r, 1, 3) || '-8' || substr(r, 4, 3) || '-' || substr(r, 7, 12),
    'credit', 'v1', 'production', at, jsonb_build_object('age', 20 + i % 60, 'income', i * 31 % 9000), to_jsonb(score),
    greatest(score, 1 - score), CASE WHEN labelled THEN CASE WHEN i * 6151 % 997 < score * 997 THEN '1'::jsonb ELSE '0'::jsonb END END,
    CASE WHEN labelled THEN at + interval '{LABEL_AFTER}' END, 12.5, 200, 'user-' || i % 100000, i % 10000, 0, 1, false, 1,
    'production', 'complete'
FROM (SELECT i, at, h, md5(i::text) AS r, (i * 7919 % 1000) / 1000.0 AS score,
        i % 10 < {LABELLED_OF_10} AND at < $5::timestamptz - interval '{LABEL_AFTER}' AS labelled
    FROM (SELECT i, to_timestamp(ms / 1000.0) AS at, lpad(to_hex(ms), 12, '0') AS h
        FROM (SELECT i, $3::bigint + i * {_SPAN_MS} / $4::bigint AS ms FROM generate_series($1::bigint, $2::bigint) AS i) AS one
    ) AS two) AS three
"""
_OUTCOMES = """
INSERT INTO outcomes (subject, outcome_id, prediction_id, ground_truth, observed_at, received_at, source, actor, state)
SELECT prediction_id, md5(prediction_id), prediction_id, ground_truth, ground_truth_timestamp, ground_truth_timestamp, 'warehouse',
    'ops', 'joined'
FROM {table} WHERE ground_truth_timestamp IS NOT NULL
"""
_COUNTS = """
INSERT INTO prediction_counts (model, model_version, period, stored, predictions, labelled)
SELECT model, model_version, to_timestamp(floor(extract(epoch FROM timestamp) / 900) * 900), count(*), count(*),
    count(ground_truth_timestamp)
FROM predictions GROUP BY 1, 2, 3
"""


def fill(url: str, count: int) -> float:
    """Put `count` predictions of the last month there; returns seconds. The database has its tables and no partitions."""
    return asyncio.run(_fill(url, count))


async def _fill(url: str, count: int) -> float:
    began = time.perf_counter()
    end = datetime.now(UTC)
    begin_ms = int(end.timestamp() * 1000) - _SPAN_MS

    def rows_before(day: int) -> int:
        return min(count, max(0, -((begin_ms - day * _DAY_MS) * count // _SPAN_MS)))

    async with asyncpg.create_pool(url, min_size=1, max_size=AT_ONCE, command_timeout=_DEADLINE_S) as pool:

        async def make(day: int) -> None:
            name = partition_name("predictions", day)
            start = datetime.fromtimestamp(day * 86_400, UTC)
            bounds = f"FROM ('{id_floor(start)}') TO ('{id_floor(start + timedelta(days=1))}')"
            first, last = rows_before(day), rows_before(day + 1) - 1
            async with pool.acquire() as connection:
                await connection.execute("SET synchronous_commit = off")
                await connection.execute(f"CREATE TABLE {name} (LIKE predictions INCLUDING DEFAULTS)")
                await connection.execute(_PREDICTIONS.format(table=name), first, last, begin_ms, count, end)
                await connection.execute(_OUTCOMES.format(table=name))
                await connection.execute(
                    f"ALTER TABLE predictions ATTACH PARTITION {name} FOR VALUES {bounds}"
                )
                # As autovacuum does it: each partition by itself, never the partitioned table.
                await connection.execute(f"VACUUM (ANALYZE) {name}")

        async with asyncio.TaskGroup() as tasks:
            for day in range(begin_ms // _DAY_MS, int(end.timestamp()) // 86_400 + 1):
                tasks.create_task(make(day))
        for statement in (
            _COUNTS,
            "VACUUM (ANALYZE) outcomes",
            "VACUUM (ANALYZE) prediction_counts",
            "CHECKPOINT",
        ):
            await pool.execute(statement)
        stored = await pool.fetchval("SELECT count(*) FROM predictions")
    if stored != count:
        raise SystemExit(f"{stored} of {count} predictions are there")
    return time.perf_counter() - began
