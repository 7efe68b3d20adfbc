"""Any image that can be read, as people look at it: 8-bit RGB, whatever is asked of it for training."""

from __future__ import annotations

import numpy as np

from vitfm.data import formats
from vitfm.data.bad import BadExample
from vitfm.data.inputs import Input
from vitfm.data.picture import Picture

_PLAIN = Input()
_DEEPER = ("depth", "channels", "other")  # Reasons for which 8-bit RGB is no measure.
_ENDS = (1, 99)  # Percentiles that become black and white.


def pixels(encoded: bytes) -> np.ndarray:
    """uint8 [H,W,3]: 8-bit images as they are; of others the first three channels, or the first, by their own range.

    Raises:
      BadExample: it can't be decoded.
    """
    try:
        return formats.decode(encoded, _PLAIN)
    except BadExample as error:
        if error.reason not in _DEEPER:
            raise
    try:
        return stretched(_bands(encoded, (0, 1, 2)))
    except BadExample as error:
        if error.reason != "channels":
            raise
    return stretched(_bands(encoded, (0,)))


def _bands(encoded: bytes, bands: tuple[int, ...]) -> np.ndarray:
    """Some channels as they are, float32 [H,W,C]."""
    return formats.decode(encoded, Input(len(bands), dtype="float32", range=(0.0, 65535.0), bands=bands, fill=0.0))


def reduced(encoded: bytes, side: int) -> np.ndarray:
    """The same at a fraction of the size, where that is quicker; the shorter side keeps at least `side` pixels.

    Raises:
      BadExample: it can't be decoded, or is not all there.
    """
    formats.check(encoded, _PLAIN)
    if formats.kind(encoded) != "jpeg":  # Which alone can be decoded so.
        return pixels(encoded)
    picture = Picture(encoded, _PLAIN)
    times = min(picture.height, picture.width) // side
    return picture.upper(picture.height, 2 ** max(0, times.bit_length() - 1))[0]


def stretched(values: np.ndarray) -> np.ndarray:
    """float32 [H,W,1 or 3] -> uint8 [H,W,3], from its darkest to its brightest values."""
    low, high = np.percentile(values, _ENDS)
    scaled = np.clip((values - low) / max(high - low, 1e-6), 0, 1)
    return np.repeat(np.round(255 * scaled).astype(np.uint8), 3 // values.shape[-1], axis=-1)
