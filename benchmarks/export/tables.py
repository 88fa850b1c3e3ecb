"""Labelled predictions made inside the database, in a small part of the time that sending them would take.

How they get there is never measured. Rows are as the recorder stores them, and so are the counts of each quarter of an hour, which
the export goes by.
"""

from __future__ import annotations

import asyncio
import sqlite3
from datetime import UTC, datetime, timedelta

import asyncpg

from app.adapters.partitions import partition_name
from app.adapters.rows import id_floor

MODEL = "credit"
SPAN_S = 30 * 86_400
_PERIOD_S = 900
_DEADLINE_S = 3600.0

_COLUMNS = (
    "prediction_id, model, model_version, role, timestamp, features, prediction, confidence, ground_truth, ground_truth_timestamp, "
    "latency_ms, status, routing_key, bucket, canary_percent, flags_revision, forced, propensity, reason, ended"
)
# Row i of n. An id begins with its time in milliseconds; the rest is i.
_SQLITE = f"""
WITH RECURSIVE numbers(i) AS (SELECT :first UNION ALL SELECT i + 1 FROM numbers WHERE i + 1 < :after),
    timed AS (SELECT i, :begin_ms + i * :span_ms / :count AS ms, i * 7919 % 1000 / 1000.0 AS score FROM numbers),
    named AS (SELECT *, printf('%012x', ms) AS h,
        strftime('%Y-%m-%dT%H:%M:%S', ms / 1000, 'unixepoch') || printf('.%03d000Z', ms % 1000) AS at FROM timed)
INSERT INTO predictions ({_COLUMNS})
SELECT substr(h, 1, 8) || '-' || substr(h, 9) || '-7000-8000-' || printf('%012x', i), '{MODEL}', 'v1', 'production', at,
    json_object('age', 20 + i % 60, 'income', i * 31 % 9000, 'region', 'r' || (i % 7)), score, max(score, 1 - score),
    (i * 6151 % 997 < score * 997) * 1.0, at, 12.5, 200, 'user-' || (i % 100000), i % 10000, 0.0, 1, 0, 1.0, 'production', 'complete'
FROM named
"""  # constants
_POSTGRESQL = f"""
INSERT INTO {{table}} ({_COLUMNS})
SELECT left(h, 8) || '-' || right(h, 4) || '-7000-8000-' || lpad(to_hex(i), 12, '0'), '{MODEL}', 'v1', 'production', at,
    jsonb_build_object('age', 20 + i % 60, 'income', i * 31 % 9000, 'region', 'r' || (i % 7)), to_jsonb(score),
    greatest(score, 1 - score), CASE WHEN i * 6151 % 997 < score * 997 THEN '1'::jsonb ELSE '0'::jsonb END, at,
    12.5, 200, 'user-' || (i % 100000), i % 10000, 0, 1, false, 1, 'production', 'complete'
FROM (SELECT i, to_timestamp(ms / 1000.0) AS at, lpad(to_hex(ms), 12, '0') AS h, (i * 7919 % 1000) / 1000.0 AS score
    FROM (SELECT i, $3::bigint + i * $4::bigint / $5::bigint AS ms FROM generate_series($1::bigint, $2::bigint - 1) AS i) AS one) AS two
"""  # constants


def fill(url: str, count: int) -> None:
    """Put `count` labelled predictions of the last thirty days into a migrated store that holds none."""
    begin = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=SPAN_S)
    if url.startswith("sqlite"):
        _fill_sqlite(url.removeprefix("sqlite:///"), count, begin)
    else:
        asyncio.run(_fill_postgresql(url, count, begin))


def _fill_sqlite(file: str, count: int, begin: datetime) -> None:
    connection = sqlite3.connect(file, isolation_level=None)
    try:
        connection.execute("PRAGMA synchronous = OFF")
        fixed = {"begin_ms": int(begin.timestamp() * 1000), "span_ms": SPAN_S * 1000, "count": count}
        step = 500_000  # a transaction
        for first in range(0, count, step):
            connection.execute(_SQLITE, {**fixed, "first": first, "after": min(count, first + step)})
        for period, stored in _periods(count, begin):
            text = period.isoformat(timespec="microseconds")[:-6] + "Z"
            connection.execute(
                "INSERT INTO prediction_counts VALUES (?, 'v1', ?, ?, ?, ?)",
                (MODEL, text, stored, stored, stored),
            )
    finally:
        connection.close()


async def _fill_postgresql(url: str, count: int, begin: datetime) -> None:
    connection = await asyncpg.connect(url, command_timeout=_DEADLINE_S)
    begin_ms, span_ms = int(begin.timestamp() * 1000), SPAN_S * 1000
    try:
        await connection.execute("SET synchronous_commit = off")
        for day in range(begin_ms // 86_400_000, (begin_ms + span_ms) // 86_400_000 + 1):
            # The first row whose milliseconds are not before the day: its number times span / count, rounded down.
            first, after = (
                min(count, max(0, -((begin_ms - one * 86_400_000) * count // span_ms)))
                for one in (day, day + 1)
            )
            name, start = (
                partition_name("predictions", day),
                datetime.fromtimestamp(day * 86_400, UTC),
            )
            await connection.execute(f"CREATE TABLE {name} (LIKE predictions INCLUDING DEFAULTS)")
            await connection.execute(_POSTGRESQL.format(table=name), first, after, begin_ms, span_ms, count)
            bounds = f"FROM ('{id_floor(start)}') TO ('{id_floor(start + timedelta(days=1))}')"
            await connection.execute(f"ALTER TABLE predictions ATTACH PARTITION {name} FOR VALUES {bounds}")
            await connection.execute(f"ANALYZE {name}")
        await connection.executemany(
            "INSERT INTO prediction_counts VALUES ($1, 'v1', $2, $3, $3, $3)",
            [(MODEL, period, stored) for period, stored in _periods(count, begin)],
        )
    finally:
        await connection.close()


def _periods(count: int, begin: datetime) -> list[tuple[datetime, int]]:
    """Each quarter of an hour with the number of rows in it."""
    begin_ms, span_ms, period_ms = int(begin.timestamp() * 1000), SPAN_S * 1000, _PERIOD_S * 1000
    found = []
    for number in range(begin_ms // period_ms, (begin_ms + span_ms) // period_ms + 1):
        first, after = (
            min(count, max(0, -((begin_ms - one * period_ms) * count // span_ms)))
            for one in (number, number + 1)
        )
        if after > first:
            found.append((datetime.fromtimestamp(number * _PERIOD_S, UTC), after - first))
    return found
