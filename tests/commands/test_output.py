"""What people read of an answer: values on one line, and tables that fit their terminal."""

from __future__ import annotations

import pytest

from app.commands import output

ID = "0193f2b4-1111-7abc-8def-0123456789ab"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        ("", "-"),
        ([], "-"),
        ((), "-"),
        ({}, "-"),
        ({"full": 3}, "full 3"),
        ({"full": 3, "torn": 0}, "full 3, torn 0"),
        ({"a": {}, "b": {"c": 1.5}}, "a -, b c 1.5"),
        (["v1", "v2"], "v1, v2"),
        ((1, None), "1, -"),
        (0, "0"),
        (0.0, "0"),
        (False, "no"),
        (True, "yes"),
        (0.0123456, "0.01235"),
        (123456.7, "123457"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
    ],
    ids=repr,
)
def test_a_value_is_read_on_one_line(value: object, shown: str) -> None:
    assert output.cell(value) == shown


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_no_id_is_cut_and_no_line_of_a_table_is_too_long(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output, "_WIDTH_OF_A_PIPE", width)
    columns = ("prediction_id", "model_version", "strategy", "score", "prediction", "confidence", "why")
    reason = "the closest call of all, as 0.5012 is to 0.4988"
    output.show_table(columns, [(ID, "v1", "uncertainty", 0.5, 1, 0.51, reason)] * 2)
    shown = capsys.readouterr().out
    assert shown.count(ID) == 2
    assert "…" not in shown
    for word in (*columns, *reason.split()):
        assert word in shown
    if "─" in shown:
        assert max(map(len, shown.splitlines())) <= width


def test_what_is_too_long_for_its_column_goes_on_below(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output, "_WIDTH_OF_A_PIPE", 80)
    output.show_table(("when", "what", "why"), [(ID, "rollback", "it answers wrongly " * 5)])
    lines = capsys.readouterr().out.splitlines()
    assert sum("answers" in line for line in lines) > 1
    assert sum(ID in line for line in lines) == 1


def test_a_row_that_would_become_a_tower_is_shown_as_fields(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output, "_WIDTH_OF_A_PIPE", 80)
    features = {f"feature {number}": 0.5 for number in range(40)}
    output.show_table(("prediction_id", "features"), [(ID, features), (ID, {})])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"prediction_id  {ID}"
    assert lines[1].endswith("feature 39 0.5")
    assert lines[2:] == ["", f"prediction_id  {ID}", "features       -"]
