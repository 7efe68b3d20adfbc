"""Pictures of what a masked autoencoder makes of images that it sees in part."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vitfm.evals import base, embeddings
from vitfm.metrics import pictures


def make(*, source: str, prefix: str, count: int = 8, context: base.Context) -> base.Evaluate:
    """A picture of rows: original, what the encoder sees of it where that is less, reconstruction.

    Args:
      source: images.
      prefix: the picture is named `prefix/reconstruction`.
      count: images shown, spread evenly over the set.

    Raises:
      ConfigError: no image is asked for, or the objective reconstructs nothing.
    """
    context.need("reconstruction", "reconstruct")
    chosen = context.spread(source, count)
    batch_size = context.batch_size(len(chosen))

    def evaluate(params: Any) -> Iterator[tuple[str, base.Value]]:
        found = embeddings.of_images(context, params, chosen, batch_size, "reconstruct")
        titles = ("original", "reconstruction") if found.shape[1] == 2 else ("original", "visible", "reconstruction")
        yield f"{prefix}/reconstruction", pictures.image_rows(titles, context.to_pixels(found))

    return evaluate
