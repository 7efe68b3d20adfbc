"""Pictures of what the last block looks at, as in DINO (Caron et al. 2021, arXiv:2104.14294)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from vitfm.evals import base, embeddings
from vitfm.metrics import attention_maps, pictures
from vitfm.ranges import Range

_HEALTHY = Range(
    "heads that look at one patch each, 0, or at all patches alike, 1, tell nothing of an image",
    least=0.01,
    most=0.99,
)


def make(*, source: str, prefix: str, count: int = 8, context: base.Context) -> base.Evaluate:
    """A picture of rows: the image, the mean of the heads' attention over it, and each head's; and `entropy`.

    Drawn is where the class token looks, or, where none is pooled, the patches do on average. The entropy is `evenness`
    of each such query, watched: within 0.01 of either end the loop warns.

    Args:
      source: images.
      prefix: the picture is named `prefix/attention`.
      count: images shown, spread evenly over the set.

    Raises:
      ConfigError: no image is asked for, or the encoder is no ViT whose blocks see the whole image.
    """
    context.need("attention", "attention")
    chosen = context.spread(source, count)
    batch_size = context.batch_size(len(chosen))

    def evaluate(params: Any) -> Iterator[tuple[str, base.Value]]:
        looks = embeddings.of_images(context, params, chosen, batch_size, "attention")
        heads = looks.mean(2)
        maps = np.concatenate([heads.mean(1, keepdims=True), heads], axis=1)
        rows = []
        for example, row in zip(chosen, maps, strict=True):
            seen = attention_maps.centre(context.picture(example))
            rows.append([seen, *(attention_maps.overlay(seen, one) for one in row)])
        titles = ("image", "mean", *(f"head {number}" for number in range(1, heads.shape[1] + 1)))
        yield f"{prefix}/attention", pictures.image_rows(titles, rows)
        yield f"{prefix}/attention/entropy", base.Watched(evenness(looks), _HEALTHY)

    return evaluate


def evenness(maps: np.ndarray) -> float:
    """The mean entropy of attention over patches, [..., h, w], over that of equal attention to all.

    1 where heads look everywhere alike, 0 where each looks at one patch: near either end attention tells little, and
    a fall towards 0 in training goes with instability (Zhai et al. 2023, arXiv:2303.06296).
    """
    rows = maps.reshape(-1, maps.shape[-2] * maps.shape[-1]).astype(np.float64)
    shares = rows / rows.sum(-1, keepdims=True)
    entropy = -(shares * np.log(np.where(shares > 0, shares, 1))).sum(-1)
    return float(entropy.mean() / np.log(rows.shape[-1]))
