"""Some of the rows that a baseline was made from, kept beside it: what novelty is measured against.

Of an upload the values themselves, without the features that `privacy` drops or hashes. Of a window of stored
predictions only which they are, so that what is erased or expires there is gone here as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import SystemRandom
from typing import Any

from app.control.ports import Row, Store
from app.protocols.redaction import Redaction

ROWS = 2000
VALUES = 400_000  # of all rows together; with many features there are fewer rows
MAX_TEXT = 100


def of_upload(rows: Sequence[Mapping[str, Any]], redaction: Redaction, leave_out: str) -> Row:
    """`leave_out` is no feature."""
    most = max(map(len, rows), default=0)
    chosen = SystemRandom().sample(range(len(rows)), min(ROWS, len(rows), VALUES // max(1, most)))
    return {
        "rows": [
            {
                name: _plain(value)
                for name, value in rows[place].items()
                if name != leave_out and redaction.of_feature(name) is None
            }
            for place in sorted(chosen)
        ]
    }


def of_window(ids: Sequence[str]) -> Row:
    """Of predictions that are stored."""
    return {"predictions": SystemRandom().sample(list(ids), min(ROWS, len(ids)))}


async def read(store: Store, number: int) -> list[Row]:
    """The features of each row that is still there; none for a baseline from before samples were kept."""
    sample = await store.baseline_sample(number) or {}
    if "predictions" not in sample:
        rows: list[Row] = sample.get("rows") or []
        return rows
    stored = await store.offered(sample["predictions"])
    return [row["features"] for row in stored if row["features"]]


def _plain(value: Any) -> float | str | bool | None:
    """Numbers as they are, everything else as a text that is not long."""
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)[:MAX_TEXT]
