"""Pictures of what a masked autoencoder makes of images that it sees in part."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from vitfm.config import ConfigError
from vitfm.evals import base
from vitfm.metrics import pictures


def make(*, source: str, prefix: str, count: int = 8, context: base.Context) -> base.Evaluate:
    """A picture of rows: original, what the encoder sees of it, reconstruction.

    Args:
      source: images.
      prefix: the picture is named `prefix/reconstruction`.
      count: images shown, spread evenly over the set.

    Raises:
      ConfigError: no image is asked for, or the objective reconstructs nothing.
    """
    context.need("reconstruction", "reconstruct")
    if count < 1:
        raise ConfigError(f"config.{context.where}.count = {count} must be at least 1.")
    images = context.open_source(source)
    chosen = base.Chosen(images, np.linspace(0, len(images) - 1, min(count, len(images))).astype(int).tolist())
    batch_size = context.batch_size(len(chosen))

    def evaluate(params: Any) -> Iterator[tuple[str, base.Value]]:
        (batch,) = context.batches(chosen, batch_size)
        found = np.asarray(context.predict["reconstruct"](params, batch["image"]))[: len(chosen)]
        titles = ("original", "visible", "reconstruction")
        yield f"{prefix}/reconstruction", pictures.image_rows(titles, context.to_pixels(found))

    return evaluate
