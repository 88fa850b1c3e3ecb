"""feedback import: late outcomes in bulk. Goes on where it stopped; sending an outcome twice changes nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Annotated

import typer

from app.commands import output
from app.commands.gateway import (
    DATA_DIR,
    Answer,
    AsJson,
    DataDir,
    Gateway,
    RefusedError,
    TokenText,
    UnreachableError,
    Url,
    UsageError,
    patiently,
)
from app.commands.outcome_files import FIELDS, KINDS, Reading, Row, kind_of, rows, size_of

commands = typer.Typer(no_args_is_help=True, help="Late outcomes.")

BATCH = 1000
SHOWN = 10


@dataclass(slots=True)
class Progress:
    """How far an import is. Stands in the checkpoint file, so that another run goes on from there."""

    rows: int = 0
    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0
    examples: list[str] = field(default_factory=list)  # of the rejected


@commands.command("import")
def import_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="csv, ndjson or parquet", show_default=False)],
    kind: Annotated[
        str | None, typer.Option("--format", help="csv, ndjson or parquet [default: by its name]")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD=NAME", help=f"Another column's name for a field: {', '.join(FIELDS)}"),
    ] = None,
    model: Annotated[str | None, typer.Option(help="For rows without a model")] = None,
    source: Annotated[str | None, typer.Option(help="For rows without a source")] = None,
    labels: Annotated[str, typer.Option(help="What csv cells hold: auto, text or number")] = "auto",
    rejects: Annotated[
        Path | None, typer.Option(help="Write rejected rows and why to this file (NDJSON)")
    ] = None,
    patience_s: Annotated[
        float, typer.Option(help="How long to try again while the gateway is away", min=0)
    ] = 60.0,
    restart: Annotated[bool, typer.Option("--restart", help="Begin at the first row again")] = False,
    url: Url = None,
    token: TokenText = None,
    data_dir: DataDir = DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Send a file of outcomes. Broken off, the same command goes on. 1 when a row was rejected."""
    kind, reading = kind or kind_of(file), _reading(column or [], model, source, labels)
    if kind not in set(KINDS.values()):
        raise UsageError(f"--format: {kind!r} is not known; use csv, ndjson or parquet")
    try:
        checkpoint = Checkpoint(file, file.stat())
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}; name a readable file") from None
    progress = Progress() if restart else checkpoint.load()
    if progress.rows:
        output.say(f"{file}: going on after row {progress.rows}")
    with (
        Gateway.at(url, token, data_dir) as gateway,
        _rejects(rejects, append=progress.rows > 0) as rejected,
        _bar(file, size_of(file, kind)) as advance,
    ):
        unread = islice(rows(file, kind, reading), progress.rows, None)
        for batch in _batches(unread):
            _send(gateway, batch, progress, rejected, patience_s)
            checkpoint.save(progress)
            advance(batch[-1].place)
    checkpoint.remove()
    _conclude(progress, as_json)


def _conclude(progress: Progress, as_json: bool) -> None:
    if as_json:
        output.emit(asdict(progress))
    else:
        output.show_fields({name: value for name, value in asdict(progress).items() if name != "examples"})
        for example in progress.examples:
            output.say(example)
        if progress.rejected > len(progress.examples):
            output.say(
                f"… and {progress.rejected - len(progress.examples)} more; --rejects FILE keeps them all"
            )
    raise typer.Exit(1 if progress.rejected else 0)


def _reading(columns: list[str], model: str | None, source: str | None, labels: str) -> Reading:
    named: dict[str, str] = {}
    for text in columns:
        outcome_field, found, name = text.partition("=")
        if not found or outcome_field not in FIELDS:
            raise UsageError(f"--column {text}: write FIELD=NAME with a field of {', '.join(FIELDS)}")
        named[outcome_field] = name
    if labels not in ("auto", "text", "number"):
        raise UsageError(f"--labels: {labels!r} is not known; use auto, text or number")
    given = {"model": model, "source": source}
    return Reading(named, {name: value for name, value in given.items() if value is not None}, labels)


def _batches(source: Iterator[Row]) -> Iterator[list[Row]]:
    while batch := list(islice(source, BATCH)):
        yield batch


def _send(
    gateway: Gateway, batch: list[Row], progress: Progress, rejects: IO[str] | None, patience_s: float
) -> None:
    """One batch, repeated while the gateway is away or busy; then counted."""
    good = [row for row in batch if row.fault is None]
    faults = [(row, row.fault) for row in batch if row.fault is not None]
    if good:
        lines = "".join(json.dumps(row.outcome, default=str) + "\n" for row in good).encode(
            "utf-8", "replace"
        )
        try:
            receipt = patiently(lambda: _receipt(gateway, lines), patience_s)
        except UnreachableError as error:
            done = f"{progress.rows} rows are in; the same command goes on after them"
            raise UnreachableError(f"{error} ({done})") from None
        progress.accepted += int(receipt.get("accepted", 0))
        progress.duplicates += int(receipt.get("duplicates", 0))
        refused = receipt.get("rejected", [])
        faults += [(good[int(one["index"])], str(one["reason"])) for one in refused]
    for row, reason in sorted(faults, key=lambda fault: fault[0].number):
        progress.rejected += 1
        if len(progress.examples) < SHOWN:
            progress.examples.append(f"row {row.number}: {output.printable(reason)}")
        if rejects is not None:
            rejects.write(
                json.dumps({"row": row.number, "reason": reason, **row.outcome}, default=str) + "\n"
            )
    if rejects is not None:
        rejects.flush()
    progress.rows = batch[-1].number


def _receipt(gateway: Gateway, lines: bytes) -> Answer:
    try:
        return gateway.post_lines("/feedback", lines)
    except RefusedError as error:
        if error.status == 422 and "rejected" in error.body:  # all of them are bad
            return error.body
        raise


class Checkpoint:
    """A small file beside the imported one. Counts only for the very file it was made for."""

    def __init__(self, file: Path, stat: os.stat_result) -> None:
        self._path = file.with_name(f"{file.name}.import")
        self._of = {"size": stat.st_size, "modified_ns": stat.st_mtime_ns}
        self._warned = False

    def load(self) -> Progress:
        """Nothing done, when there is no checkpoint or the file has changed: what is sent again is known to be the same."""
        try:
            found = json.loads(self._path.read_text())
            return Progress(**found["progress"]) if found["of"] == self._of else Progress()
        except (OSError, ValueError, KeyError, TypeError):
            return Progress()

    def save(self, progress: Progress) -> None:
        temporary = self._path.with_name(f"{self._path.name}.new")
        try:
            temporary.write_text(json.dumps({"of": self._of, "progress": asdict(progress)}))
            temporary.replace(self._path)
        except OSError as error:
            if not self._warned:
                output.say(f"{self._path}: {error.strerror}; an import that breaks off will begin again")
            self._warned = True

    def remove(self) -> None:
        if not self._warned:
            self._path.unlink(missing_ok=True)


def _rejects(path: Path | None, *, append: bool) -> IO[str] | nullcontext[None]:
    if path is None:
        return nullcontext()
    try:
        return path.open("a" if append else "w", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--rejects: {path}: {error.strerror}; name a file that can be written") from None


@contextmanager
def _bar(file: Path, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal, nothing elsewhere."""
    console = output.console(stderr=True)
    if not console.is_terminal:
        yield lambda place: None
        return
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task(output.printable(file.name), total=total)
        yield lambda place: bar.update(task, completed=place)
