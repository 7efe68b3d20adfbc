"""What is drawn for an example: by a generator that counts, so that each example has numbers of its own to begin at."""

from __future__ import annotations

import numpy as np


class Draws:
    """(position, attempt) -> a generator, until the next is asked for; for one thread.

    Seeding a generator anew for each example would take ten times as long as most of what is drawn.
    """

    def __init__(self, seed: int):
        self._bits = np.random.Philox(key=seed)
        self._generator = np.random.Generator(self._bits)
        self._start = self._bits.state

    def __call__(self, position: int, attempt: int = 0) -> np.random.Generator:
        """For the example at a position of the stream, or the one that stands for it at an attempt."""
        self._start["state"]["counter"][:] = 0, position, attempt, 0
        self._bits.state = self._start
        return self._generator
