"""Which bucket a latency falls into and which request is a vote: without numpy, and without ever raising."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.evidence.tick import (
    BELOW_10_MS,
    BUCKETS,
    RATIO,
    TOP,
    KeyVotes,
    bucket_floor_ms,
    latency_bucket,
)


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_any_latency_has_a_bucket_of_the_ladder(ms: float) -> None:
    assert 0 <= latency_bucket(ms) < BUCKETS


@given(st.integers(1, TOP))
def test_a_bucket_begins_where_the_one_below_ends(bucket: int) -> None:
    edge = bucket_floor_ms(bucket)
    assert latency_bucket(edge * (1 + 1e-9)) == bucket
    assert latency_bucket(edge * (1 - 1e-9)) == bucket - 1
    assert math.isclose(edge * RATIO, bucket_floor_ms(bucket + 1))


def test_the_ladder_has_81_buckets_from_10_ms_on_and_finer_ones_below() -> None:
    assert BUCKETS - BELOW_10_MS == 81
    assert latency_bucket(10.0 * (1 + 1e-12)) == BELOW_10_MS
    assert latency_bucket(1.0) != latency_bucket(2.0)  # a fast model's latencies are told apart, too
    assert latency_bucket(math.nan) == latency_bucket(math.inf) == TOP


def test_a_key_has_one_vote_an_epoch() -> None:
    votes = KeyVotes(epoch_s=60)
    assert votes.is_first("alice", 600)
    assert not votes.is_first("alice", 659)
    assert votes.is_first("alice", 660)


@pytest.mark.parametrize("keys", [100, 10_000])
def test_few_keys_share_a_vote_by_collision(keys: int) -> None:
    votes = KeyVotes()
    first = sum(votes.is_first(f"key-{i}", 7) for i in range(keys))
    slots = 1 << 16
    expected = slots * (1.0 - (1.0 - 1.0 / slots) ** keys)
    assert abs(first - expected) <= 5.0 * math.sqrt(keys * keys / slots) + 1.0


def test_a_worker_does_not_load_numpy_for_it() -> None:
    code = "import sys, app.domain.evidence.tick; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
