"""Writes one run directory: `metrics.jsonl`, TensorBoard events, pictures, `config.json` and `result.json`."""

from __future__ import annotations

import math
import os
import pathlib
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import cv2
import numpy as np

from vitfm import config as config_lib
from vitfm.metrics import files
from vitfm.metrics.tensorboard import SummaryWriter


class Writer:
    """All that a run writes about itself. A multi-host run makes one on process 0 only.

    `metrics.jsonl` is valid JSON, one object a line, in the order written. JSON has no NaN or infinity: such a value is
    `null` there (the TensorBoard events keep which of them it was).
    """

    def __init__(self, workdir: str | os.PathLike[str], *, step: int | None = None, rows: int | None = None):
        """Opens `workdir`, making it where needed.

        Args:
          workdir: the run's directory.
          step: the step training goes on from; 0 starts afresh. The result, and rows, pictures and events beyond that
            step are dropped, as the run writes them again. None only adds, as an evaluation of a finished run does.
          rows: how many rows to keep of those up to `step`; None keeps them all.
        """
        self.workdir = pathlib.Path(workdir)
        self.workdir.mkdir(parents=True, exist_ok=True)
        _rewind_rows(self.workdir / files.METRICS, step, rows)
        _rewind_pictures(self.workdir / files.PICTURES, step)
        if step is not None:
            (self.workdir / files.RESULT).unlink(missing_ok=True)
        self._rows = open(self.workdir / files.METRICS, "ab")  # noqa: SIM115 - closed by `close`
        self._events = SummaryWriter(
            str(self.workdir),
            purge_step=None if step is None else step + 1,
            # The library names files by the second; a run resumed within one would overwrite its own events.
            filename_suffix=f".{time.time_ns()}",
        )

    def scalars(self, step: int, values: Mapping[str, float], *, examples: int, seconds: float) -> None:
        """Adds one row of numbers.

        Args:
          step: optimizer steps taken.
          values: metrics by slash-separated names ("loss", "test/knn/top1").
          examples: training examples seen.
          seconds: wall-clock seconds of training, over all restarts.
        """
        if clash := [name for name in files.ROW_KEYS if name in values]:
            raise ValueError(f"A metric cannot be called {clash[0]!r}: every row has a {clash[0]!r} of its own.")
        values = {name: float(value) for name, value in values.items()}
        row = {"step": int(step), "examples": int(examples), "seconds": round(float(seconds), 3), **values}
        self._rows.write(files.dumps(row))
        self._rows.flush()
        for name, value in values.items():
            self._events.add_scalar(name, value, int(step))

    def picture(self, step: int, name: str, image: np.ndarray) -> pathlib.Path:
        """Writes `image`, uint8 [H,W,3], to `pictures/<name>_<step>.png`, a slash in the name becoming `__`."""
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
            raise ValueError(f"Picture {name!r} must be uint8 [H,W,3], not {image.dtype} {list(image.shape)}.")
        path = self.workdir / files.PICTURES / files.picture_file(name, int(step))
        encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]
        files.replace(path, encoded.tobytes())
        self._events.add_image(name, image, int(step), dataformats="HWC")
        return path

    def result(self, values: Mapping[str, Any]) -> None:
        """Writes `result.json`, which marks the run as finished. `runs.Run` lists the keys that the report reads."""
        files.replace(self.workdir / files.RESULT, files.dumps(values, indent=2))

    def config(self, values: Mapping[str, Any]) -> None:
        """Writes `config.json`.

        Raises:
          ConfigError: a value is NaN or infinite; a config is read back, so it must not turn into null.
        """
        for key, value in config_lib.flatten(values):
            if any(isinstance(item, float) and not math.isfinite(item) for item in np.ravel(np.array(value, object))):
                raise config_lib.ConfigError(
                    f"config.{key} = {value!r}, which JSON cannot hold. Write a finite number, or None for no limit."
                )
        files.replace(self.workdir / files.CONFIG, files.dumps(values, indent=2))

    def flush(self) -> None:
        """Hands what was written to the operating system."""
        self._rows.flush()
        self._events.flush()

    def close(self) -> None:
        """Flushes and closes the files; further closes do nothing."""
        if not self._rows.closed:
            self._rows.close()
            self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.close()


def _rewind_rows(path: pathlib.Path, step: int | None, count: int | None) -> None:
    """Drops rows beyond `step` or `count` and a torn last line, touching the file only where there is such."""
    if not path.exists():
        return
    rows = [row for row in files.read_rows(path) if step is None or row["step"] <= step]
    content = b"".join(files.dumps(row) for row in rows[:count])
    if content != path.read_bytes():
        files.replace(path, content)


def _rewind_pictures(folder: pathlib.Path, step: int | None) -> None:
    """Drops pictures beyond `step`, so that none outlives the weights it shows."""
    for path in folder.glob("*.png") if step is not None else ():
        named = files.picture_name(path)
        if named and named[1] > step:
            path.unlink()
