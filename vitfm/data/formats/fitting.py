"""Pixels as a file has them, made those of an input specification: channels, type, spacing."""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np

from vitfm.data.bad import BadExample
from vitfm.data.inputs import Input
from vitfm.data.sampling import by_fours, premultiplied

_BLOCK = 2**18  # Pixels that are composited at once: floats of all of a large image would be many.
# ITU-R BT.601; in 65536ths, as Pillow has it.
_LUMA, _WHOLE_LUMA = (0.299, 0.587, 0.114), (19595, 38470, 7471)


class Raw(NamedTuple):
    """An image as its file has it.

    Attributes:
      pixels: [H,W,C], upright.
      alpha: the last channel is opacity.
      colours: three channels are red, green and blue; else they are any three.
      spacing: (rows, columns), how far apart pixels lie; None where the file does not say.
      missing: the number that stands for no data, if any.
    """

    pixels: np.ndarray
    alpha: bool = False
    colours: bool = True
    spacing: tuple[float, float] | None = None
    missing: float | None = None


def check_size(height: int, width: int, channels: int, spec: Input) -> None:
    """Refuses images of too many pixels; those of many channels count for more.

    Raises:
      BadExample: too many, or none.
    """
    if height < 1 or width < 1:
        raise BadExample("corrupt", f"A header of {height} x {width} pixels.")
    if height * width * max(1.0, channels / 4) > spec.max_pixels:
        of = f" of {channels} channels" if channels > 4 else ""
        raise BadExample(
            "too_large", f"{height} x {width} pixels{of}; config.data.input.max_pixels = {spec.max_pixels}."
        )


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels [H,W,C] that are stored in EXIF's orientation, as they are meant to be seen."""
    if orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    rows, columns = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}.get(orientation, (1, 1))
    return np.ascontiguousarray(pixels[::rows, ::columns])


def eight_bits(table: np.ndarray) -> np.ndarray:
    """A palette's 16-bit colours as 8-bit ones, where they are no more than that."""
    whole = not (table % 257).any() or not (table % 256).any()
    return (table >> 8).astype(np.uint8) if table.dtype == np.uint16 and whole else table


def fit(raw: Raw, spec: Input) -> np.ndarray:
    """[H,W,C] as `spec` says.

    Raises:
      BadExample: they can't be.
    """
    _check_depth(raw.pixels, spec)
    full = np.iinfo(raw.pixels.dtype).max if raw.pixels.dtype.kind in "iu" else 1.0
    pixels = _filled(raw, spec)
    pixels = pixels[..., _bands(pixels, spec)] if spec.bands is not None else _channels(pixels, full, raw, spec)
    return np.ascontiguousarray(pixels if spec.spacing is None else _resampled(pixels, raw.spacing, spec))


def _check_depth(pixels: np.ndarray, spec: Input) -> None:
    own = pixels.dtype
    if spec.dtype != "float32" and own != spec.dtype:
        options = {"uint8": "'uint8'", "uint16": "'uint16', or 'float32'"}.get(own.name, "'float32'")
        raise BadExample(
            "depth",
            f"Numbers of type {own}, and config.data.input.dtype = {spec.dtype!r}: {options} reads them, with "
            "config.data.input.range for the values that become 0 and 1.",
        )
    if own.kind in "iu" and spec.range == (0.0, 1.0) and pixels.max() > 1:
        raise BadExample(
            "depth",
            f"Whole numbers up to {pixels.max()}, and config.data.input.range = (0, 1): set it to the values that are "
            "to become 0 and 1.",
        )


def _filled(raw: Raw, spec: Input) -> np.ndarray:
    """The pixels in the type asked for, and `fill` where there are no data.

    Raises:
      BadExample: there are none somewhere, and nothing to stand for them.
    """
    pixels = raw.pixels
    if spec.fill is None and pixels.dtype.kind in "iu":
        return pixels.astype(spec.dtype, copy=False)
    missing = ~np.isfinite(pixels) if pixels.dtype.kind == "f" else np.zeros(pixels.shape, bool)
    if spec.fill is None:
        if missing.any():
            raise BadExample(
                "other", f"{missing.mean():.2%} of its values are NaN or infinite; see config.data.input.fill."
            )
        return pixels.astype(spec.dtype, copy=False)
    if raw.missing is not None:
        missing |= pixels == np.asarray(raw.missing).astype(pixels.dtype)
    return np.where(missing, np.asarray(spec.fill, spec.dtype), pixels.astype(spec.dtype))


def _bands(pixels: np.ndarray, spec: Input) -> list[int]:
    if max(spec.bands) >= pixels.shape[2]:
        raise BadExample("channels", f"{pixels.shape[2]} channels, and config.data.input.bands = {spec.bands}.")
    return list(spec.bands)


def _channels(pixels: np.ndarray, full: float, raw: Raw, spec: Input) -> np.ndarray:
    """Gray, colours and their opacity, as many as are asked for; `full` is the opacity of what is not transparent."""
    count = pixels.shape[2]
    colours, opacity = (pixels[..., :-1], pixels[..., -1:]) if raw.alpha else (pixels, None)
    known = colours.shape[2] == 1 or (colours.shape[2] == 3 and raw.colours)
    if spec.channels not in (1, 3) or not (known or count == spec.channels):
        if count != spec.channels:
            raise BadExample(
                "channels",
                f"{count} channels, and config.data.channels = {spec.channels}; config.data.input.bands chooses among "
                "them.",
            )
        return pixels
    if opacity is not None and not spec.alpha:
        colours = _over_white(colours, opacity, full, spec)
    if spec.channels == 3 and colours.shape[2] == 1:
        colours = np.repeat(colours, 3, axis=2)
    if spec.channels == 1 and colours.shape[2] == 3:
        colours = _luma(colours)
    if not spec.alpha:
        return colours
    return np.concatenate([colours, np.full_like(colours[..., :1], full) if opacity is None else opacity], axis=2)


def _over_white(colours: np.ndarray, opacity: np.ndarray, full: float, spec: Input) -> np.ndarray:
    """Composited over white, which is the upper end of the range."""
    if (opacity == full).all():
        return colours
    mixed = np.empty(colours.shape, spec.dtype)
    rows = max(1, _BLOCK // colours.shape[1])
    for start in range(0, len(colours), rows):
        part = slice(start, start + rows)
        share = opacity[part].astype(np.float32) / np.float32(full)
        values = colours[part] * share + np.float32(spec.range[1]) * (1 - share)
        mixed[part] = values if spec.dtype == "float32" else np.round(values)
    return mixed


def _luma(colours: np.ndarray) -> np.ndarray:
    """[H,W,3] -> [H,W,1], the brightness."""
    if colours.dtype == np.float32:
        return (colours @ np.array(_LUMA, np.float32))[..., None]
    red, green, blue = (colours[..., i].astype(np.uint32) * weight for i, weight in enumerate(_WHOLE_LUMA))
    return ((red + green + blue + 0x8000) >> 16).astype(colours.dtype)[..., None]


def _resampled(pixels: np.ndarray, own: tuple[float, float] | None, spec: Input) -> np.ndarray:
    """Pixels as far apart as asked for.

    Raises:
      BadExample: it is not known how far apart they are, or they become too many.
    """
    if own is None or not all(0 < step < math.inf for step in own):
        raise BadExample("other", "How far apart its pixels lie is not in the file; see config.data.input.spacing.")
    height, width = (
        max(1, round(side * step / wanted)) for side, step, wanted in zip(pixels.shape, own, spec.spacing, strict=False)
    )
    if (height, width) == pixels.shape[:2]:
        return pixels
    check_size(height, width, pixels.shape[2], spec)
    smaller = height <= pixels.shape[0] and width <= pixels.shape[1]
    filter_ = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    resize = lambda part: cv2.resize(part, (width, height), interpolation=filter_)
    resized = premultiplied(resize, pixels) if spec.alpha else by_fours(resize, pixels)
    return resized.reshape(height, width, -1)
