"""The review queue goes to Label Studio and comes back as labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.control.label_studio import labels
from app.errors import InvalidError
from tests.control_parts import START, control, prediction, prediction_id, store_rows

REVIEW = "/admin/models/credit/review"


def annotated(task: Any, *given: Any, **annotation: Any) -> dict[str, Any]:
    """As Label Studio exports a task that was labelled with a single choice."""
    result = [
        {"from_name": "label", "to_name": "features", "type": "choices", "value": {"choices": [one]}}
        for one in given
    ]
    return {
        "id": 7,
        "project": 1,
        **task,
        "annotations": [{"result": result, "was_cancelled": False, **annotation}],
    }


async def test_tasks_go_out_and_their_labels_come_back_as_outcomes(tmp_path: Path) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        rows = [prediction(START, n, features={"age": float(n), "city": "Köln"}) for n in range(6)]
        await store_rows(parts.store, rows)
        tasks = (await client.get(REVIEW, params={"format": "label-studio", "limit": 5})).json()
        assert len(tasks) == 5
        assert set(tasks[0]) == {"data"}
        assert tasks[0]["data"]["features"]["city"] == "Köln"
        assert tasks[0]["data"]["propensity"] > 0
        elsewhere = {"data": {"prediction_id": prediction_id(START, 900)}}
        export = [
            annotated(tasks[0], "1"),
            annotated(tasks[1], "0"),
            annotated(tasks[2], "maybe"),
            annotated(tasks[3], "1", was_cancelled=True),
            {**tasks[4], "annotations": []},
            annotated(elsewhere, "1"),
            {"data": {}},
        ]
        taken = (await client.post(REVIEW, json=export)).json()
        assert (taken["accepted"], taken["duplicates"]) == (2, 0)
        reasons = [one["reason"] for one in taken["rejected"]]
        assert len(reasons) == 3
        assert taken["rejected"][0]["prediction_id"] == tasks[2]["data"]["prediction_id"]
        assert "no stored prediction" in reasons[1]
        assert "data.prediction_id is missing" in reasons[2]
        again = (await client.post(REVIEW, json=export[:2])).json()
        assert (again["accepted"], again["duplicates"]) == (0, 2)
        assert parts.writer.records["outcome"] == 2
        refused = await client.post(REVIEW, json={"data": {}})
        assert (refused.status_code, "array of tasks" in refused.json()["detail"]) == (422, True)
        assert (await client.post(REVIEW, content=b"[")).status_code == 422


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([{"choices": ["spam"]}], "spam"),
        ([{"number": 3}], 3.0),
        ([{"rating": 4}], 4.0),
        ([{"text": ["free"]}], "free"),
        ([{"text": "free"}], "free"),
        ([{"x": 1.0, "rectanglelabels": ["car"]}], None),
        ([None], None),
        ([{"choices": ["a", "b"]}], "exactly one"),
        ([{"choices": ["a"]}, {"choices": ["b"]}], "more than one"),
    ],
)
def test_a_label_is_a_choice_a_number_a_rating_or_a_text(values: list[Any], expected: Any) -> None:
    task = {
        "data": {"prediction_id": "p"},
        "annotations": [{"result": [{"value": value} for value in values]}],
    }
    found = list(labels([task]))
    if expected is None:
        assert found == []
    elif isinstance(found[0][1], InvalidError):
        assert expected in str(found[0][1])
    else:
        assert found == [("p", expected)]


def test_annotators_who_disagree_give_no_label() -> None:
    task: Any = {"data": {"prediction_id": "p"}}
    said = [annotated(task, value)["annotations"][0] for value in ("1", "1", "0")]
    assert list(labels([{**task, "annotations": said[:2]}])) == [("p", "1")]
    ((_, fault),) = labels([{**task, "annotations": said}])
    assert "disagree: 0, 1" in str(fault)
