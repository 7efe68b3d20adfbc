"""Resizing as other libraries evaluate, with Pillow, so that imported models see the pixels they were trained on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import PIL.Image

from vitfm.config import ConfigError
from vitfm.data import bands
from vitfm.data.image import OBLONG, Transform

Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]


def make(
    *,
    size: int,
    resize: Literal["exact", "shortest", "longest"] = "shortest",
    crop: int | None = None,
    interpolation: Interpolation = "bicubic",
    centre: Literal["floor", "round"] = "floor",
    image_size: int,
    colours: bool = True,
) -> Transform:
    """[H,W,C] -> [S,S,C]: resized, then its centre, as transformers, timm and open_clip do on the host.

    Args:
      size: side in pixels after resizing.
      resize: "exact", both sides to `size` whatever the shape; "shortest", the shorter one, the other in proportion and
        rounded down; "longest", the longer one, the other in proportion, so that a `crop` of the same size pads it.
      crop: side of the centre that is kept; None keeps all, which must be square. What lies beyond the image is black.
      interpolation: of Pillow, with antialiasing.
      centre: where an odd number of pixels is cut away, the first is rounded down ("floor", transformers) or to the
        nearest even number ("round", torchvision, and so timm and open_clip).
      image_size: S, of the batches.
      colours: three channels are RGB, four RGBA; else each is by itself.

    Raises:
      ConfigError: the result is not `image_size`.
    """
    side = size if crop is None else crop
    if side != image_size:
        key = "size" if crop is None else "crop"
        raise ConfigError(f"config.data.evaluation.{key} = {side} must be config.data.image_size = {image_size}.")
    if resize != "exact" and crop is None:
        raise ConfigError(f"config.data.evaluation.resize = {resize!r} leaves oblong images oblong; set its `crop`.")
    fit = max if resize == "longest" else min
    filter_ = PIL.Image.Resampling[interpolation.upper()]
    half: Callable[[int], int] = (lambda rest: rest // 2) if centre == "floor" else (lambda rest: round(rest / 2))

    def transform(pixels: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        pixels = np.asarray(pixels)
        height, width = (size, size) if resize == "exact" else _in_proportion(pixels, size, fit)
        if pixels.shape[:2] != (height, width):
            box = None
            if resize == "shortest" and max(height, width) > OBLONG * min(height, width):
                (height, width), box = _shown(pixels, (height, width), crop, half)
            pixels = bands.resized(pixels, (width, height), filter_, colours=colours, box=box)
        return np.ascontiguousarray(pixels if crop is None else _cropped(pixels, crop, half))

    return transform


def _in_proportion(pixels: np.ndarray, size: int, fit: Callable[..., int]) -> tuple[int, int]:
    """Height and width with the shorter one `size`, if `fit` is `min`, else the longer."""
    height, width = pixels.shape[:2]
    fitted = fit(height, width)
    return tuple(size if side == fitted else max(1, int(size * side / fitted)) for side in (height, width))


def _shown(
    pixels: np.ndarray, sides: tuple[int, int], crop: int, half: Callable[[int], int]
) -> tuple[tuple[int, int], tuple[float, float, float, float]]:
    """Height and width of the centre of an image once it has these sides, and where that lies in the pixels.

    So that of a long image no more is resized than is kept; the filters reach as far as they would.
    """
    starts = [max(0, half(side - crop)) for side in sides]
    kept = [min(side, crop) for side in sides]
    steps = [own / side for own, side in zip(pixels.shape, sides, strict=False)]
    top, left = (start * step for start, step in zip(starts, steps, strict=True))
    bottom, right = (
        min((start + length) * step, own)
        for start, length, step, own in zip(starts, kept, steps, pixels.shape, strict=False)
    )
    return tuple(kept), (left, top, right, bottom)


def _cropped(pixels: np.ndarray, crop: int, half: Callable[[int], int]) -> np.ndarray:
    """The centre [crop, crop, C]; black beyond the borders."""
    rest = [max(crop - side, 0) for side in pixels.shape[:2]]
    if any(rest):
        pixels = np.pad(pixels, [(some // 2, some - some // 2) for some in rest] + [(0, 0)])
    top, left = (half(side - crop) for side in pixels.shape[:2])
    return pixels[top : top + crop, left : left + crop]
