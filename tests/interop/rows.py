"""What the gateway has written down, as SQL users read it."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from tests.system import RunningGateway


def predictions(gateway: RunningGateway, model: str) -> list[dict[str, Any]]:
    """All rows of a model, oldest first, once nothing is pending any more."""
    gateway.settled()
    with sqlite3.connect(f"file:{gateway.directory}/data/gateway.db?mode=ro", uri=True) as database:
        database.row_factory = sqlite3.Row
        found = database.execute("SELECT * FROM predictions WHERE model = ? ORDER BY prediction_id", (model,))
        rows = [dict(row) for row in found]
    for row in rows:
        for name in ("features", "facts"):
            if isinstance(row.get(name), str):
                row[name] = json.loads(row[name])
    return rows
