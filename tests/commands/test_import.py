"""feedback import: every format, odd rows, gateways that are away, and going on after a break."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.commands.conftest import Run
from tests.scripted_api import Asked, Reply, ScriptedApi

FEEDBACK = "POST /feedback"


def accept(asked: Asked) -> Reply:
    return Reply({"accepted": len(asked.lines), "duplicates": 0, "rejected": []}, 202)


def sent(api: ScriptedApi) -> list[dict[str, object]]:
    return [line for asked in api.asked for line in asked.lines]


@pytest.fixture
def open_api(api: ScriptedApi) -> ScriptedApi:
    api.on(FEEDBACK, accept)
    return api


def test_csv_cells_become_what_they_look_like(run: Run, open_api: ScriptedApi) -> None:
    Path("labels.csv").write_text(
        "\ufeffprediction_id,ground_truth,observed_at,comment\n"
        'a,1,2026-11-01T00:00:00Z,"x, y"\n'
        "b,0.25,,\n"
        "c,TRUE,,\n"
        'd,"spam, or not",,\n'
        "\n"
        "e,-1e3,,\n"
        "f,nan,,\n"
    )
    ran = run("feedback", "import", "labels.csv", "--source", "crm")
    assert ran.status == 0, ran.err
    assert sent(open_api) == [
        {"prediction_id": "a", "ground_truth": 1, "observed_at": "2026-11-01T00:00:00Z", "source": "crm"},
        {"prediction_id": "b", "ground_truth": 0.25, "source": "crm"},
        {"prediction_id": "c", "ground_truth": True, "source": "crm"},
        {"prediction_id": "d", "ground_truth": "spam, or not", "source": "crm"},
        {"prediction_id": "e", "ground_truth": -1000.0, "source": "crm"},
        {"prediction_id": "f", "ground_truth": "nan", "source": "crm"},
    ]
    assert open_api.asked[0].headers["content-type"] == "application/x-ndjson"


def test_labels_that_only_look_like_numbers_can_stay_text(run: Run, open_api: ScriptedApi) -> None:
    Path("labels.csv").write_text("prediction_id,ground_truth\na,007\n")
    run("feedback", "import", "labels.csv", "--labels", "text")
    run("feedback", "import", "labels.csv", "--labels", "number")
    assert [row["ground_truth"] for row in sent(open_api)] == ["007", 7]


def test_columns_of_other_names_and_requests_instead_of_predictions(run: Run, open_api: ScriptedApi) -> None:
    Path("labels.tsv").write_text("rid\tlabel\nr1\tyes\n")
    options = ["--column", "request_id=rid", "--column", "ground_truth=label", "--model", "credit"]
    assert run("feedback", "import", "labels.tsv", *options).status == 0
    assert sent(open_api) == [{"model": "credit", "request_id": "r1", "ground_truth": "yes"}]


def test_ndjson_rows_keep_their_types(run: Run, open_api: ScriptedApi) -> None:
    rows = [
        {"prediction_id": "a", "ground_truth": "7", "extra": [1]},
        {"prediction_id": "b", "ground_truth": False},
    ]
    Path("labels.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    assert run("feedback", "import", "labels.jsonl").status == 0
    assert sent(open_api) == [
        {"prediction_id": "a", "ground_truth": "7"},
        {"prediction_id": "b", "ground_truth": False},
    ]


def test_parquet_columns_become_json(run: Run, open_api: ScriptedApi) -> None:
    moment = datetime.datetime(2026, 11, 1, 12, tzinfo=datetime.UTC)
    table = pa.table(
        {
            "id": ["a", "b"],
            "ground_truth": pa.array([1.5, None], pa.float64()),
            "observed_at": pa.array([moment, moment.replace(tzinfo=None)], pa.timestamp("us", "UTC")),
            "big": ["x" * 100] * 2,
        }
    )
    parquet.write_table(table, "labels.parquet")
    ran = run("feedback", "import", "labels.parquet", "--column", "prediction_id=id", "--json")
    assert ran.status == 1
    assert ran.json["accepted"] == 1
    assert ran.json["examples"] == ["row 2: has no ground_truth"]
    assert sent(open_api) == [
        {"prediction_id": "a", "ground_truth": 1.5, "observed_at": "2026-11-01T12:00:00+00:00"}
    ]


def test_rejected_rows_are_named_by_their_row_and_kept(run: Run, api: ScriptedApi) -> None:
    api.on(
        FEEDBACK,
        Reply({"accepted": 1, "duplicates": 0, "rejected": [{"index": 1, "reason": "no such id"}]}, 202),
    )
    Path("labels.ndjson").write_text(
        '{"prediction_id": "a", "ground_truth": 1}\nnot json\n[]\n{"prediction_id": "z", "ground_truth": 1}\n'
    )
    ran = run("feedback", "import", "labels.ndjson", "--rejects", "bad.ndjson")
    assert ran.status == 1
    assert "row 4: no such id" in ran.err
    kept = [json.loads(line) for line in Path("bad.ndjson").read_text().splitlines()]
    assert [row["row"] for row in kept] == [2, 3, 4]
    assert kept[2] == {"row": 4, "reason": "no such id", "prediction_id": "z", "ground_truth": 1}


def test_a_batch_that_is_all_bad_is_an_answer_not_an_error(run: Run, api: ScriptedApi) -> None:
    body = {
        "detail": "no outcome",
        "accepted": 0,
        "duplicates": 0,
        "rejected": [{"index": 0, "reason": "bad id"}],
    }
    api.on(FEEDBACK, Reply(body, 422))
    Path("labels.csv").write_text("prediction_id,ground_truth\n?,1\n")
    ran = run("feedback", "import", "labels.csv", "--json")
    assert ran.status == 1
    assert ran.json["examples"] == ["row 1: bad id"]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.csv", "", "it is empty"),
        ("a.csv", "id,label\n", "has no column ground_truth; it has id, label"),
        ("a.csv", "id,ground_truth\n", "has no column prediction_id"),
        ("a.csv", "request_id,ground_truth\n", "nor model and request_id"),
        ("a.csv", "prediction_id,prediction_id,ground_truth\n", "names a column twice"),
        ("a.csv", 'prediction_id,ground_truth\n"a"b,1\n', "line 2"),
        ("a.csv", 'prediction_id,ground_truth\n"a,1\n', "line 2"),
        ("a.parquet", "not parquet", "is no parquet file"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_remedy(
    run: Run, open_api: ScriptedApi, name: str, text: str, says: str
) -> None:
    Path(name).write_text(text)
    ran = run("feedback", "import", name)
    assert ran.status == 2
    assert says in ran.err
    assert open_api.asked == []


def test_a_row_with_too_few_cells_is_rejected_alone(run: Run, open_api: ScriptedApi) -> None:
    Path("a.csv").write_text("prediction_id,ground_truth\na,1\nb\nc,1\n")
    ran = run("feedback", "import", "a.csv")
    assert ran.status == 1
    assert "row 2: has 1 columns, the header 2" in ran.err
    assert [row["prediction_id"] for row in sent(open_api)] == ["a", "c"]


def test_a_busy_gateway_is_asked_again(run: Run, api: ScriptedApi) -> None:
    busy = Reply({"detail": "the journal is full"}, 503)
    api.on(FEEDBACK, busy, busy, accept)
    Path("a.csv").write_text("prediction_id,ground_truth\na,1\n")
    ran = run("feedback", "import", "a.csv", "--json")
    assert ran.json["accepted"] == 1
    assert len(api.asked) == 3
    assert ran.err == "the journal is full; trying again for up to 60 s\n"  # once


def test_a_broken_off_import_goes_on_where_it_stopped(run: Run, api: ScriptedApi) -> None:
    rows = 2500
    Path("a.csv").write_text("prediction_id,ground_truth\n" + "".join(f"p{n},1\n" for n in range(rows)))
    api.on(FEEDBACK, accept, accept, Reply({"detail": "draining"}, 503))
    broken = run("feedback", "import", "a.csv", "--patience-s", "0")
    assert broken.status == 1
    assert "2000 rows are in; the same command goes on after them" in broken.err
    api.asked.clear()
    api.on(FEEDBACK, accept)
    ran = run("feedback", "import", "a.csv", "--json")
    assert ran.status == 0
    assert "going on after row 2000" in ran.err
    assert [row["prediction_id"] for row in sent(api)] == [f"p{n}" for n in range(2000, rows)]
    assert (ran.json["rows"], ran.json["accepted"]) == (rows, rows)
    assert sorted(path.name for path in Path().iterdir()) == ["a.csv"]


def test_a_file_that_changed_or_a_restart_begins_at_the_first_row(run: Run, api: ScriptedApi) -> None:
    Path("a.csv").write_text("prediction_id,ground_truth\n" + "".join(f"p{n},1\n" for n in range(1500)))
    api.on(FEEDBACK, accept, Reply({"detail": "draining"}, 503))
    assert run("feedback", "import", "a.csv", "--patience-s", "0").status == 1
    assert Path("a.csv.import").exists()
    with Path("a.csv").open("a") as file:
        file.write("another,1\n")
    api.on(FEEDBACK, accept)
    api.asked.clear()
    assert run("feedback", "import", "a.csv").status == 0
    assert len(sent(api)) == 1501


def test_a_large_file_goes_in_batches(run: Run, open_api: ScriptedApi) -> None:
    Path("a.csv").write_text("prediction_id,ground_truth\n" + "".join(f"p{n},{n % 2}\n" for n in range(5000)))
    assert run("feedback", "import", "a.csv").status == 0
    assert [len(asked.lines) for asked in open_api.asked] == [1000] * 5
