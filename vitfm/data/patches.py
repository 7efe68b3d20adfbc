"""Images at their own aspect ratio, as padded patches: what NaFlex encoders take, see `vitfm.models.naflex`.

SigLIP 2 (Tschannen et al. 2025, arXiv:2502.14786, section 2.4): an image is resized, nearly in proportion, to as many
whole patches as a budget allows, and padded to the budget.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import PIL.Image

from vitfm.config import ConfigError
from vitfm.data.evaluation import Interpolation

Arrays = dict[str, np.ndarray]
_WIDTH = 1e-5  # Of the interval in which the scale is found; part of which grid an image gets.


def make(
    *, patch_size: int = 16, max_patches: int = 256, interpolation: Interpolation = "bilinear"
) -> Callable[[np.ndarray, np.random.Generator | None], Arrays]:
    """uint8 [H,W,C] -> {"patches": uint8 [N,p*p,C], "mask": bool [N], "grid": int32 [2]}, as `Siglip2ImageProcessor`.

    Args:
      patch_size: p, in pixels.
      max_patches: N, the budget.
      interpolation: of Pillow, with antialiasing.

    Raises:
      ConfigError: a number below 1.
    """
    if min(patch_size, max_patches) < 1:
        raise ConfigError(
            f"config.data.patches: patch_size = {patch_size}, max_patches = {max_patches} are at least 1."
        )
    filter_ = PIL.Image.Resampling[interpolation.upper()]

    def transform(pixels: np.ndarray, rng: np.random.Generator | None) -> Arrays:
        rows, columns = grid(*pixels.shape[:2], patch_size, max_patches)
        size = (columns * patch_size, rows * patch_size)
        resized = np.asarray(PIL.Image.fromarray(pixels).resize(size, filter_))
        cut = resized.reshape(rows, patch_size, columns, patch_size, -1).transpose(0, 2, 1, 3, 4)
        padded = np.zeros((max_patches, patch_size**2, cut.shape[-1]), np.uint8)
        padded[: rows * columns] = cut.reshape(rows * columns, patch_size**2, -1)
        return {
            "patches": padded,
            "mask": np.arange(max_patches) < rows * columns,
            "grid": np.array([rows, columns], np.int32),
        }

    return transform


def grid(height: int, width: int, patch_size: int, max_patches: int) -> tuple[int, int]:
    """Rows and columns of an image's patches: of the largest scale, up to 100, at which they fit, rounded up."""
    scaled = lambda scale, side: max(1, math.ceil(side * scale / patch_size))
    low, high = _WIDTH / 10, 100.0
    while high - low >= _WIDTH:
        middle = (low + high) / 2
        if scaled(middle, height) * scaled(middle, width) <= max_patches:
            low = middle
        else:
            high = middle
    return scaled(low, height), scaled(low, width)


def normalising(evaluate: Callable[[Any], Any]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Preprocessing of a batch of uint8 images, made one of patches: `patches` become float32 [B,N,p*p*C]."""

    def preprocess(batch: Mapping[str, Any]) -> dict[str, Any]:
        pixels = evaluate({"image": batch["image"]["patches"]})["image"]  # Each image's one of N x p*p pixels.
        return {**batch, "image": {**batch["image"], "patches": pixels.reshape(*pixels.shape[:2], -1)}}

    return preprocess
