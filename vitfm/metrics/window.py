"""Means of the metrics of several steps, read from the devices late."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax


class Window:
    """Metrics of the steps since the last row.

    What a step returns stays on the devices until `read`, so that the host need not wait for the steps in flight. Sums
    are kept and not means, so that a window that was stored goes on to exactly the means it would have had.
    """

    def __init__(self, sums: Mapping[str, float] = {}, count: int = 0):
        self._sums = dict(sums)
        self._count = count
        self._waiting: list[tuple[int, Mapping[str, Any]]] = []

    def add(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Adds what a step returned: scalars on the device or the host, `healthy` among them."""
        self._waiting.append((step, metrics))

    def read(self, until: int) -> bool:
        """Fetches the steps up to `until`, waiting for them; False at the first unhealthy one, which is left out."""
        ready = [metrics for step, metrics in self._waiting if step <= until]
        self._waiting = self._waiting[len(ready) :]
        for metrics in jax.device_get(ready):
            if not metrics["healthy"]:
                return False
            for name, value in metrics.items():
                self._sums[name] = self._sums.get(name, 0.0) + float(value)
            self._count += 1
        return True

    def take(self) -> dict[str, float]:
        """The means over the steps read since the last call."""
        means = {name: total / self._count for name, total in self._sums.items() if name != "healthy"}
        self._sums, self._count = {}, 0
        return means

    def stored(self) -> dict[str, Any]:
        """What was read since `take`, for a checkpoint: the arguments of a window that goes on from here."""
        return {"sums": self._sums, "count": self._count}
