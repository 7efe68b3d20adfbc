"""A CLIP in whose second process the ground opens: `objective.name = "tests.dying"`, for tests."""

from __future__ import annotations

import os
import signal
from typing import Any

import jax

from vitfm.objectives import base, clip


def make(**options: Any) -> base.Objective:
    """CLIP, but process 1 is killed as soon as it knows which one it is."""
    if jax.process_index() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return clip.make(**options)
