"""Pixels where a geometry looks: whole ones are averaged and interpolated; turned or beyond the border, warped."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import cv2
import numpy as np

from vitfm.data.geometry import Geometry, power_below

_TOGETHER = 4  # Channels that OpenCV resamples at once.
_LITTLE = 1e-6  # Of a pixel, by which rounding may miss the border.


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Pixels [H,W,C] of an image -> those of a result, [rows,columns,C].

    Attributes:
      alpha: the result is RGBA; pixels that come without alpha are opaque.
      colours: pixels of four channels are RGBA, and colours count by their opacity; else they are any four.
      outside: what is seen beyond the border of pixels without alpha; beyond that of others it is nothing.
    """

    alpha: bool = False
    colours: bool = True
    outside: float = 255

    def __call__(self, pixels: np.ndarray, reduction: int, geometry: Geometry) -> np.ndarray:
        """The result; `pixels` are means of the image's, `reduction` each way."""
        geometry = geometry.reduced(reduction)
        left, top, right, bottom = bounds = geometry.bounds()
        height, width = pixels.shape[:2]
        inside = min(left, top) > -_LITTLE and right < width + _LITTLE and bottom < height + _LITTLE
        left, top, right, bottom = whole = int(left), int(top), int(right), int(bottom)
        aligned = inside and whole == bounds and not geometry.angle
        if not aligned:
            # Bilinear sampling asks for the next pixel, too.
            left, top, right, bottom = max(0, left - 1), max(0, top - 1), right + 2, bottom + 2
            geometry = geometry._replace(x=geometry.x - left, y=geometry.y - top)
        region = pixels[top:bottom, left:right]
        if self.alpha and not inside:
            region = opaque(region)
        transparent = self.colours and region.shape[2] == 4
        outside = None if inside else 0.0 if transparent else self.outside
        sample = _resized if aligned else functools.partial(_warped, outside=outside)
        resample = lambda region: _resampled(region, geometry, sample)
        result = premultiplied(resample, region) if transparent else by_fours(resample, region)
        result = result.reshape(geometry.rows, geometry.columns, -1)  # OpenCV forgets the axis of a single channel.
        return opaque(result) if self.alpha else result


def opaque(pixels: np.ndarray) -> np.ndarray:
    """uint8 [...,3 or 4] -> [...,4]."""
    if pixels.shape[-1] == 4:
        return pixels
    return np.concatenate([pixels, np.full_like(pixels[..., :1], 255)], axis=-1)


def premultiplied(resample: Callable[[np.ndarray], np.ndarray], pixels: np.ndarray) -> np.ndarray:
    """`resample` with each colour weighted by its opacity; else that of what is transparent, often black, leaks."""
    if pixels.shape[2] != 4:
        return resample(pixels)
    return cv2.cvtColor(resample(cv2.cvtColor(pixels, cv2.COLOR_RGBA2mRGBA)), cv2.COLOR_mRGBA2RGBA)


def by_fours(resample: Callable[[np.ndarray], np.ndarray], pixels: np.ndarray) -> np.ndarray:
    """`resample` of any number of channels, each by itself."""
    if pixels.shape[2] <= _TOGETHER:
        return resample(pixels)
    parts = np.split(pixels, range(_TOGETHER, pixels.shape[2], _TOGETHER), axis=2)
    return np.concatenate([np.atleast_3d(resample(np.ascontiguousarray(part))) for part in parts], axis=2)


def _resampled(pixels: np.ndarray, geometry: Geometry, sample: Callable[..., np.ndarray]) -> np.ndarray:
    """What a geometry looks at.

    Bilinear sampling reads two pixels each way, and of more it would skip some. So pixels are averaged first, down to
    twice as many as are asked for, of which then two samples each way are averaged: nearly as by area, but faster.
    """
    steps = (max(geometry.steps),) * 2 if geometry.angle else geometry.steps
    if max(steps) <= 2:
        return sample(pixels, pixels.shape, geometry)
    across, down = (power_below(step / 2) for step in steps)
    twice_x, twice_y = 1 + (steps[0] / across > 2), 1 + (steps[1] / down > 2)
    finer = geometry._replace(rows=geometry.rows * twice_y, columns=geometry.columns * twice_x)
    return _averaged(sample(_averaged(pixels, across, down), pixels.shape, finer), twice_x, twice_y)


def _resized(pixels: np.ndarray, shape: tuple[int, ...], geometry: Geometry) -> np.ndarray:
    """All of these pixels."""
    result = cv2.resize(pixels, (geometry.columns, geometry.rows), interpolation=cv2.INTER_LINEAR)
    return cv2.flip(result, 1) if geometry.mirrored else result


def _warped(pixels: np.ndarray, shape: tuple[int, ...], geometry: Geometry, outside: float | None) -> np.ndarray:
    """Samples of the geometry's rectangle, in pixels of which `shape` were made these.

    Beyond the border is `outside`, or, if that is None, what is at it.
    """
    ratio = np.array([pixels.shape[1] / shape[1], pixels.shape[0] / shape[0]])
    matrix = geometry.matrix
    matrix[:, 2] += matrix[:, :2] @ (0.5, 0.5)  # OpenCV's coordinates are 0 in the middle of the first pixel.
    matrix = matrix * ratio[:, None] - [0, 0, 0.5]
    border = (outside or 0.0,) * 4
    mode = cv2.BORDER_REPLICATE if outside is None else cv2.BORDER_CONSTANT
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size = (geometry.columns, geometry.rows)
    return cv2.warpAffine(pixels, matrix, size, flags=flags, borderMode=mode, borderValue=border)


def _averaged(pixels: np.ndarray, across: int, down: int) -> np.ndarray:
    """The means of so many pixels across and down, which are powers of two."""
    both = min(across, down)
    for width, height in ((both, both), (across // both, down // both)):
        if max(width, height) > 1:
            size = (max(1, round(pixels.shape[1] / width)), max(1, round(pixels.shape[0] / height)))
            # Midway between two pixels a linear interpolation is their mean; OpenCV's of oblong areas is slow.
            filter_ = cv2.INTER_AREA if width == height or max(width, height) > 2 else cv2.INTER_LINEAR
            pixels = cv2.resize(pixels, size, interpolation=filter_)
    return pixels
