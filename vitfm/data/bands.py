"""Images of any number of channels and any type: resized by Pillow, and as people can look at them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image

from vitfm.config import ConfigError
from vitfm.data import formats
from vitfm.data.inputs import Input


def resized(
    pixels: np.ndarray,
    size: tuple[int, int],
    resampling: Any,
    *,
    colours: bool,
    box: tuple[float, float, float, float] | None = None,
) -> np.ndarray:
    """[H,W,C] -> [h,w,C] in its own type.

    Args:
      pixels: uint8, uint16 or float32.
      size: (w, h).
      resampling: Pillow's.
      colours: three channels are RGB and four RGBA, whose colours count by their opacity; else each is by itself.
      box: (left, top, right, bottom) of what is resized, to which filters add what is beside it; None for all.
    """
    if pixels.dtype == np.uint8 and colours and pixels.shape[2] in (3, 4):
        return np.asarray(PIL.Image.fromarray(pixels).resize(size, resampling, box))
    own = np.uint8 if pixels.dtype == np.uint8 else np.float32  # Of single channels Pillow resizes no others.
    one = lambda channel: np.asarray(PIL.Image.fromarray(channel).resize(size, resampling, box))
    channels = np.moveaxis(pixels, 2, 0).astype(own, order="C", copy=False)
    found = np.stack([one(np.ascontiguousarray(channel)) for channel in channels], axis=-1)
    if pixels.dtype != np.uint16:
        return found
    return np.clip(np.round(found), 0, 65535).astype(np.uint16)  # Filters overshoot.


def check_colours(path: str, names: Sequence[str], spec: Input) -> None:
    """Refuses what is done to colours where there are none, and RandAugment, which is of 8 bits, where there are more.

    Raises:
      ConfigError: `names`, options at `path` of the recipe, are such.
    """
    gray = spec.channels != 3
    refused = [name for name in names if gray or (name == "randaugment" and spec.dtype != "uint8")]
    if refused:
        keys = ", ".join(f"config.{path}.{name}" for name in refused)
        images = f"config.data.channels = {spec.channels}" if gray else f"config.data.input.dtype = {spec.dtype!r}"
        raise ConfigError(f"{images} has no use for {keys}: leave out what is done to 8-bit colours.")


def visible(unit: np.ndarray) -> np.ndarray:
    """Values in [0, 1], [...,C] -> uint8 [...,3]: the first three channels, or the first as gray."""
    unit = unit[..., : 3 if unit.shape[-1] >= 3 else 1]
    pixels = np.clip(np.round(unit * 255), 0, 255).astype(np.uint8)
    return np.repeat(pixels, 3 // pixels.shape[-1], axis=-1)


def picture(encoded: bytes, spec: Input) -> np.ndarray:
    """An image file as a model gets to see it, uint8 [H,W,3].

    Raises:
      BadExample: it can't be read.
    """
    low, high = spec.range
    pixels = formats.decode(encoded, spec.opaque)
    return pixels if spec.is_plain and (low, high) == (0, 255) else visible((pixels - np.float32(low)) / (high - low))
