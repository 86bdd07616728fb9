"""Output of the demos: progress while they run, and a table at the end."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

Counts = Callable[[], Mapping[str, tuple[int, int | None]]]
"""How much of what there is, and of how much, if that is known."""


@dataclass(frozen=True)
class Check:
    what: str
    expected: int
    found: int

    @property
    def ok(self) -> bool:
        return self.expected == self.found


def table_of_checks(title: str, checks: Iterable[Check]) -> Table:
    table = Table(title=title)
    for column in ("", "expected", "found", ""):
        table.add_column(column, justify="left" if not column else "right")
    for check in checks:
        wrong = "[red]MISSING" if check.found < check.expected else "[red]TOO MANY"
        mark = "[green]ok" if check.ok else wrong
        table.add_row(check.what, str(check.expected), str(check.found), mark)
    return table


def table_of_times(title: str, times: Mapping[str, Iterable[float]]) -> Table:
    """Return a table of medians and 99th percentiles; `times` are seconds."""
    table = Table(title=title)
    for column in ("to", "p50", "p99"):
        table.add_column(column, justify="right" if column != "to" else "left")
    for what, seconds in times.items():
        ordered = sorted(seconds)
        if ordered:
            p99 = ordered[min(len(ordered) - 1, round(len(ordered) * 0.99))]
            p50 = statistics.median(ordered)
            table.add_row(what, f"{p50 * 1000:.0f} ms", f"{p99 * 1000:.0f} ms")
    return table


class Bars:
    """Progress bars on a terminal; otherwise a line every two seconds."""

    def __init__(self, console: Console, counts: Counts) -> None:
        self._counts = counts
        self._console = console
        self._last_line = 0.0
        self._progress = Progress(
            TextColumn("{task.description:26}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._bars = {
            name: self._progress.add_task(name, total=total)
            for name, (_, total) in counts().items()
        }

    def __enter__(self) -> Callable[[], None]:
        self._progress.start()
        return self._show

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def _show(self) -> None:
        counts = self._counts()
        for name, (count, _) in counts.items():
            self._progress.update(self._bars[name], completed=count)
        if self._progress.disable and time.monotonic() - self._last_line > 2:
            self._last_line = time.monotonic()
            line = ", ".join(f"{count} {name}" for name, (count, _) in counts.items())
            self._console.print(line, highlight=False)
