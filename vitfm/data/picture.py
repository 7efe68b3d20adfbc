"""An image that is decoded as far as is needed: a JPEG's upper rows alone, or smaller than it is."""

from __future__ import annotations

from typing import Any

import numpy as np

from vitfm.data import formats, jpeg
from vitfm.data.formats import fitting
from vitfm.data.inputs import Input


class Picture:
    """An encoded image; `np.asarray` of it are all its pixels, [H,W,C].

    Attributes:
      height, width: in pixels, upright.
    """

    def __init__(self, encoded: bytes, spec: Input):
        """A picture of these bytes.

        Raises:
          BadExample: it is too large, or it can't be decoded and may not be in part.
        """
        self._encoded, self._spec = encoded, spec
        self._header = jpeg.header(encoded) if spec.is_plain else None
        self._pixels = None
        if self._header is None:
            self.height, self.width = np.asarray(self).shape[:2]
        else:
            stored = self._header.height, self._header.width
            self.height, self.width = stored if self._header.orientation <= 4 else stored[::-1]
            fitting.check_size(self.height, self.width, 3, spec)

    def upper(self, rows: int, reduction: int) -> tuple[np.ndarray, int]:
        """Pixels, at least of the first `rows` rows, each the mean of r x r, and r: `reduction` or a divisor of it.

        They are RGB where it is known that all are opaque, whether opacity is asked for or not.

        Raises:
          BadExample: it can't be decoded.
        """
        header = self._header
        if header is None:
            return np.asarray(self), 1
        reduction = min(reduction, 8)
        if header.orientation != 1:  # What is above, or half a pixel too many at the end, is elsewhere once turned.
            rows = header.height
            while header.height % reduction or header.width % reduction:
                reduction //= 2
        try:
            pixels = jpeg.decode(self._encoded, header, rows, reduction)
        except ValueError:
            return np.asarray(self), 1  # Which says what is wrong: its end is missing, too, if that is not asked for.
        return jpeg.upright(pixels, header.orientation), reduction

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self._pixels is None:
            self._pixels = formats.decode(self._encoded, self._spec)
        return self._pixels if dtype is None else self._pixels.astype(dtype)


class Pixels:
    """Pixels [H,W,C] with what a `Picture` has."""

    def __init__(self, pixels: np.ndarray):
        self.height, self.width = pixels.shape[:2]
        self._pixels = pixels

    def upper(self, rows: int, reduction: int) -> tuple[np.ndarray, int]:
        """All of them."""
        return self._pixels, 1
