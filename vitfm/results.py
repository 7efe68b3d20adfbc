"""The end of a run: `result.json`, the report and the final table."""

from __future__ import annotations

import importlib.metadata
import pathlib
import platform
import resource
from collections.abc import Mapping
from typing import Any

import jax

import vitfm
from vitfm.metrics import progress, report
from vitfm.metrics.timers import Timers
from vitfm.program import Program


def finish(
    directory: pathlib.Path,
    writer: Any,
    clock: Timers,
    metrics: Mapping[str, float],
    program: Program,
    first: int,
    seconds: float,
) -> dict[str, Any]:
    """Writes `result.json` and `report.html` and prints the final table; process 0 does.

    Args:
      directory: the workdir.
      writer: of the run.
      clock: seconds by phase of this call.
      metrics: the last value of every metric.
      program: what ran.
      first: the step this call began at.
      seconds: wall-clock seconds of the run, over all restarts.

    Returns:
      What `result.json` holds: the metrics by their flat names beside what is known of the run.
    """
    phases = clock.seconds
    trained = (program.total - first) * program.recipe.batch_size
    trained_seconds = phases.get("train", 0) + phases.get("data", 0)
    result = {
        **metrics,
        "step": program.total,
        "examples": program.total * program.recipe.batch_size,
        "seconds": round(seconds, 2),
        "phases": {name: round(value, 2) for name, value in phases.items()},
        "images_per_second": round(trained / trained_seconds, 1) if trained else metrics.get("images_per_second"),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "seed": program.recipe.seed,
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "versions": versions(),
    }
    writer.result(result)
    writer.flush()
    if jax.process_index() == 0:
        with clock("report"):
            report.write(directory)
    show(directory, result)
    return result


def show(directory: pathlib.Path, result: Mapping[str, Any]) -> None:
    """Prints the final table: evaluations, and how long it took; process 0 does."""
    if jax.process_index():
        return
    if not (directory / "report.html").is_file():  # The run was killed while it was written.
        report.write(directory)
    rows = {name: value for name, value in result.items() if name.count("/") > 1}
    rows |= {name: result[name] for name in ("loss", "images_per_second", "seconds") if result.get(name) is not None}
    progress.table(f"{directory} is finished", rows)
    print(f"Report: {directory / 'report.html'}")


def versions() -> dict[str, str]:
    """Of Python and the packages whose numbers decide the numerics."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets")
    found = {name: importlib.metadata.version(name) for name in packages}
    return {"vitfm": vitfm.__version__, "python": platform.python_version(), **found}
