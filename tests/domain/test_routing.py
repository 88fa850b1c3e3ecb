"""Sticky assignment: what a key gets and why, and that a growing share only moves it towards the canary."""

from __future__ import annotations

import subprocess
import sys
from hashlib import sha256
from itertools import pairwise
from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.routing import NO_BUCKET, Assignment, assign, bucket, canary_share, is_canary

PERCENT = st.floats(0.0, 100.0)


def _assign(
    *,
    production: str = "v1",
    candidate: str | None = "v2",
    canary_percent: float = 5.0,
    canary_enabled: bool = True,
    disabled_versions: tuple[str, ...] = (),
    key: str = "user-1",
    salt: str = "rollout-1",
    forced: str | None = None,
    guard_stopped: bool = False,
    need_bucket: bool = False,
) -> Assignment:
    return assign(
        production=production,
        candidate=candidate,
        canary_percent=canary_percent,
        canary_enabled=canary_enabled,
        disabled_versions=disabled_versions,
        key=key,
        salt=salt,
        forced=forced,
        guard_stopped=guard_stopped,
        need_bucket=need_bucket,
    )


@given(st.text(), st.text())
def test_the_bucket_is_the_first_eight_bytes_of_the_digest(key: str, salt: str) -> None:
    digest = sha256((salt + ":" + key).encode()).hexdigest()
    assert bucket(key, salt) == int(digest[:16], 16) % 10_000


def test_known_buckets_never_change() -> None:
    # sha256sum of "credit:<key>", first 16 digits modulo 10,000. A change moves users of running rollouts.
    assert [bucket(key, "credit") for key in ("user-1", "user-2", "")] == [4480, 3453, 7731]


@given(st.text(st.characters(min_codepoint=0xD7F0, max_codepoint=0xE010)))
def test_a_key_of_undecodable_bytes_still_has_a_bucket(key: str) -> None:
    assert 0 <= bucket(key, "s") < 10_000


def test_keys_spread_evenly_over_the_buckets() -> None:
    n = 20_000
    for percent in (1.0, 5.0, 50.0):
        share = sum(is_canary(bucket(f"user-{i}", "salt"), percent) for i in range(n)) / n
        p = percent / 100
        assert abs(share - p) < 4.5 * sqrt(p * (1 - p) / n)  # 4.5 standard errors


def test_another_salt_picks_other_users() -> None:
    n = 4_000
    first = {i for i in range(n) if is_canary(bucket(str(i), "a"), 10)}
    second = {i for i in range(n) if is_canary(bucket(str(i), "b"), 10)}
    expected = n * 0.1 * 0.1
    assert abs(len(first & second) - expected) < 4.5 * sqrt(expected)


@given(st.integers(0, 9_999), PERCENT, PERCENT)
def test_raising_the_percentage_never_takes_a_key_off_the_canary(place: int, a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert is_canary(place, low) <= is_canary(place, high)


@given(PERCENT)
def test_the_canary_share_is_the_share_of_canary_buckets(percent: float) -> None:
    assert canary_share(percent) == sum(is_canary(b, percent) for b in range(10_000)) / 10_000


def test_the_ends_of_the_scale_are_exact() -> None:
    assert not any(is_canary(b, 0.0) for b in range(10_000))
    assert all(is_canary(b, 100.0) for b in range(10_000))


@pytest.mark.parametrize(
    ("given_", "version", "role", "reason"),
    [
        ({"forced": "v2"}, "v2", "canary", "forced by caller"),
        ({"forced": "v1"}, "v1", "production", "forced by caller"),
        ({"forced": "v2", "disabled_versions": ("v2",)}, "v2", "canary", "forced by caller"),
        ({"forced": "v3", "guard_stopped": True}, "v3", "canary", "forced by caller"),
        ({"candidate": None}, "v1", "production", "no candidate"),
        ({"candidate": "v1"}, "v1", "production", "candidate is production"),
        ({"disabled_versions": ("v2",)}, "v1", "production", "candidate disabled"),
        ({"canary_enabled": False}, "v1", "production", "canary disabled"),
        ({"guard_stopped": True}, "v1", "production", "local guard stop"),
        ({"canary_percent": 0.0}, "v1", "production", "canary at 0 percent"),
        ({"canary_percent": float("nan")}, "v1", "production", "canary at 0 percent"),
    ],
)
def test_each_decision_without_a_draw_names_its_reason(
    given_: dict[str, object], version: str, role: str, reason: str
) -> None:
    made = _assign(**given_)  # type: ignore[arg-type]
    assert (made.version, made.role, made.reason) == (version, role, reason)
    assert made.bucket == NO_BUCKET
    assert made.propensity == 1.0
    asked = _assign(**given_, need_bucket=True)  # type: ignore[arg-type]
    assert asked.bucket == bucket("user-1", "rollout-1")


@given(st.text(max_size=20), st.text(max_size=20), st.floats(0.001, 100.0))
def test_a_drawn_assignment_follows_the_bucket_and_says_so(key: str, salt: str, percent: float) -> None:
    made = _assign(key=key, salt=salt, canary_percent=percent)
    place = bucket(key, salt)
    assert made.bucket == place
    if is_canary(place, percent):
        assert (made.version, made.role) == ("v2", "canary")
        assert made.reason == f"bucket {place} < {percent * 100:g}"
        assert made.propensity == canary_share(percent)
    else:
        assert (made.version, made.role) == ("v1", "production")
        assert made.reason == f"bucket {place} >= {percent * 100:g}"
        assert made.propensity == 1 - canary_share(percent)


def test_a_user_stays_where_he_was_through_the_stages() -> None:
    stages = (5.0, 10.0, 25.0, 50.0, 100.0)
    for i in range(500):
        roles = [_assign(key=f"u{i}", canary_percent=p).role for p in stages]
        assert all(not (a == "canary" and b == "production") for a, b in pairwise(roles))
        assert roles[-1] == "canary"


def test_an_assignment_cannot_be_changed() -> None:
    made = _assign()
    with pytest.raises(AttributeError):
        made.version = "v9"  # type: ignore[misc]


LIGHT = (
    "routing",
    "guard",
    "prediction",
    "recency",
    "retraining",
    "comparison",
    "outcome",
    "review",
    "quantiles",
)


@pytest.mark.parametrize("module", LIGHT)
def test_what_a_proxy_worker_imports_loads_no_numpy(module: str) -> None:
    script = f"import sys, app.domain.{module}; print('numpy' in sys.modules or 'scipy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
