"""Images of other than three channels: grey values, a satellite's bands, a microscope's stains.

Arrays that a user has are preprocessed here; files are read with three channels (`vitfm.data.image`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vitfm.config import ConfigError
from vitfm.data.image import Transform


def by_threes(cut: Transform) -> Transform:
    """A transform of RGB images for uint8 [H,W,C], three channels at a time: none depends on another."""

    def transform(pixels: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        channels = pixels.shape[-1]
        padded = np.pad(pixels, ((0, 0), (0, 0), (0, -channels % 3)))
        parts = [cut(np.ascontiguousarray(padded[..., i : i + 3]), rng) for i in range(0, channels, 3)]
        return np.ascontiguousarray(np.concatenate(parts, axis=-1)[..., :channels])

    return transform


def normalising(
    channels: int, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> Callable[[Mapping[str, jax.Array]], dict[str, Any]]:
    """batch -> batch with `image` uint8 [B,H,W,C] as (values in [0, 1] - mean) / std.

    Raises:
      ConfigError: `mean` and `std` are not C numbers each.
    """
    if mean is None or std is None or not len(mean) == len(std) == channels or min(std) <= 0:
        raise ConfigError(
            f"config.data.augment: mean = {mean} and std = {std} must be {channels} numbers each, std above 0, where "
            f"config.data.channels = {channels}."
        )
    mean, std = np.asarray(mean, np.float32), np.asarray(std, np.float32)
    return lambda batch: {**batch, "image": (batch["image"].astype(np.float32) / 255 - mean) / std}
