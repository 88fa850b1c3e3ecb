"""What commands print: tables for people, JSON for programs. Results go to standard output, all else to standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_WIDTH_OF_A_PIPE = 200  # columns when nobody's terminal says how many it has


def emit(value: object) -> None:
    """One JSON document on a line of its own."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """A line that is no result: progress, a hint, an error."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def console(*, stderr: bool = False) -> Console:
    """A console that neither cuts text in a pipe nor guesses at colours."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(
        file=stream, highlight=False, markup=False, width=None if stream.isatty() else _WIDTH_OF_A_PIPE
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> Any:
    """A plain table; None shows as a dash."""
    from rich import box
    from rich.table import Table

    made = Table(*columns, title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for row in rows:
        made.add_row(*(cell(value) for value in row))
    return made


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> None:
    console().print(table(columns, rows, title))


def show_fields(fields: Mapping[str, object]) -> None:
    """A name and a value a line."""
    width = max(map(len, fields), default=0)
    for name, value in fields.items():
        sys.stdout.write(f"{name:<{width}}  {cell(value)}\n")


def counted(pieces: Iterator[bytes], what: str) -> Iterator[bytes]:
    """The same pieces; on a terminal that can rewrite a line with one that says how many bytes have come."""
    shown = console(stderr=True)
    if not shown.is_terminal or shown.is_dumb_terminal:
        yield from pieces
        return
    from rich.progress import DownloadColumn, Progress, SpinnerColumn, TextColumn, TransferSpeedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=shown, transient=True) as progress:
        task = progress.add_task(printable(what), total=None)
        for piece in pieces:
            progress.update(task, advance=len(piece))
            yield piece


def cell(value: object) -> str:
    """A value on one line, as a person reads it."""
    match value:
        case None | "" | [] | () | {}:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.4g}" if abs(value) < 1e5 else f"{value:.0f}"
        case list() | tuple():
            return ", ".join(cell(item) for item in value)
        case Mapping():
            return ", ".join(f"{key} {cell(item)}" for key, item in value.items())
    return printable(str(value))


def printable(text: str) -> str:
    """Without characters that could steer a terminal: what clients and models sent is shown here."""
    return "".join(
        character
        if character.isprintable()
        else character.encode("unicode_escape", "replace").decode("ascii")
        for character in text
    )
