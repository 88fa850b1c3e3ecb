"""What commands print: tables for people, JSON for programs. Results go to standard output, all else to standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_WIDTH_OF_A_PIPE = 200  # columns when nobody's terminal says how many it has
_BETWEEN_COLUMNS = 3
_TALLEST_ROW = 10  # lines


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


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], width: int) -> Any:
    """A plain table of at most `width` columns of text, as far as that goes; None shows as a dash. No word is broken, no text is cut:
    what is too long for its column goes on below."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    cells = _cells(rows)
    for column, wide in zip(columns, _widths(columns, cells, width), strict=True):
        made.add_column(column, overflow="fold", width=wide)
    for row in cells:
        made.add_row(*row)
    return made


def show_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table; where the terminal is too narrow for one, each row as lines of its own."""
    shown = console()
    widths = _widths(columns, cells := _cells(rows), shown.width)
    tallest = max(
        (-(-len(text) // wide) for row in cells for text, wide in zip(row, widths, strict=True)), default=1
    )
    if _whole(widths) <= shown.width and tallest <= _TALLEST_ROW:
        shown.print(table(columns, rows, shown.width))
        return
    for number, row in enumerate(rows):
        if number:
            sys.stdout.write("\n")
        show_fields(dict(zip(columns, row, strict=True)))


def _cells(rows: Iterable[Sequence[object]]) -> list[list[str]]:
    return [[cell(value) for value in row] for row in rows]


def _widths(columns: Sequence[str], cells: Sequence[Sequence[str]], width: int) -> list[int]:
    """Of each column: its longest word at least, and what is left shared out among those whose texts are longer."""
    texts = [[name, *column] for name, *column in zip(columns, *cells, strict=True)]
    widths = [max((len(word) for text in column for word in text.split()), default=1) for column in texts]
    wanted = [max(map(len, column)) for column in texts]
    left = width - _whole(widths)
    hungry = sorted(range(len(columns)), key=lambda place: wanted[place] - widths[place])
    for number, place in enumerate(hungry):
        more = max(0, min(wanted[place] - widths[place], left // (len(hungry) - number)))
        widths[place] += more
        left -= more
    return widths


def _whole(widths: Sequence[int]) -> int:
    return sum(widths) + _BETWEEN_COLUMNS * len(widths)


def show_fields(fields: Mapping[str, object]) -> None:
    """A name and a value a line. The terminal breaks long lines itself, so that they are copied whole."""
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
        case None | "":
            return "-"
        # Not written as the pattern {}: that one matches every mapping, whatever is in it.
        case list() | tuple() | Mapping() if not value:
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
