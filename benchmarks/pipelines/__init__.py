"""Who is measured by `benchmarks.data`: a file each, that makes batches of one folder's images, over and over.

Each is a worker (see `benchmarks.workers`) whose `make(settings)` returns an endless iterator of dicts of uint8 batches
and the versions of what makes them. It answers {"skip": s, "batches": n} with what n batches took after s others. This
file and `tfdata` need the standard library, NumPy and TensorFlow alone, so that another interpreter can run them.

Settings: `root`, a folder of classes; `shards`, the same in tars; `batch`, images in one; `workers`, threads or
processes that read; `processes`, which of the two, where there is a choice; `crops`, "one" of 224 pixels with its image
mirrored half of the time, or "ten", DINO's two of 224 and eight of 96 pixels.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from benchmarks import workers

GLOBAL, LOCAL = 224, 96  # Sides of crops in pixels.
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # Ranges of a crop's area and shape.
VIEWS = {"global": (2, GLOBAL, (0.4, 1.0)), "local": (8, LOCAL, (0.05, 0.4))}  # DINO's: count, side, area.
Batches = Iterator[Mapping[str, Any]]


def serve(make: Callable[[Mapping[str, Any]], tuple[Batches, Mapping[str, str]]]) -> None:
    """A worker's main function."""

    def start(settings: Mapping[str, Any]) -> tuple[dict[str, Any], workers.Answer]:
        batches, versions = make(settings)
        first = {name: [*array.shape, str(array.dtype)] for name, array in next(batches).items()}

        def answer(request: Mapping[str, Any]) -> dict[str, Any]:
            for _ in range(request["skip"]):  # What was read ahead while others had their turns.
                next(batches)
            began, processor = time.perf_counter(), processor_seconds()
            for _ in range(request["batches"]):
                next(batches)
            return {
                "images": request["batches"] * settings["batch"],
                "seconds": time.perf_counter() - began,
                "processor_seconds": processor_seconds() - processor,
                "memory_bytes": memory(),
            }

        return {"versions": dict(versions), "shapes": first}, answer

    workers.serve(start)


def processor_seconds() -> float:
    """Of this process and all that it started."""
    ticks = sum(sum(map(int, fields[11:15])) for fields in _family().values())
    return ticks / os.sysconf("SC_CLK_TCK")


def memory() -> int:
    """Bytes that this process and all that it started hold, what they share counted once."""
    found = 0
    for pid in _family():
        lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        found += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return found


def _family() -> dict[int, list[str]]:
    """Process id -> fields of its `stat` from the state on, of this process and its descendants."""
    fields = {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # It has ended.
            fields[int(path.parent.name)] = path.read_text().rpartition(") ")[2].split()
    family = {os.getpid()}
    while more := {pid for pid, own in fields.items() if int(own[1]) in family} - family:
        family |= more
    return {pid: fields[pid] for pid in family}
