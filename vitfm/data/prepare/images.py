"""An encoded image as it is stored, and what TFDS wants to know of images beforehand."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence

import cv2
import numpy as np
import PIL.Image

from vitfm.data import formats
from vitfm.data.bad import BadExample
from vitfm.data.inputs import Input
from vitfm.data.sampling import by_fours, premultiplied

_QUALITY = 95  # Of JPEGs, where images are made smaller.
_ANY = Input()  # Any numbers and channels; only too many pixels are refused.


def stored(encoded: bytes, check: bool, resize: int | None) -> bytes:
    """An image as it is stored: as it is, unless it is larger than asked for.

    Args:
      encoded: the image.
      check: decode it, to see whether it can be.
      resize: of the shorter side, in pixels; None for any.

    Raises:
      BadExample: it can't be decoded, or is no image.
    """
    if resize is not None and min(formats.size(encoded)) > resize:
        return _smaller(encoded, resize)
    if check:
        formats.raw(encoded, _ANY)
    else:
        formats.kind(encoded)
    return encoded


def facts(encoded: Sequence[bytes]) -> tuple[int, str]:
    """Channels and type of images, as TFDS declares them: 3 and uint8 where they differ."""
    raws = []
    for image in encoded:
        with contextlib.suppress(BadExample):
            raws.append(formats.raw(image, _ANY).pixels)
    channels = {pixels.shape[2] for pixels in raws}
    types = {pixels.dtype.name for pixels in raws}
    return (channels.pop() if channels in ({1}, {4}) else 3), "uint16" if types == {"uint16"} else "uint8"


def _smaller(encoded: bytes, size: int) -> bytes:
    """A JPEG, or with opacity a PNG, of this shorter side; as it is, if it has other than 8 bits, or bands."""
    raw = formats.raw(encoded, _ANY)
    pixels, channels = raw.pixels, raw.pixels.shape[2]
    if pixels.dtype != np.uint8 or not raw.colours or channels != {True: 4}.get(raw.alpha, 1 if channels == 1 else 3):
        return encoded
    scale = size / min(pixels.shape[:2])
    width, height = (max(size, round(side * scale)) for side in pixels.shape[1::-1])
    resample = lambda part: cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)
    pixels = premultiplied(resample, pixels) if raw.alpha else by_fours(resample, pixels)
    made = io.BytesIO()
    picture = PIL.Image.fromarray(pixels.reshape(height, width) if channels == 1 else pixels)
    picture.save(made, "PNG") if raw.alpha else picture.save(made, "JPEG", quality=_QUALITY)
    return made.getvalue()
