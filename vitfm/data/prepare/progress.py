"""How far it is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable

import rich.console
import rich.progress
import rich.text

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Examples of a split, of which `kept` are there already; images and megabytes a second, and the time left."""

    def __init__(
        self,
        what: str,
        total: int,
        kept: int = 0,
        console: rich.console.Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._what, self._total, self._clock = what, total, clock
        self._console = console or rich.console.Console(stderr=True)
        self._kept, self._seen, self._bytes = kept, 0, 0
        self._began = self._said = clock()
        self._bar = rich.progress.Progress(*_columns(), console=self._console) if self._console.is_terminal else None
        if self._bar:
            self._task = self._bar.add_task(what, total=total, completed=kept, speed="")
            self._bar.start()

    def seen(self, counts: tuple[int, int]) -> None:
        """So many examples and bytes have been written since the beginning."""
        self._seen, self._bytes = counts
        self._show()

    def close(self) -> None:
        """Leaves the bar as it stands."""
        if self._bar:
            self._bar.stop()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def _speed(self) -> str:
        seconds = max(self._clock() - self._began, 1e-6)
        return f"{self._seen / seconds:,.0f} images/s  {self._bytes / seconds / 1e6:,.1f} MB/s"

    def _show(self) -> None:
        done = min(self._kept + self._seen, self._total)
        if self._bar:
            self._bar.update(self._task, completed=done, speed=self._speed)
        elif self._clock() - self._said >= _SECONDS_BETWEEN_LINES:
            self._said = self._clock()
            left = (self._total - done) * (self._said - self._began) / max(self._seen, 1)
            line = f"{self._what}  {done:,}/{self._total:,}  {self._speed}  {left:,.0f} s left"
            self._console.print(rich.text.Text(line), soft_wrap=True)


def _columns() -> tuple[rich.progress.ProgressColumn, ...]:
    return (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(bar_width=None),
        rich.progress.TextColumn("[bold]{task.completed:,.0f}[/]/{task.total:,.0f}"),
        rich.progress.TextColumn("{task.fields[speed]}"),
        rich.progress.TimeRemainingColumn(compact=True),
    )
