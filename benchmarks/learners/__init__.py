"""Who is measured: a file each, which holds a model, its loss and its optimizer, and takes steps on batches in NumPy.

Each is also a worker for `benchmarks.step`: it builds the learner of `settings["size"]` and answers {"steps": n} with
the milliseconds of n steps (see `benchmarks.workers`). Peers in torch offer `make(size, facts)`, see `peers.worker`.
"""

from __future__ import annotations

import itertools
import resource
import time
from collections.abc import Callable, Mapping
from typing import Any


def timed(step: Callable[[], Any], count: int) -> list[float]:
    """Milliseconds of each of `count` calls."""
    laps = [time.perf_counter()]
    for _ in range(count):
        step()
        laps.append(time.perf_counter())
    return [1e3 * (b - a) for a, b in itertools.pairwise(laps)]


def peak_memory() -> int:
    """Largest resident set of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def answer(step: Callable[[], Any], request: Mapping[str, Any]) -> dict[str, Any]:
    """What a worker of `benchmarks.step` answers: {"steps": n} -> milliseconds of n steps, and the memory so far."""
    return {"milliseconds": timed(step, request["steps"]), "peak_memory_bytes": peak_memory()}
