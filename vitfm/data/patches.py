"""Images at their own aspect ratio, as padded patches: what NaFlex encoders take, see `vitfm.models.naflex`.

SigLIP 2 (Tschannen et al. 2025, arXiv:2502.14786, section 2.4): an image is resized, nearly in proportion, to as many
whole patches as a budget allows, and padded to the budget.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image

from vitfm import config
from vitfm.config import ConfigError
from vitfm.data import bands
from vitfm.data import image as images
from vitfm.data.evaluation import Interpolation
from vitfm.data.geometry import Geometry
from vitfm.data.inputs import Input
from vitfm.data.sampling import Sampler

Arrays = dict[str, np.ndarray]
Transform = Callable[[Any, np.random.Generator | None], Arrays]
_WIDTH = 1e-5  # Of the interval in which the scale is found; part of which grid an image gets.


def make(
    *,
    patch_size: int = 16,
    max_patches: int = 256,
    interpolation: Interpolation = "bilinear",
    crop: Mapping[str, Any] | None = None,
    spec: Input = Input(),
) -> tuple[Transform, Transform]:
    """[H,W,C] -> {"patches": [N,p*p,C], "mask": bool [N], "grid": int32 [2]}, as `Siglip2ImageProcessor`.

    Args:
      patch_size: p, in pixels.
      max_patches: N, the budget.
      interpolation: of Pillow, with antialiasing, where nothing is drawn.
      crop: options of `cropping`, in training; None takes all of an image, as in evaluation.
      spec: of the images.

    Returns:
      For training and for evaluation.

    Raises:
      ConfigError: a number below 1.
    """
    if min(patch_size, max_patches) < 1:
        raise ConfigError(
            f"config.data.patches: patch_size = {patch_size}, max_patches = {max_patches} are at least 1."
        )
    filter_ = PIL.Image.Resampling[interpolation.upper()]
    grid_of = lambda height, width: grid(height, width, patch_size, max_patches)

    def evaluate(pixels: Any, rng: np.random.Generator | None) -> Arrays:
        pixels = np.asarray(pixels)
        rows, columns = grid_of(*pixels.shape[:2])
        size = (columns * patch_size, rows * patch_size)
        resized = bands.resized(pixels, size, filter_, colours=spec.channels == 3)
        return _patches(resized, patch_size, max_patches)

    if crop is None:
        return evaluate, evaluate
    path = "data.patches.crop"
    draw = config.call(cropping, crop, where=path, path=path, patch_size=patch_size, grid_of=grid_of)
    cut = images.Cut(draw, Sampler(**spec.sampling))
    return lambda image, rng: _patches(cut(image, rng), patch_size, max_patches), evaluate


def cropping(
    *,
    scale: Sequence[float] = (0.25, 1.0),
    flip: bool = True,
    patch_size: int,
    grid_of: Callable[[float, float], tuple[int, int]],
    path: str,
) -> images.Draw:
    """Random crops of an image's own aspect ratio.

    Args:
      scale: range of the crop's area relative to the image's.
      flip: mirror left and right half of the time.
      patch_size, grid_of: of the result, which has `grid_of(height, width)` rows and columns of patches.
      path: of these options in the recipe, for messages.

    Raises:
      ConfigError: a range that is none.
    """
    if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
        raise ConfigError(f"config.{path}.scale = {scale!r} is not two numbers above 0 up to 1, the smaller one first.")

    def draw(height: int, width: int, rng: np.random.Generator) -> Geometry:
        side = math.sqrt(rng.uniform(*scale))
        x, y = (whole * (0.5 + rng.uniform(-0.5, 0.5) * (1 - side)) for whole in (width, height))
        mirrored = flip and rng.random() < 0.5
        rows, columns = (count * patch_size for count in grid_of(height * side, width * side))
        crop = Geometry(rows, columns, x, y, width * side, height * side, mirrored=mirrored)
        return crop.on_whole_pixels(height, width)

    return draw


def _patches(pixels: np.ndarray, patch_size: int, max_patches: int) -> Arrays:
    """Whole patches of an image, padded."""
    rows, columns = (side // patch_size for side in pixels.shape[:2])
    cut = pixels.reshape(rows, patch_size, columns, patch_size, -1).transpose(0, 2, 1, 3, 4)
    padded = np.zeros((max_patches, patch_size**2, cut.shape[-1]), cut.dtype)
    padded[: rows * columns] = cut.reshape(rows * columns, patch_size**2, -1)
    return {
        "patches": padded,
        "mask": np.arange(max_patches) < rows * columns,
        "grid": np.array([rows, columns], np.int32),
    }


def grid(height: float, width: float, patch_size: int, max_patches: int) -> tuple[int, int]:
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
