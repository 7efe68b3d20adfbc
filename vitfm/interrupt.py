"""SIGINT and SIGTERM as a request to save and stop, not as an end in the middle of a step."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType
from typing import Self

import jax
from jax.experimental import multihost_utils


class Interrupted(Exception):
    """A signal asked the run to stop; its state is saved. `exit_code` is the shell's for that signal."""

    def __init__(self, number: int, message: str):
        super().__init__(message)
        self.exit_code = 128 + number


class Signals:
    """While open, the first SIGINT or SIGTERM is only noted; a second one acts as it always does.

    With several processes JAX's preemption service has taken SIGTERM for itself and agrees on the step at which all of
    them stop; SIGINT is passed on to it.
    """

    def __enter__(self) -> Self:
        self._received: int | None = None
        self._several = jax.process_count() > 1
        numbers = (signal.SIGINT,) if self._several else (signal.SIGINT, signal.SIGTERM)
        self._previous = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received = number
        signal.signal(number, self._previous[number])
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)

    def received(self, step: int) -> int | None:
        """The signal's number once one came; with several processes, at the same step in all of them.

        Args:
          step: asked for every step of a run, in order.
        """
        if self._several:
            return (self._received or signal.SIGTERM) if multihost_utils.reached_preemption_sync_point(step) else None
        return self._received
