"""A run directory read back: configuration, curves, results, pictures."""

from __future__ import annotations

import dataclasses
import datetime
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from vitfm.config import UserError
from vitfm.metrics import files

# Numbers of a result that are about the run and not the model.
_NO_METRICS = ("step", "examples", "seconds", "images_per_second", "peak_memory_bytes", "seed")


@dataclasses.dataclass(frozen=True)
class Series:
    """One metric over a run; a value that was not finite is None."""

    steps: list[int] = dataclasses.field(default_factory=list)
    examples: list[int] = dataclasses.field(default_factory=list)
    seconds: list[float] = dataclasses.field(default_factory=list)
    values: list[float | None] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Picture:
    """The latest picture of one name."""

    name: str
    step: int
    path: pathlib.Path


@dataclasses.dataclass(frozen=True)
class Run:
    """What one run directory holds.

    `result` is `result.json`, empty before the run's end; the keys read from it, all of them optional, are `step`,
    `examples`, `seconds`, `images_per_second`, `device` (text), `versions` (name -> text) and `phases` (name ->
    seconds). Any other number in it is the final value of the metric of that name.
    """

    name: str
    config: Mapping[str, Any]
    result: Mapping[str, Any]
    series: Mapping[str, Series]
    warnings: Mapping[str, Series]  # of the metrics that were outside of their range, where they were
    last: Mapping[str, Any]  # the last row's step, examples and seconds
    written: datetime.datetime | None  # when the last row was
    pictures: list[Picture]

    @property
    def finished(self) -> bool:
        """Whether a result stands, and the run did not go on beyond it."""
        return bool(self.result) and self.result.get("step", self.last["step"]) >= self.last["step"]

    @property
    def final(self) -> dict[str, float | None]:
        """The final value of every metric: the result's where it has one, else the last that was written."""
        last = {name: series.values[-1] for name, series in self.series.items()}
        metrics = {k: v for k, v in self.result.items() if k not in _NO_METRICS and isinstance(v, int | float)}
        return last | metrics

    def total(self, key: str) -> Any:
        """`step`, `examples` or `seconds` at the end, or so far."""
        return self.result.get(key, self.last[key]) if self.finished else self.last[key]


def load(workdir: str | os.PathLike[str]) -> Run:
    """Reads a run directory, finished or not.

    Raises:
      UserError: nothing there was written by a run, or a file is broken.
    """
    workdir = pathlib.Path(workdir).resolve()
    metrics = workdir / files.METRICS
    config = files.read_json(workdir / files.CONFIG)
    if config is None and not metrics.exists():
        raise UserError(f"{workdir} is no run directory: it holds neither {files.CONFIG} nor {files.METRICS}.")
    series, last = _series(metrics)
    told = {name: one for name, one in series.items() if name.startswith(files.WARNING)}
    return Run(
        name=workdir.name,
        config=config or {},
        result=files.read_json(workdir / files.RESULT) or {},
        series={name: one for name, one in series.items() if name not in told},
        warnings={name.removeprefix(files.WARNING): one for name, one in told.items()},
        last=last,
        written=datetime.datetime.fromtimestamp(metrics.stat().st_mtime, datetime.UTC) if metrics.exists() else None,
        pictures=_pictures(workdir / files.PICTURES),
    )


def is_evaluation(name: str) -> bool:
    """Whether a metric comes from an evaluation: `split/evaluator/metric` does, `loss` and `optim/grad_norm` do not."""
    return name.count("/") >= 2


def split(name: str) -> tuple[str, str, str]:
    """An evaluation's name as (split, evaluator, metric): its first part, what lies between, its last part."""
    first, *middle, last = name.split("/")
    return first, "/".join(middle), last


def _series(path: pathlib.Path) -> tuple[dict[str, Series], dict[str, Any]]:
    """Every metric of `path` in the order in which names first appear, and where the last row stands.

    By step: what is measured of an earlier checkpoint after training is added at the end.
    """
    series: dict[str, Series] = {}
    last = {"step": 0, "examples": 0, "seconds": 0.0}
    for row in sorted(files.read_rows(path), key=lambda row: row.get("step", 0)):
        last = {key: row.get(key, 0) for key in last}
        for name, value in row.items():
            if name not in last:
                one = series.setdefault(name, Series())
                one.steps.append(last["step"])
                one.examples.append(last["examples"])
                one.seconds.append(last["seconds"])
                one.values.append(value)
    return series, last


def _pictures(folder: pathlib.Path) -> list[Picture]:
    """The latest picture of each name, by name."""
    latest: dict[str, Picture] = {}
    for path in folder.glob("*.png"):
        named = files.picture_name(path)
        if named and (named[0] not in latest or named[1] > latest[named[0]].step):
            latest[named[0]] = Picture(*named, path)
    return [latest[name] for name in sorted(latest)]
