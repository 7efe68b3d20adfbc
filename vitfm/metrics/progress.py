"""A run on the terminal: a live bar where there is one, plain lines in a log file."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import rich.box
import rich.console
import rich.progress
import rich.table
import rich.text

from vitfm.metrics import text

_SECONDS_BETWEEN_LINES = 10.0
_STEPS_BETWEEN_LINES = 0.05  # of the whole run


def make(total_steps: int, initial_step: int = 0, console: rich.console.Console | None = None) -> Bar | Lines:
    """The progress of a run of `total_steps` that starts at `initial_step`: a bar on a terminal, else plain lines."""
    console = console or rich.console.Console()
    return (Bar if console.is_terminal else Lines)(total_steps, initial_step, console)


class Bar:
    """A live bar: step, loss, images per second, share of the time spent waiting for data, time left."""

    def __init__(self, total_steps: int, initial_step: int, console: rich.console.Console):
        self._status = _Status()
        self._progress = rich.progress.Progress(
            rich.progress.BarColumn(bar_width=None, complete_style="cyan", finished_style="green"),
            rich.progress.TextColumn("[bold]{task.completed:,.0f}[/]/{task.total:,.0f}"),
            rich.progress.TaskProgressColumn(),
            rich.progress.TextColumn("{task.fields[status]}"),
            rich.progress.TimeRemainingColumn(compact=True),
            console=console,
            expand=True,
        )
        self._task = self._progress.add_task("", total=total_steps, completed=initial_step, status="")
        self._progress.start()

    def update(
        self,
        step: int,
        loss: float | None = None,
        images_per_second: float | None = None,
        data_wait: float | None = None,
    ) -> None:
        """Moves to `step`; a number left out keeps what was last said. `data_wait` is a share, from 0 to 1."""
        status = self._status.update(loss, images_per_second, data_wait)
        self._progress.update(self._task, completed=step, status=status)

    def note(self, line: str) -> None:
        """Prints a line above the bar."""
        self._progress.console.print(rich.text.Text(line))

    def close(self) -> None:
        """Leaves the bar as it stands."""
        self._progress.stop()


class Lines:
    """The same as plain lines: one each 10 seconds or 5% of the run, whichever comes first, and the last."""

    def __init__(
        self,
        total_steps: int,
        initial_step: int,
        console: rich.console.Console,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._status = _Status()
        self._console = console
        self._clock = clock
        self._total = total_steps
        self._step = self._said_step = initial_step
        self._said_time = clock()
        self._first: tuple[int, float] | None = None  # the first update, after which the pace is steady

    def update(
        self,
        step: int,
        loss: float | None = None,
        images_per_second: float | None = None,
        data_wait: float | None = None,
    ) -> None:
        """Moves to `step`; a number left out keeps what was last said. `data_wait` is a share, from 0 to 1."""
        self._status.update(loss, images_per_second, data_wait)
        self._step, now = step, self._clock()
        self._first = self._first or (step, now)
        due = step - self._said_step >= self._total * _STEPS_BETWEEN_LINES
        if due or now - self._said_time >= _SECONDS_BETWEEN_LINES or step >= self._total:
            self._say(now)

    def note(self, line: str) -> None:
        """Prints a line."""
        self._print(line)

    def close(self) -> None:
        """Prints the last step reached, where it was not said yet."""
        if self._step != self._said_step:
            self._say(self._clock())

    def _say(self, now: float) -> None:
        parts = [f"step {self._step:,}/{self._total:,}", str(self._status), self._time_left(now)]
        self._print("  ".join(part for part in parts if part))
        self._said_step, self._said_time = self._step, now

    def _time_left(self, now: float) -> str:
        if self._first is None or self._step in (self._first[0], self._total):
            return ""
        pace = (now - self._first[1]) / (self._step - self._first[0])
        return f"{text.duration(pace * (self._total - self._step))} left"

    def _print(self, line: str) -> None:
        # A log file has no width to wrap at.
        self._console.print(rich.text.Text(line), soft_wrap=True)


class _Status:
    """The numbers beside the bar; each stays until it is said anew."""

    def __init__(self):
        self._parts: dict[str, str] = {}

    def update(self, loss: float | None, images_per_second: float | None, data_wait: float | None) -> str:
        said = {
            "loss": None if loss is None else f"loss {loss:.4g}",
            "speed": None if images_per_second is None else f"{images_per_second:,.0f} images/s",
            "wait": None if data_wait is None else f"{data_wait:.0%} data wait",
        }
        self._parts |= {key: value for key, value in said.items() if value is not None}
        return str(self)

    def __str__(self) -> str:
        return "  ".join(self._parts[key] for key in ("loss", "speed", "wait") if key in self._parts)


def table(title: str, rows: Mapping[str, float | str], console: rich.console.Console | None = None) -> None:
    """Prints names and values: a table on a terminal, aligned lines elsewhere."""
    console = console or rich.console.Console()
    values = {name: text.metric(name, value) for name, value in rows.items()}
    if not console.is_terminal:
        width = max(map(len, values), default=0)
        lines = [title, *(f"  {name:<{width}}  {value}" for name, value in values.items())]
        console.print(rich.text.Text("\n".join(lines)), soft_wrap=True)
        return
    drawn = rich.table.Table(title=title, title_justify="left", box=rich.box.SIMPLE_HEAD, show_header=False)
    drawn.add_column(overflow="fold")
    drawn.add_column(justify="right", style="bold", no_wrap=True)
    for name, value in values.items():
        drawn.add_row(rich.text.Text(name), value)
    console.print(drawn)
