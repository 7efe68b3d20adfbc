"""Images on the host: cropping and resizing with OpenCV. [H, W, C] in and out, of any type and channels."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import cv2
import numpy as np

from vitfm import config
from vitfm.config import ConfigError
from vitfm.data.geometry import Geometry
from vitfm.data.picture import Picture, Pixels
from vitfm.data.sampling import Sampler, by_fours, opaque, premultiplied

cv2.setNumThreads(0)  # Parallelism is over images; OpenCV's own threads would fight for the same cores.

OBLONG = 8  # Times as long as wide, from where on what the centre does not show is not resized, either.

Transform = Callable[[Picture | np.ndarray, np.random.Generator], np.ndarray]
Draw = Callable[[int, int, np.random.Generator], Geometry]


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


def resize(pixels: np.ndarray, size: int, *, colours: bool = True) -> np.ndarray:
    """The shorter side resized to `size`, then the centre `size` x `size`; the identity on that size.

    Four channels are RGBA, if `colours`. Of an image more than `OBLONG` times as long as wide, only the middle is
    resized, so that memory is bounded: what is seen moves by less than a pixel.
    """
    pixels = middle(pixels)
    height, width = pixels.shape[:2]
    if (height, width) == (size, size):
        return pixels
    scale = size / min(height, width)
    new = (max(size, round(width * scale)), max(size, round(height * scale)))
    filter_ = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    resample = lambda pixels: cv2.resize(pixels, new, interpolation=filter_)
    pixels = premultiplied(resample, pixels) if colours else by_fours(resample, pixels)
    pixels = pixels.reshape(*new[::-1], -1)  # OpenCV forgets the axis of a single channel.
    top, left = (new[1] - size) // 2, (new[0] - size) // 2
    return np.ascontiguousarray(pixels[top : top + size, left : left + size])


def middle(pixels: np.ndarray) -> np.ndarray:
    """[H,W,C] without the ends of an image that is more than `OBLONG` times as long as wide, about the same centre."""
    most = OBLONG * min(pixels.shape[:2])
    top, left = (max(0, side - most) // 2 for side in pixels.shape[:2])
    return pixels[top : len(pixels) - top, left : pixels.shape[1] - left]


@dataclasses.dataclass(frozen=True)
class Cut:
    """A transform in two halves: where to look in an image of some height and width, and the pixels there.

    Attributes:
      draw: (height, width, generator) -> geometry.
      sample: (pixels, reduction, geometry) -> uint8 [rows,columns,C], from pixels that may be means of some.
      whole: `sample` asks for the pixels below the geometry, too.
    """

    draw: Draw
    sample: Callable[[np.ndarray, int, Geometry], np.ndarray]
    whole: bool = False

    def __call__(self, image: Picture | np.ndarray, rng: np.random.Generator) -> np.ndarray:
        image = picture(image)
        return taken(image, [(self, self.draw(image.height, image.width, rng))])[0]


Drawn = tuple[Cut, Geometry]


def picture(image: Picture | np.ndarray) -> Picture | Pixels:
    """An image with height, width and what `taken` asks for."""
    return Pixels(image) if isinstance(image, np.ndarray) else image


def taken(image: Picture | Pixels, cuts: Sequence[Drawn]) -> list[np.ndarray]:
    """What each looks at, [rows,columns,C], of an image that is decoded once, as far as all of them ask for."""
    rows = max(image.height if cut.whole else math.ceil(geometry.bounds()[3]) for cut, geometry in cuts)
    pixels, reduction = image.upper(rows, min(geometry.reduction for _, geometry in cuts))
    return [cut.sample(pixels, reduction, geometry) for cut, geometry in cuts]


def cutter(
    size: int,
    crop: Mapping[str, Any] | Literal["pad"] | None,
    *,
    path: str,
    alpha: bool = False,
    colours: bool = True,
    outside: float = 255,
) -> Cut:
    """Images of `size`: random crops with the options `crop`; the centre of each; or all of each, padded to a square.

    Args:
      size: side of the result in pixels.
      crop: options of `random_crop`, None for the centre, "pad" for all.
      path: of `crop` in the recipe, for messages.
      alpha, colours, outside: of `vitfm.data.sampling.Sampler`.
    """
    sampler = Sampler(alpha, colours, outside)
    if crop is None:
        whole = lambda pixels, reduction, geometry: resize(opaque(pixels) if alpha else pixels, size, colours=colours)
        return Cut(lambda height, width, rng: _centre(size, height, width), whole, whole=True)
    if crop == "pad":
        return Cut(lambda height, width, rng: _padded(size, height, width), sampler)
    return config.call(random_crop, crop, where=path, size=size, path=path, sampler=sampler)


def _centre(size: int, height: int, width: int) -> Geometry:
    """What `resize` shows."""
    scale = size / min(height, width)
    high, wide = (max(size, round(side * scale)) for side in (height, width))
    step_x, step_y = width / wide, height / high
    x, y = (wide - size) // 2 + size / 2, (high - size) // 2 + size / 2
    return Geometry(size, size, x * step_x, y * step_y, size * step_x, size * step_y)


def _padded(size: int, height: int, width: int) -> Geometry:
    """All of an image, in the middle of a square."""
    side = max(height, width)
    return Geometry(size, size, width / 2, height / 2, side, side)


def random_crop(
    size: int,
    *,
    scale: Sequence[float] = (0.08, 1.0),
    ratio: Sequence[float] = (3 / 4, 4 / 3),
    rotation: float = 0.0,
    flip: bool = True,
    path: str = "data.crop",
    sampler: Sampler = Sampler(),
) -> Cut:
    """A random-resized crop (Szegedy et al. 2015), turned and mirrored, in one interpolation.

    Args:
      size: side of the result in pixels.
      scale: range of the crop's area relative to the image's; above 1 it reaches beyond the border, which is
        transparent, or white without alpha.
      ratio: range of the crop's width over height, drawn log-uniformly.
      rotation: largest angle in degrees, to either side.
      flip: mirror left and right half of the time.
      path: of these options in the recipe, for messages.
      sampler: of the pixels.

    Raises:
      ConfigError: a range that is none.
    """
    for name, limits in (("scale", scale), ("ratio", ratio)):
        if len(limits) != 2 or not 0 < limits[0] <= limits[1]:
            raise ConfigError(f"config.{path}.{name} = {limits!r} is not two numbers above 0, the smaller one first.")
    inside = scale[1] <= 1 and not rotation
    low, high = map(math.log, ratio)

    def draw(height: int, width: int, rng: np.random.Generator) -> Geometry:
        in_area, in_aspect, in_x, in_y, in_angle, in_flip = rng.random(6).tolist()
        area = height * width * (scale[0] + in_area * (scale[1] - scale[0]))
        aspect = math.exp(low + in_aspect * (high - low))
        crop_w, crop_h = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if scale[1] <= 1:
            crop_w, crop_h = min(crop_w, width), min(crop_h, height)
        # The centre moves as far as the crop stays inside, or the image inside the crop.
        x = width / 2 + (in_x - 0.5) * abs(width - crop_w)
        y = height / 2 + (in_y - 0.5) * abs(height - crop_h)
        angle = math.radians(rotation * (2 * in_angle - 1))
        mirrored = flip and in_flip < 0.5
        geometry = Geometry(size, size, x, y, crop_w, crop_h, angle, mirrored)
        return geometry.on_whole_pixels(height, width) if inside else geometry

    return Cut(draw, sampler)
