"""Wall-clock seconds by phase of a run."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator


class Timers:
    """`with timers("compile"): ...` adds the seconds spent inside to that phase.

    Phases nest, and a second belongs to the innermost only: the outer clock stands still meanwhile, so phases add up to
    the time that passed. For one thread.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self._seconds: dict[str, float] = {}
        self._open: list[str] = []
        self._since = clock()
        self._lap: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Charges the block to `phase`."""
        self._charge()
        self._open.append(phase)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by phase so far, open phases included, in the order in which phases first ran."""
        self._charge()
        return dict(self._seconds)

    def lap(self) -> dict[str, float]:
        """Seconds by phase since the last lap: what one row of metrics covers."""
        now = self.seconds
        lap = {phase: value - self._lap.get(phase, 0.0) for phase, value in now.items()}
        self._lap = now
        return lap

    def _charge(self) -> None:
        """Gives the time since the last charge to the innermost open phase."""
        now = self._clock()
        if self._open:
            phase = self._open[-1]
            self._seconds[phase] = self._seconds.get(phase, 0.0) + now - self._since
        self._since = now


def share(seconds: dict[str, float], phase: str, of: tuple[str, ...]) -> float:
    """The part of phases `of` that `phase` took, from 0 to 1: `share(timers.lap(), "data", of=("data", "train"))`."""
    total = sum(seconds.get(name, 0.0) for name in of)
    return seconds.get(phase, 0.0) / total if total else 0.0
