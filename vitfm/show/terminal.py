"""What the commands say on a terminal, or in a log file."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import rich.box
import rich.console
import rich.progress
import rich.table
import rich.text

_SECONDS_BETWEEN_LINES = 10.0
_WIDE = 1000  # Columns of a file.
_MARKS = {"serious": ("!", "yellow"), "info": ("·", "dim"), "good": ("✓", "green")}


@contextlib.contextmanager
def progress(what: str, total: int, console: rich.console.Console | None = None) -> Iterator[Callable[[], None]]:
    """A function that says that one of `total` is done: a bar on a terminal, a line each ten seconds elsewhere."""
    console = console or rich.console.Console(stderr=True)
    if console.is_terminal:
        with rich.progress.Progress(*_columns(), console=console, transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda: bar.advance(task)
        return
    done, said = 0, time.monotonic()

    def advance() -> None:
        nonlocal done, said
        done += 1
        if time.monotonic() - said >= _SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            console.print(f"{what} {done:,}/{total:,}", highlight=False)

    yield advance


def _columns() -> Sequence[rich.progress.ProgressColumn]:
    return (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(bar_width=None),
        rich.progress.TextColumn("[bold]{task.completed:,.0f}[/]/{task.total:,.0f}"),
        rich.progress.TimeRemainingColumn(compact=True),
    )


def findings(found: Sequence[Mapping[str, str]], console: rich.console.Console | None = None) -> None:
    """Prints what a page says first, a line each."""
    drawn = rich.table.Table(box=None, show_header=False, pad_edge=False)
    drawn.add_column()
    drawn.add_column(overflow="fold")
    for finding in found:
        mark, style = _MARKS[finding["kind"]]
        line = " ".join(filter(None, (finding["text"], finding.get("command"))))
        drawn.add_row(rich.text.Text(mark, style=style), rich.text.Text(line))
    (console or _console()).print(drawn)


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]], console: rich.console.Console | None = None) -> None:
    """Prints rows under heads; all but the first column are numbers."""
    drawn = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for number, head in enumerate(heads):
        drawn.add_column(head, justify="right" if number else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(rich.text.Text(str(cell)) for cell in row))
    (console or _console()).print(drawn)


def _console() -> rich.console.Console:
    """The output, where paths are not cut in two unless a person's screen is narrow."""
    console = rich.console.Console()
    if not console.is_terminal:
        console.width = _WIDE
    return console
