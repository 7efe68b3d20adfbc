"""Who is measured: a file each, which holds a model, its loss and its optimizer, and takes steps on batches in NumPy.

Each is also a worker for `benchmarks.step`: `start(settings)` builds the learner of `settings["size"]` and returns the
function that answers {"steps": n} with the milliseconds of n steps (see `benchmarks.workers`).
"""

from __future__ import annotations

import itertools
import resource
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vitfm import heap


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


def in_torch(
    torch: Any,
    make: Callable[[Mapping[str, Any]], Any],
    settings: Mapping[str, Any],
    versions: Mapping[str, str],
) -> tuple[dict[str, Any], Callable[[Mapping[str, Any]], Mapping[str, Any]]]:
    """A worker of `benchmarks.step` that learns in torch, from the batch in the file `settings["batch"]`.

    Args:
      torch: the module.
      make: facts about the data -> a learner with `model` and `step(batch)`.
      settings: of the worker.
      versions: of what decides its speed beside torch.
    """
    heap.keep()  # torch's temporaries gain from it too: the peer gets what vitfm.main gives itself.
    torch.set_num_threads(settings["cores"])
    batch = dict(np.load(settings["batch"]))
    learner = make(settings["facts"])
    step = lambda: learner.step(batch)
    first = sum(timed(step, 1)) / 1e3
    greeting = {
        "parameters": sum(parameter.numel() for parameter in learner.model.parameters()),
        "first_step_seconds": first,
        "versions": {"torch": torch.__version__, **versions},
    }
    return greeting, lambda request: answer(step, request)
