"""vitfm: pretrain, evaluate, adapt and export image foundation models in JAX/Flax."""

from __future__ import annotations

import typing

if typing.TYPE_CHECKING:
    from vitfm.run import Run

__version__ = "0.1.0"


def load(path: str, step: int | None = None) -> Run:
    """A trained model and its predict functions: `vitfm.load("runs/clip").embed_image(images)`.

    Args:
      path: a run's workdir.
      step: which checkpoint; the latest when None.
    """
    from vitfm import run  # JAX is imported on use, so that `import vitfm` stays instant.

    return run.load(path, step)
