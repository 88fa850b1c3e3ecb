"""review: the predictions most worth a human label, and the labels given to them."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from app.commands import output
from app.commands.flags import ModelName
from app.commands.gateway import (
    DATA_DIR,
    AsJson,
    DataDir,
    Gateway,
    TokenText,
    Url,
    UsageError,
    listed,
    model_path,
)


def review(
    model: ModelName,
    strategy: Annotated[
        str | None, typer.Option(help="uncertainty, margin, novelty, disagreement or random; several as a,b")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    label: Annotated[
        list[str] | None, typer.Option(metavar="PREDICTION_ID=LABEL", help="Give a label instead of listing")
    ] = None,
    url: Url = None,
    token: TokenText = None,
    data_dir: DataDir = DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """List what is most worth a label, or label it. What is listed is leased to you for a while."""
    labels = [_labelled(text) for text in label or []]
    with Gateway.at(url, token, data_dir) as gateway:
        if labels:
            for prediction_id, value in labels:
                answer = gateway.send("POST", model_path(model, "review", prediction_id), {"label": value})
                output.emit(answer) if as_json else output.say(f"{prediction_id}: {output.cell(value)}")
            return
        answer = gateway.get(model_path(model, "review"), strategy=strategy, limit=limit)
    if as_json:
        output.emit(answer)
        return
    items = listed(answer, "items")
    for name, note in answer.get("notes", {}).items():
        output.say(f"{name}: {note}")
    if not items:
        output.say(f"{model}: nothing waits for a label")
        return
    columns = ("prediction_id", "model_version", "strategy", "score", "prediction", "confidence", "features")
    output.show_table(columns, [[item.get(column) for column in columns] for item in items])


def _labelled(text: str) -> tuple[str, object]:
    """The label as JSON would read it (number, true, false), else as text."""
    prediction_id, found, value = text.rpartition("=")
    if not found or not prediction_id:
        raise UsageError(f"--label {text}: write PREDICTION_ID=LABEL")
    try:
        label = json.loads(value, parse_constant=str)
    except ValueError:
        label = value
    return prediction_id, label if isinstance(label, bool | int | float | str) else value
