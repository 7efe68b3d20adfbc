"""What a run holds open while it trains."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from vitfm.bad_data import BadData
from vitfm.checkpoint import warm_start
from vitfm.checkpoint.manager import Checkpoints
from vitfm.evals import base as evaluation
from vitfm.intervals import Every, Intervals
from vitfm.metrics import files, progress
from vitfm.metrics.timers import Timers
from vitfm.metrics.window import Window
from vitfm.metrics.writers import Writer
from vitfm.program import Program
from vitfm.train_state import TrainState


class Silent:
    """Stands for writer and progress bar on every process but the first: takes any call, does nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


@dataclasses.dataclass
class Session:
    """What one call of `train` holds open.

    Attributes:
      program: the recipe made into functions.
      intervals: when what is due.
      config: the recipe as it is stored.
      directory: the workdir.
      evaluators: name -> (when, function of the parameters).
      checkpoints: where the state is kept.
      clock: wall-clock seconds by phase.
      trace: the profiler's, while it is open.
      bad: what is known of examples that can't be used.
      writer, bar: what a person sees; silent on all processes but the first.
      start: the parameters of another run that this one begins with, where it has not begun yet.
      teacher: the parameters that its objective's frozen teacher begins with, likewise.
      lineage: what checkpoints record of both.
      first: the step this call goes on from.
      seconds_before: wall-clock seconds of the calls that this one resumes.
      rows: rows of metrics in the workdir.
      logged: the last step that was looked at for a row.
      window: metrics of the steps since the last row.
      latest: the last value of every metric.
      warned: metrics that were told to be out of their range.
    """

    program: Program
    intervals: Intervals
    config: Mapping[str, Any]
    directory: pathlib.Path
    evaluators: Mapping[str, tuple[Every, evaluation.Evaluate]]
    checkpoints: Checkpoints
    clock: Timers
    trace: contextlib.ExitStack
    bad: BadData
    writer: Writer | Silent = dataclasses.field(default_factory=Silent)
    bar: progress.Bar | progress.Lines | Silent = dataclasses.field(default_factory=Silent)
    start: warm_start.Start | None = None
    teacher: warm_start.Start | None = None
    lineage: Mapping[str, Any] | None = None
    first: int = 0
    seconds_before: float = 0.0
    rows: int = 0
    logged: int = 0
    window: Window = dataclasses.field(default_factory=Window)
    latest: dict[str, float] = dataclasses.field(default_factory=dict)
    warned: set[str] = dataclasses.field(default_factory=set)

    @property
    def seconds(self) -> float:
        return self.seconds_before + sum(self.clock.seconds.values())

    def due(self, step: int) -> list[str]:
        """Names of the evaluators that are due at a step."""
        return [name for name, (when, _) in self.evaluators.items() if when.due(step)]

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a row of metrics."""
        self.writer.scalars(step, values, examples=step * self.program.recipe.batch_size, seconds=self.seconds)
        self.latest |= {name: value for name, value in values.items() if not name.startswith(files.WARNING)}
        self.rows += 1

    def settle(self, step: int) -> None:
        """Counts the bad examples up to a step, and tells of new ones."""
        for line in self.bad.settle(step):
            self.bar.note(line)

    def save(self, state: TrainState, step: int) -> None:
        """Saves in the background; the state may be donated as soon as this returns.

        Beside the state stands what a resumed run needs to write the rows that an uninterrupted one would have written.
        """
        meta = {
            "config": dict(self.config),
            "seconds": self.seconds,
            "rows": self.rows,
            "logged": self.logged,
            "window": self.window.stored(),
            "lineage": self.lineage,
            "bad": dict(self.bad.counts),
        }
        self.checkpoints.save(step, state, meta)
