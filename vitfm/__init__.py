"""vitfm: pretrain, evaluate, adapt and export image foundation models in JAX/Flax."""

from __future__ import annotations

import typing
from collections.abc import Sequence

if typing.TYPE_CHECKING:
    from vitfm.run import Run

__version__ = "0.1.0"


def load(
    path: str,
    step: int | None = None,
    *,
    bands: Sequence[int | None] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Run:
    """A trained model and its predict functions: `vitfm.load("runs/clip").embed_image(images)`.

    Args:
      path: a run's workdir; a folder of transformers, timm or open_clip; a `.npz` file of big_vision.
      step: which checkpoint of a run; the latest when None.
      bands: of another library's model, for images of other channels: which of its channels each stands for, None for
        the mean of all; (0, 1, 2, None) is RGB and one more.
      mean, std: of these, for values in [0, 1]; those of the channels they stand for when None.
    """
    from vitfm import run  # JAX is imported on use, so that `import vitfm` stays instant.

    return run.load(path, step, bands=bands, mean=mean, std=std)
