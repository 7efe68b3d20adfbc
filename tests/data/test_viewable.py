"""Whatever a file holds is shown in 8 bits, and what can't be read is not."""

from __future__ import annotations

import io

import numpy as np
import PIL.Image
import pytest
import tifffile

from vitfm.data import viewable
from vitfm.data.bad import BadExample


def saved(pixels: np.ndarray, format_: str) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, format_, quality=95)
    return file.getvalue()


def tiff(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, photometric="minisblack", planarconfig="contig")
    return file.getvalue()


def ramp(channels: int, dtype: type, top: float) -> np.ndarray:
    """[20,30,C] from 0 to `top`, each channel the same."""
    return np.repeat(np.linspace(0, top, 600).reshape(20, 30, 1), channels, axis=2).astype(dtype)


def test_eight_bits_are_shown_as_they_are():
    pixels = ramp(3, np.uint8, 200)
    np.testing.assert_array_equal(viewable.pixels(saved(pixels, "PNG")), pixels)


@pytest.mark.parametrize(
    "encoded",
    [
        saved(ramp(1, np.uint16, 4000)[..., 0], "PNG"),
        tiff(ramp(1, np.uint16, 60000)[..., 0]),
        tiff(ramp(2, np.uint8, 90)),
        tiff(ramp(5, np.uint16, 900)),
        tiff(ramp(3, np.float32, 0.02)),
        tiff(np.where(ramp(1, np.float32, 1)[..., 0] == 0.5, np.nan, ramp(1, np.float32, 8000)[..., 0])),
    ],
    ids=["16 bits", "TIFF of 16 bits", "two channels", "five channels", "floats", "values that are none"],
)
def test_what_is_deeper_is_shown_by_its_own_range(encoded: bytes):
    shown = viewable.pixels(encoded)
    assert shown.shape == (20, 30, 3) and shown.dtype == np.uint8
    assert shown.min() == 0 and shown.max() == 255
    np.testing.assert_allclose(shown.reshape(-1, 3), np.linspace(0, 255, 600)[:, None].repeat(3, 1), atol=4)


def test_an_image_of_one_value_is_shown():
    assert (viewable.pixels(tiff(np.full((4, 4), 7, np.uint16))) == 0).all()


def test_large_photographs_are_shrunk_while_they_are_decoded():
    small = viewable.reduced(saved(np.tile(ramp(3, np.uint8, 255), (20, 20, 1)), "JPEG"), 64)
    assert 64 <= min(small.shape[:2]) < 128 and small.shape[1] / small.shape[0] == pytest.approx(1.5, abs=0.05)
    assert viewable.reduced(saved(ramp(3, np.uint8, 255), "JPEG"), 64).shape == (20, 30, 3)


@pytest.mark.parametrize("show", [viewable.pixels, lambda encoded: viewable.reduced(encoded, 8)])
def test_what_cannot_be_read_is_not_shown(show):
    whole = saved(ramp(3, np.uint8, 255), "JPEG")
    for encoded, reason in ((b"", "empty"), (b"<html>", "format"), (whole[: len(whole) // 2], "truncated")):
        with pytest.raises(BadExample) as raised:
            show(encoded)
        assert raised.value.reason == reason
