"""Prediction ids: valid UUIDv7, unique, ordered whatever the clock does, and read back exactly."""

from __future__ import annotations

import uuid
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.prediction import PredictionIds, format_id, parse_id, row_id, split_row, unix_ms_of, uuid7

MS = st.integers(0, 2**48 - 1)
NOW = 1_795_392_000_000


@given(MS, st.binary(min_size=10, max_size=16))
def test_a_uuid7_carries_its_time_version_and_variant(unix_ms: int, noise: bytes) -> None:
    made = uuid7(unix_ms, noise)
    assert made.version == 7
    assert made.variant == uuid.RFC_4122
    assert unix_ms_of(made.bytes) == unix_ms


def test_the_example_of_rfc_9562_is_reproduced() -> None:
    # Appendix A.6: unix_ts_ms 0x017F22E279B0, rand_a 0xCC3, rand_b 0x18C4DC0C0C07398F
    tail = 0xCC3 << 62 | 0x18C4DC0C0C07398F
    made = uuid7(0x017F22E279B0, (tail << 6).to_bytes(10, "big"))
    assert str(made) == "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"


@pytest.mark.parametrize(("unix_ms", "noise"), [(-1, bytes(10)), (2**48, bytes(10)), (0, bytes(9))])
def test_a_time_or_noise_that_does_not_fit_is_refused(unix_ms: int, noise: bytes) -> None:
    with pytest.raises(ValueError, match=r"48 bits|random bytes"):
        uuid7(unix_ms, noise)


@given(st.binary(min_size=16, max_size=32), st.lists(MS, min_size=1, max_size=60))
def test_ids_of_a_process_grow_whatever_the_clock_does(seed: bytes, clock: list[int]) -> None:
    ids = PredictionIds(seed)
    made = [ids.next(now) for now in clock]
    assert all(a < b for a, b in pairwise(made))
    for value in made:
        parsed = uuid.UUID(bytes=value)
        assert parsed.version == 7
        assert parsed.variant == uuid.RFC_4122


@given(st.lists(MS, min_size=1, max_size=60))
def test_an_id_has_the_latest_time_the_clock_has_shown(clock: list[int]) -> None:
    ids = PredictionIds(b"sixteen byte seed")
    latest = 0
    for now in clock:
        latest = max(latest, now)
        assert unix_ms_of(ids.next(now)) == latest


def test_a_full_millisecond_borrows_the_next() -> None:
    ids = PredictionIds(bytes(16))
    first = ids.next(NOW)
    ids._tail = 2**74 - 2  # 74 bits nearly used up: not reachable in a test by calling
    second = ids.next(NOW)
    assert second > first
    assert unix_ms_of(second) == NOW + 1
    assert ids.next(NOW) > second


def test_processes_with_other_seeds_never_make_the_same_id() -> None:
    made = {
        ids.next(NOW) for ids in (PredictionIds(i.to_bytes(16, "big")) for i in range(20)) for _ in range(500)
    }
    assert len(made) == 20 * 500


def test_a_seed_too_short_to_tell_processes_apart_is_refused() -> None:
    with pytest.raises(ValueError, match="16"):
        PredictionIds(b"short")


@given(MS, st.binary(min_size=10, max_size=10))
def test_an_id_survives_its_text_in_either_case(unix_ms: int, noise: bytes) -> None:
    made = uuid7(unix_ms, noise)
    assert format_id(made.bytes) == str(made)
    assert parse_id(format_id(made.bytes)) == made.bytes
    assert parse_id(str(made).upper()) == made.bytes


@given(st.text(max_size=40))
def test_text_that_is_no_id_is_refused_and_nothing_else_is_raised(text: str) -> None:
    try:
        value = parse_id(text)
    except ValueError:
        return
    assert format_id(value) == text.lower()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "017f22e2-79b0-4cc3-98c4-dc0c0c07398f",  # version 4
        "017f22e2-79b0-7cc3-18c4-dc0c0c07398f",  # other variant
        "017f22e279b07cc398c4dc0c0c07398f",
        "{017f22e2-79b0-7cc3-98c4-dc0c0c07398f}",
        "017f22e2-79b0-7cc3-98c4-dc0c0c07398f:0",
        "017f22e2_79b0_7cc3_98c4_dc0c0c07398f",
        "017f22e2-79b0-7cc3-98c4-dc0c0c0739 f",
        "017f22e2-79b0-7cc3-98c4- c0c0c073 8f",
        "0l7f22e2-79b0-7cc3-98c4-dc0c0c07398f",
    ],
)
def test_near_misses_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no prediction id"):
        parse_id(text)


@given(st.integers(0, 999_999_999))
def test_a_row_of_an_n_row_body_is_named_and_found(row: int) -> None:
    text = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"
    assert split_row(row_id(text, row)) == (parse_id(text), row)
    assert split_row(text) == (parse_id(text), None)


@pytest.mark.parametrize("row", ["", "-1", "x", "1.5", "²", "٣", " 1", "1:2", "9" * 10])
def test_a_row_that_is_no_number_is_refused(row: str) -> None:
    with pytest.raises(ValueError, match="row"):
        split_row(f"017f22e2-79b0-7cc3-98c4-dc0c0c07398f:{row}")
