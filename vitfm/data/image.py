"""Images on the host: decoding, cropping and resizing with OpenCV. uint8 [H, W, C] in and out, RGB or RGBA."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from vitfm import config
from vitfm.config import ConfigError

cv2.setNumThreads(0)  # Parallelism is over images; OpenCV's own threads would fight for the same cores.

Transform = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def decode(encoded: bytes, *, alpha: bool) -> np.ndarray:
    """Bytes of a JPEG, PNG or WebP -> uint8 [H, W, 3], or [H, W, 4] with `alpha`.

    Without `alpha` transparent pixels are composited over white.

    Raises:
      ValueError: the bytes are no image OpenCV can read.
    """
    try:
        pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED) if encoded else None
    except cv2.error as error:  # An image of more pixels than OpenCV takes, for one.
        raise ValueError(f"{len(encoded)} bytes that OpenCV refuses: {error}") from None
    if pixels is None:
        raise ValueError(f"{len(encoded)} bytes that are no readable image")
    if pixels.dtype != np.uint8:
        raise ValueError(f"pixels of type {pixels.dtype}; 8-bit images are read for now")
    if pixels.ndim == 2:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGRA)
    rgba = cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA if pixels.shape[2] == 4 else cv2.COLOR_BGR2RGBA)
    return rgba if alpha else over_white(rgba)


def over_white(rgba: np.ndarray) -> np.ndarray:
    """uint8 [..., 4] -> [..., 3], composited over white."""
    opacity = rgba[..., 3:].astype(np.float32) / 255
    return np.round(rgba[..., :3] * opacity + 255 * (1 - opacity)).astype(np.uint8)


def with_channels(pixels: np.ndarray, *, alpha: bool) -> np.ndarray:
    """Any uint8 [..., H, W, 3 or 4] -> 4 channels with `alpha`, else 3 over white."""
    if pixels.shape[-1] == (4 if alpha else 3):
        return pixels
    if alpha:
        return np.concatenate([pixels, np.full_like(pixels[..., :1], 255)], axis=-1)
    return over_white(pixels)


def _premultiplied(sample: Callable[[np.ndarray], np.ndarray], pixels: np.ndarray) -> np.ndarray:
    """`sample` with each colour weighted by its opacity; else the colour of what is transparent, often black, leaks."""
    if pixels.shape[2] == 3:
        return sample(pixels)
    return cv2.cvtColor(sample(cv2.cvtColor(pixels, cv2.COLOR_RGBA2mRGBA)), cv2.COLOR_mRGBA2RGBA)


def resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """The shorter side resized to `size`, then the centre `size` x `size`; the identity on that size."""
    height, width = pixels.shape[:2]
    if (height, width) == (size, size):
        return pixels
    scale = size / min(height, width)
    new = (max(size, round(width * scale)), max(size, round(height * scale)))
    filter_ = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    pixels = _premultiplied(lambda pixels: cv2.resize(pixels, new, interpolation=filter_), pixels)
    top, left = (new[1] - size) // 2, (new[0] - size) // 2
    return np.ascontiguousarray(pixels[top : top + size, left : left + size])


def cutter(size: int, crop: Mapping[str, Any] | None, *, path: str) -> Transform:
    """Images of `size`: random crops with the options `crop`, or with None the centre of each.

    Args:
      size: side of the result in pixels.
      crop: options of `random_crop`.
      path: of `crop` in the recipe, for messages.
    """
    if crop is None:
        return lambda pixels, rng: resize(pixels, size)
    return config.call(random_crop, crop, where=path, size=size, path=path)


def random_crop(
    size: int,
    *,
    scale: Sequence[float] = (0.08, 1.0),
    ratio: Sequence[float] = (3 / 4, 4 / 3),
    rotation: float = 0.0,
    flip: bool = True,
    path: str = "data.crop",
) -> Transform:
    """A random-resized crop (Szegedy et al. 2015), turned and mirrored, in one interpolation.

    Args:
      size: side of the result in pixels.
      scale: range of the crop's area relative to the image's; above 1 it reaches beyond the border, which is
        transparent, or white without alpha.
      ratio: range of the crop's width over height, drawn log-uniformly.
      rotation: largest angle in degrees, to either side.
      flip: mirror left and right half of the time.
      path: of these options in the recipe, for messages.

    Raises:
      ConfigError: a range that is none.
    """
    for name, limits in (("scale", scale), ("ratio", ratio)):
        if len(limits) != 2 or not 0 < limits[0] <= limits[1]:
            raise ConfigError(f"config.{path}.{name} = {limits!r} is not two numbers above 0, the smaller one first.")
    inside = scale[1] <= 1 and not rotation

    def transform(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        height, width = pixels.shape[:2]
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        crop_w, crop_h = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if scale[1] <= 1:
            crop_w, crop_h = min(crop_w, width), min(crop_h, height)
        # The centre moves as far as the crop stays inside, or the image inside the crop.
        x = width / 2 + rng.uniform(-0.5, 0.5) * abs(width - crop_w)
        y = height / 2 + rng.uniform(-0.5, 0.5) * abs(height - crop_h)
        angle = math.radians(rng.uniform(-rotation, rotation))
        mirror = -1.0 if flip and rng.random() < 0.5 else 1.0
        sample = lambda pixels: _sample(pixels, size, (x, y), (crop_w * mirror, crop_h), angle, inside)
        return _premultiplied(sample, pixels)

    return transform


def _sample(
    pixels: np.ndarray, size: int, centre: tuple[float, float], extent: tuple[float, float], angle: float, inside: bool
) -> np.ndarray:
    """`size` x `size` samples of the rectangle of `extent` around `centre`, turned by `angle`; alpha premultiplied."""
    step_x, step_y = extent[0] / size, extent[1] / size
    cosine, sine = math.cos(angle), math.sin(angle)
    matrix = np.array([[step_x * cosine, -step_y * sine, 0.0], [step_x * sine, step_y * cosine, 0.0]])
    middle = (size - 1) / 2
    matrix[:, 2] = np.array(centre) - 0.5 - matrix[:, :2] @ (middle, middle)
    if max(abs(step_x), abs(step_y)) > 1.5:  # Bilinear sampling aliases when it skips pixels: shrink first.
        shrink = 1 / max(abs(step_x), abs(step_y))
        smaller = [max(1, round(side * shrink)) for side in pixels.shape[1::-1]]
        reduced = cv2.resize(pixels, smaller, interpolation=cv2.INTER_AREA)
        ratio = np.array([reduced.shape[1] / pixels.shape[1], reduced.shape[0] / pixels.shape[0]])
        matrix = matrix * ratio[:, None]
        matrix[:, 2] += (ratio - 1) / 2
        pixels = reduced
    border = (0, 0, 0, 0) if pixels.shape[2] == 4 else (255, 255, 255)
    mode = cv2.BORDER_REPLICATE if inside else cv2.BORDER_CONSTANT  # Half a pixel at the edge reaches out all the same.
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(pixels, matrix, (size, size), flags=flags, borderMode=mode, borderValue=border)
