"""Pictures of images with the captions that a model writes for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vitfm.evals import base, embeddings
from vitfm.metrics import pictures


def make(*, source: str, prefix: str, caption: str = "name", count: int = 12, context: base.Context) -> base.Evaluate:
    """A picture of rows: an image, its own caption, and below it what the model says, marked where both are the same.

    Args:
      source: images with captions; those without are left out.
      prefix: the picture is named `prefix/captions`.
      caption: the feature with the caption.
      count: images shown, spread evenly over the set.

    Raises:
      ConfigError: no image is asked for, the objective writes no captions, or there is no such feature.
    """
    context.need("captions", "caption")
    chosen, truth = context.captioned(context.spread(source, count), caption)
    batch_size = context.batch_size(len(chosen))

    def evaluate(params: Any) -> Iterator[tuple[str, base.Value]]:
        rows = embeddings.of_images(context, params, chosen, batch_size, "caption")
        written = [context.decode(row) for row in rows]
        right = [_plain(text) == _plain(own) for text, own in zip(written, truth, strict=True)]
        images = [context.picture(example) for example in chosen]
        picture = pictures.image_to_text_grid(images, [[text] for text in written], [[ok] for ok in right], truth)
        yield f"{prefix}/captions", picture

    return evaluate


def _plain(text: str) -> str:
    """Without what a tokenizer may change."""
    return " ".join(text.lower().split())
