"""Where a transform looks: a rectangle of an image, turned and mirrored, which pixels, boxes and masks all follow.

Coordinates are (x, y) in pixels from the image's top left corner, so that the first pixel's middle is (0.5, 0.5).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

_FINE = 64  # Pixels; of a smaller crop, half a pixel would be felt.


class Geometry(NamedTuple):
    """The rectangle that becomes a result of `rows` x `columns` pixels.

    Attributes:
      rows, columns: of the result.
      x, y: the rectangle's middle.
      width, height: of the rectangle, in the image's pixels.
      angle: in radians, by which it is turned.
      mirrored: the result is turned round left and right.
    """

    rows: int
    columns: int
    x: float
    y: float
    width: float
    height: float
    angle: float = 0.0
    mirrored: bool = False

    @property
    def steps(self) -> tuple[float, float]:
        """How far apart the result's pixels lie in the image, along its columns and rows."""
        return self.width / self.columns, self.height / self.rows

    @property
    def matrix(self) -> np.ndarray:
        """float64 [2,3], from coordinates of the result to the image's."""
        (step_x, step_y), cosine, sine = self.steps, math.cos(self.angle), math.sin(self.angle)
        step_x = -step_x if self.mirrored else step_x
        linear = np.array([[step_x * cosine, -step_y * sine], [step_x * sine, step_y * cosine]])
        shift = np.array([self.x, self.y]) - linear @ (self.columns / 2, self.rows / 2)
        return np.concatenate([linear, shift[:, None]], axis=1)

    def bounds(self) -> tuple[float, float, float, float]:
        """(left, top, right, bottom) of the upright rectangle around it."""
        half_x, half_y = self.width / 2, self.height / 2
        if self.angle:
            cosine, sine = abs(math.cos(self.angle)), abs(math.sin(self.angle))
            half_x, half_y = half_x * cosine + half_y * sine, half_x * sine + half_y * cosine
        return self.x - half_x, self.y - half_y, self.x + half_x, self.y + half_y

    def reduced(self, factor: int) -> Geometry:
        """The same of an image with 1/`factor` of the pixels each way."""
        if factor == 1:
            return self
        x, y, width, height = (value / factor for value in self[2:6])
        return self._replace(x=x, y=y, width=width, height=height)

    @property
    def reduction(self) -> int:
        """How many pixels each way may be averaged beforehand: twice as many as the result has are left."""
        return power_below(min(self.steps) / 2)

    def on_whole_pixels(self, height: int, width: int) -> Geometry:
        """Upright and inside an image of this size: moved by less than a pixel, averaged or not, to whole ones.

        Pixels then needn't be interpolated where they are cut. Of a small crop, it would show: it stays.
        """
        if min(self.width, self.height) < _FINE:
            return self
        rows, columns, x, y, wide, high, angle, mirrored = self
        x, wide = _snapped(x, wide, power_below(wide / columns / 2), width)
        y, high = _snapped(y, high, power_below(high / rows / 2), height)
        return Geometry(rows, columns, x, y, wide, high, angle, mirrored)

    def points(self, points: np.ndarray) -> np.ndarray:
        """Points of the image, [...,2], as the result has them."""
        matrix = self.matrix
        return (points - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T

    def boxes(self, boxes: np.ndarray, *, clip: bool = True) -> np.ndarray:
        """Boxes of the image, (left, top, right, bottom) [N,4], as the result has them, cut at its borders if `clip`.

        A turned box becomes the upright one around it. What lies outside has no area.
        """
        left, top, right, bottom = np.moveaxis(np.asarray(boxes, np.float64), -1, 0)
        corners = self.points(np.stack([np.stack([x, y], -1) for x in (left, right) for y in (top, bottom)]))
        found = np.concatenate([corners.min(0), corners.max(0)], axis=-1)
        return np.clip(found, 0, (self.columns, self.rows) * 2) if clip else found

    def mask(self, mask: np.ndarray, outside: int) -> np.ndarray:
        """A mask [H,W] of whole numbers for the result, [rows, columns]: of each pixel's middle the nearest value."""
        columns, rows = np.meshgrid(np.arange(self.columns) + 0.5, np.arange(self.rows) + 0.5)
        there = np.stack([columns, rows, np.ones_like(rows)], -1) @ self.matrix.T
        x, y = np.moveaxis(np.floor(there).astype(int), -1, 0)
        height, width = mask.shape
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        return np.where(inside, mask[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)], outside)


def power_below(step: float) -> int:
    """The largest power of two up to `step`, at least 1."""
    return 1 if step < 2 else 1 << math.frexp(step)[1] - 1


def _snapped(middle: float, extent: float, unit: int, side: int) -> tuple[float, int]:
    """Middle and extent with both ends at multiples of `unit` inside a side of the image."""
    units = side // unit
    extent = min(round(extent / unit), units)
    start = min(max(round(middle / unit - extent / 2), 0), units - extent)
    return (start + extent / 2) * unit, extent * unit
