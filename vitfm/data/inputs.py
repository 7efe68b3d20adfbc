"""The input specification: what image files hold, and what numbers a model is given of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from vitfm.config import ConfigError

_RANGES = {"uint8": (0.0, 255.0), "uint16": (0.0, 65535.0), "float32": (0.0, 1.0)}


@dataclasses.dataclass(frozen=True)
class Input:
    """What is read of image files: `config.data.input`, made by `make`, with `config.data.channels` and `.alpha`.

    With `mean` and `std` of `config.data.augment` it is all that there is between a file and a model's numbers:
    ((value - low) / (high - low) - mean) / std. All of it stands in a run's config.json and in each checkpoint.

    Attributes:
      channels: C of the images that a model sees.
      alpha: RGB images keep their opacity as a fourth channel until they are preprocessed.
      dtype: of the pixels in a batch. Files that hold other numbers are bad examples, unless float32 is asked for.
      range: (low, high), the values that become 0 and 1.
      spacing: (rows, columns), how far apart pixels lie in millimetres (DICOM) or a map's units (GeoTIFF); images are
        resampled to it. None leaves them as they are.
      max_pixels: of an image; those of more are bad examples, and are not decoded.
      window: (centre, width) of the modality's values, or "file" for a file's own, which DICOM images are cut to, over
        all of `range`; None for none.
      page: of a TIFF or frame of a DICOM, from the end where negative; "all" takes the pages of a TIFF for channels.
        None is the first page, and the frame in the middle.
      bands: the channels of a file to take, in this order, from 0; None for all.
      fill: stands where there are no data: for NaN, infinities and what a GeoTIFF marks so. None makes images with NaN
        or infinities bad examples.
    """

    channels: int = 3
    alpha: bool = False
    dtype: Literal["uint8", "uint16", "float32"] = "uint8"
    range: tuple[float, float] = _RANGES["uint8"]
    spacing: tuple[float, float] | None = None
    max_pixels: int = 2**27
    window: tuple[float, float] | Literal["file"] | None = None
    page: int | Literal["all"] | None = None
    bands: tuple[int, ...] | None = None
    fill: float | None = None

    @property
    def samples(self) -> int:
        """Numbers a pixel in a batch: the channels and, where it is kept, the opacity."""
        return self.channels + self.alpha

    @property
    def sampling(self) -> dict[str, Any]:
        """Of `vitfm.data.sampling.Sampler`. Beyond its borders RGB is white, and of others is seen what becomes 0."""
        colours = self.channels == 3
        return {"alpha": self.alpha, "colours": colours, "outside": self.range[1] if colours else self.range[0]}

    @property
    def opaque(self) -> Input:
        """The same without opacity."""
        return dataclasses.replace(self, alpha=False)

    @property
    def is_plain(self) -> bool:
        """Files may be read as 8-bit RGB: what decoders do by themselves, in part or at a reduced scale."""
        return self.channels == 3 and self.dtype == "uint8" and self.spacing is None and self.bands is None


def make(
    *,
    dtype: Literal["uint8", "uint16", "float32"] = "uint8",
    range: Sequence[float] | None = None,
    spacing: float | Sequence[float] | None = None,
    max_pixels: int = 2**27,
    window: Sequence[float] | Literal["file"] | None = None,
    page: int | Literal["all"] | None = None,
    bands: Sequence[int] | None = None,
    fill: float | None = None,
    channels: int = 3,
    alpha: bool = False,
) -> Input:
    """The specification of these options, see `Input`.

    Args:
      range: None is (0, 255), (0, 65535) or (0, 1), by `dtype`.
      spacing: one number for rows and columns alike, or both.

    Raises:
      ConfigError: options that make no sense.
    """
    low, high = _pair("range", _RANGES[dtype] if range is None else range)
    if not low < high:
        raise ConfigError(f"config.data.input.range = {(low, high)}: the first number has to be below the second.")
    if dtype != "float32" and not np.iinfo(dtype).min <= low < high <= np.iinfo(dtype).max:
        raise ConfigError(f"config.data.input.range = {(low, high)} is not among the values of {dtype}.")
    if spacing is not None:
        spacing = _pair("spacing", (spacing, spacing) if isinstance(spacing, int | float) else spacing)
        if min(spacing) <= 0:
            raise ConfigError(f"config.data.input.spacing = {spacing} must be above 0.")
    if window is not None and window != "file":
        window = _pair("window", window)
        if window[1] <= 1:
            raise ConfigError(f"config.data.input.window = {window} is (centre, width): the width must be above 1.")
    if channels < 1:
        raise ConfigError(f"config.data.channels = {channels} must be at least 1.")
    if max_pixels < 1:
        raise ConfigError(f"config.data.input.max_pixels = {max_pixels} must be at least 1.")
    if bands is not None and (len(bands) != channels or min(bands) < 0):
        raise ConfigError(
            f"config.data.input.bands = {tuple(bands)} must name config.data.channels = {channels} channels of a file, "
            "from 0."
        )
    if alpha and (channels != 3 or dtype != "uint8" or bands is not None):
        raise ConfigError(
            "config.data.alpha = True keeps the opacity of 8-bit RGB images: set it to False, where "
            "config.data.channels, config.data.input.dtype or config.data.input.bands ask for others."
        )
    if fill is not None and dtype != "float32" and not (fill == int(fill) and 0 <= fill <= np.iinfo(dtype).max):
        raise ConfigError(f"config.data.input.fill = {fill} is no value of {dtype}.")
    chosen = None if bands is None else tuple(bands)
    return Input(channels, alpha, dtype, (low, high), spacing, max_pixels, window, page, chosen, fill)


def _pair(name: str, values: Sequence[float]) -> tuple[float, float]:
    if len(values) != 2 or not all(map(math.isfinite, values)):
        raise ConfigError(f"config.data.input.{name} = {values!r} should be two numbers.")
    return float(values[0]), float(values[1])
