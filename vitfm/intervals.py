"""When a run logs, saves, evaluates and profiles; durations of the recipe as steps, before anything compiles."""

from __future__ import annotations

import dataclasses

from vitfm import config as config_lib
from vitfm.config import ConfigError, Duration
from vitfm.program import Program


@dataclasses.dataclass(frozen=True)
class Every:
    """Due at every multiple of `steps`, where that is not 0, and at the end of the run."""

    steps: int
    total: int

    def due(self, step: int) -> bool:
        return step == self.total or (self.steps > 0 and step % self.steps == 0)


@dataclasses.dataclass(frozen=True)
class Intervals:
    """Of one run.

    Attributes:
      log, save: when a row of metrics and a checkpoint are due.
      keep: how many of the latest checkpoints are kept.
      keep_every: steps between checkpoints that are kept for good; None for none.
      profiled: the steps of a profiler trace, empty for none.
    """

    log: Every
    save: Every
    keep: int
    keep_every: int | None
    profiled: range


def make(p: Program) -> Intervals:
    """The intervals of a recipe.

    Raises:
      ConfigError: a length that makes no sense.
    """
    log = every(p, p.recipe.log_every, "log_every")
    profiled = range(0)
    if p.recipe.profile is not None:
        profiled = config_lib.call(_profiled, p.recipe.profile, where="profile", total=p.total)
    return config_lib.call(_checkpoint, p.recipe.checkpoint, where="checkpoint", p=p, log=log, profiled=profiled)


def every(p: Program, duration: Duration, where: str) -> Every:
    """A duration of the recipe as something that comes due."""
    return Every(p.to_steps(duration, where), p.total)


def _checkpoint(
    *,
    every: Duration = "20%",
    keep: int = 2,
    keep_every: Duration | None = None,
    p: Program,
    log: Every,
    profiled: range,
) -> Intervals:
    """The keys of `config.checkpoint` are the first arguments."""
    for_good = None if keep_every is None else p.to_steps(keep_every, "checkpoint.keep_every")
    for key, value in (("keep", keep), ("keep_every", for_good)):
        if value is not None and value < 1:
            raise ConfigError(f"config.checkpoint.{key} = {value} must be at least 1.")
    return Intervals(log, Every(p.to_steps(every, "checkpoint.every"), p.total), keep, for_good, profiled)


def _profiled(*, start: int = 10, steps: int = 5, total: int) -> range:
    """The keys of `config.profile` are the first arguments."""
    if start < 1 or steps < 1 or start + steps - 1 > total:
        raise ConfigError(f"config.profile: {steps} steps from step {start} on are not within the run's {total}.")
    return range(start, start + steps)
