"""What is recorded: predictions of 1 KB with 40 features, as the workers write them, and the same rows ready for `COPY`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from app.adapters.rows import POSTGRES, Values
from app.control.extraction import Extractor
from app.domain.model import Match, Model, Version
from app.domain.policy import JournalPolicy
from app.domain.prediction import PredictionIds
from app.journal.records import PredictionRecord
from app.journal.writer import Writer
from benchmarks.peers.traffic import bodies

MODEL = Model(
    "credit",
    "v1",
    (Version("v1", ("http://127.0.0.1:1",)),),
    match=Match("/credit"),
    task="binary",
)
_ANSWER = b'{"prediction": 0.731, "confidence": 0.912}'


def predictions(count: int, seed: bytes) -> Iterator[PredictionRecord]:
    """Of the last minutes, a hundred microseconds apart. `seed` makes their ids, 16 bytes."""
    ids = PredictionIds(seed)
    requests = [body if isinstance(body, bytes) else body.encode() for body in bodies()]
    begin = time.time_ns() - count * 100_000
    for number in range(count):
        at = begin + number * 100_000
        body = requests[number % len(requests)]
        yield PredictionRecord(
            ids.next(at // 1_000_000), at, "credit", "v1", "production", 200, 12_500, "production", 17, 5.0, 3, "", False,
            f"user-{number % 1000}", None, "POST", "/predict", "application/json", "", len(body), body, "application/json", "",
            len(_ANSWER), _ANSWER, "complete",
        )  # fmt: skip


def write_journal(directory: Path, records: Iterator[PredictionRecord]) -> None:
    """With the writer of a worker."""
    writer = Writer(JournalPolicy(str(directory), max_bytes=64 * 2**30), "w0")
    for record in records:
        writer.append(record, "prediction")
    writer.close()


def rows(records: Iterator[PredictionRecord]) -> list[Values]:
    """As the recorder would give them to `COPY`."""
    extractor = Extractor(lambda: {MODEL.name: MODEL})
    return [POSTGRES.prediction(row) for record in records for row in extractor.prediction(record)]
