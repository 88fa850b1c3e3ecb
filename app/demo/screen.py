"""What the reader of the demo sees: chapters and facts printed for good, and below them the traffic as it
is now.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from app.demo.traffic import Traffic

BAR_WIDTH = 40
COLOURS = ("cyan", "green", "magenta", "yellow", "blue")


class Screen:
    """Prints to a terminal or, without the moving part, to anything else."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._traffic: Traffic | None = None
        self._waiting_for = ""
        self._since = time.monotonic()
        self._live = Live(
            console=console,
            get_renderable=self._now,
            refresh_per_second=4,
            transient=True,
            # Output of the story itself goes through `console`; nothing else may write into it.
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> Screen:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.settle()

    def settle(self) -> None:
        """Takes the moving part away."""
        self._live.stop()

    def show_traffic(self, traffic: Traffic) -> None:
        self._traffic = traffic

    def waiting(self, what: str) -> None:
        """Names what the story waits for now."""
        self._waiting_for = what
        self._since = time.monotonic()

    def chapter(self, title: str, explanation: str) -> None:
        self.console.print()
        self.console.rule(f"[bold]{title}", align="left")
        self.console.print(explanation, style="dim")

    def fact(self, text: str) -> None:
        self._line("•", text)

    def good(self, text: str) -> None:
        self._line("[green]✓[/]", text)

    def _line(self, mark: str, text: str) -> None:
        grid = Table.grid(padding=(0, 1))
        grid.add_row(" ", mark, Text(text))
        self.console.print(grid)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        table = Table(title=title, title_justify="left", title_style="bold", padding=(0, 1))
        for number, column in enumerate(columns):
            table.add_column(column, justify="left" if number == 0 else "right")
        for row in rows:
            table.add_row(*row)
        self.console.print(table)

    def _now(self) -> RenderableType:
        waited = time.monotonic() - self._since
        lines: list[RenderableType] = [Text(f"{self._waiting_for} … {waited:.0f} s", style="bold")]
        if self._traffic is not None:
            seen = self._traffic.seen
            lines += [_bar(version, share) for version, share in self._traffic.recent_split().items()]
            lines.append(
                Text(
                    f"{seen.answered} answers, {seen.failed} failed, "
                    f"{self._traffic.outcomes_sent} outcomes handed in",
                    style="red" if seen.failed else "dim",
                )
            )
        return Panel(Group(*lines), title="clients, last 400 answers", title_align="left", border_style="dim")


def _bar(version: str, share: float) -> Text:
    colour = COLOURS[sum(version.encode()) % len(COLOURS)]
    text = Text(f"{version:>4} ")
    text.append("█" * round(share * BAR_WIDTH), style=colour)
    text.append(f" {share:.1%}")
    return text


def shares(split: Mapping[str, float]) -> str:
    """`v1 90.1 %, v2 9.9 %`."""
    return ", ".join(f"{version} {share:.1%}" for version, share in split.items()) or "no answers yet"
