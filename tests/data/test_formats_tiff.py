"""TIFF and GeoTIFF: the numbers that were written, whatever their type, order, compression and page."""

from __future__ import annotations

import io
import sys
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.data import broken
from tests.data.broken import encoded
from vitfm.config import ConfigError
from vitfm.data import formats, inputs
from vitfm.data.bad import BadExample
from vitfm.data.formats import tiff

RNG = np.random.default_rng(0)
HEIGHT, WIDTH = 37, 52
COLOURS = broken.picture(RNG, HEIGHT, WIDTH)
OPACITY = broken.picture(RNG, HEIGHT, WIDTH)[..., :1]
RGB, GRAY = inputs.make(), inputs.make(channels=1)


def written(pixels: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def numbers(dtype: str, channels: int = 1) -> np.ndarray:
    """[H,W,C] over all of the type's range, or of any size and sign for floats."""
    kind, shape = np.dtype(dtype), (HEIGHT, WIDTH, channels)
    if kind.kind == "f":
        return (RNG.normal(size=shape) * 1000).astype(kind)
    limits = np.iinfo(kind)
    return RNG.integers(limits.min, limits.max, shape, dtype=kind, endpoint=True)


def exactly(channels: int, **options: Any) -> inputs.Input:
    return inputs.make(dtype="float32", range=(-1000, 1000), channels=channels, **options)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float16", "float32", "float64", "int32"])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "zstd"])
def test_numbers_are_those_that_were_written(dtype: str, compression: str | None):
    values = numbers(dtype)
    data = written(values[..., 0], compression=compression, predictor=compression == "zlib" and dtype != "float16")
    found = formats.decode(data, exactly(1))
    np.testing.assert_array_equal(found, values.astype(np.float32))
    assert found.dtype == np.float32 and formats.size(data) == (HEIGHT, WIDTH)
    if dtype.startswith("uint"):
        own = formats.decode(data, inputs.make(dtype=dtype, channels=1))
        assert own.dtype == dtype
        np.testing.assert_array_equal(own, values)
    else:
        with pytest.raises(BadExample, match=f"of type {dtype}, .* 'float32' reads them") as error:
            formats.decode(data, inputs.make(dtype="uint16", channels=1))
        assert error.value.reason == "depth"


@pytest.mark.parametrize(
    "options", [{}, {"tile": (16, 32)}, {"rowsperstrip": 5}, {"bigtiff": True}, {"byteorder": ">"}]
)
@pytest.mark.parametrize("planes", ["contig", "separate"])
@pytest.mark.parametrize("channels", [2, 3, 13])
def test_channels_interleaved_or_in_planes(options: dict[str, Any], planes: str, channels: int):
    values = numbers("uint16", channels)
    stored = values if planes == "contig" else np.moveaxis(values, 2, 0)
    data = written(stored, photometric="minisblack", planarconfig=planes, compression="zlib", **options)
    found = formats.decode(data, inputs.make(dtype="uint16", channels=channels))
    np.testing.assert_array_equal(found, values)


def test_bands_of_many():
    values = numbers("uint16", 13)
    data = written(values, photometric="minisblack", planarconfig="contig")
    natural = inputs.make(dtype="uint16", channels=3, bands=(3, 2, 1))
    np.testing.assert_array_equal(formats.decode(data, natural), values[..., [3, 2, 1]])
    with pytest.raises(BadExample, match="13 channels, and config.data.channels = 3; config.data.input.bands"):
        formats.decode(data, inputs.make(dtype="uint16"))
    three = written(values[..., :3], photometric="minisblack", planarconfig="contig")
    with pytest.raises(BadExample, match="3 channels, and config.data.channels = 1"):  # Which are no colours.
        formats.decode(three, inputs.make(dtype="uint16", channels=1))


def test_pages():
    pages = [numbers("uint16") for _ in range(3)]
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for page in pages:
            writer.write(page[..., 0], contiguous=False)
    data = buffer.getvalue()
    for page, index in ((None, 0), (0, 0), (2, 2), (-1, 2)):
        found = formats.decode(data, inputs.make(dtype="uint16", channels=1, page=page))
        np.testing.assert_array_equal(found, pages[index])
    together = formats.decode(data, inputs.make(dtype="uint16", channels=3, page="all"))
    np.testing.assert_array_equal(together, np.concatenate(pages, axis=2))
    for page in (3, -4):
        with pytest.raises(BadExample, match=f"3 pages, and config.data.input.page = {page}") as error:
            formats.decode(data, inputs.make(dtype="uint16", channels=1, page=page))
        assert error.value.reason == "other"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_modes_of_pillow(mode: str, compression: str):
    image = Image.fromarray(np.concatenate([COLOURS, OPACITY], axis=2)).convert("RGB" if mode != "RGBA" else "RGBA")
    image = image.convert(mode)
    data = encoded(image, "TIFF", compression=compression)
    for spec, wanted in ((RGB, "RGB"), (GRAY, "L"), (inputs.make(alpha=True), "RGBA")):
        if mode in ("LA", "RGBA") and wanted != "RGBA":
            white = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
            expected, tolerance = white.convert("RGB").convert(wanted), 1
        else:
            expected, tolerance = image.convert(wanted), int(mode == "YCbCr" and wanted == "L")  # Its Y is no luma.
        found = formats.decode(data, spec)
        assert np.abs(found.astype(int) - np.asarray(expected).reshape(found.shape)).max() <= tolerance


def test_jpeg_inside():
    data = encoded(COLOURS, "TIFF", compression="jpeg", quality=95)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.abs(formats.decode(data, RGB).astype(int) - expected).max() <= 2


def test_opacity_that_colours_were_multiplied_by():
    whole = np.concatenate([(COLOURS * (OPACITY / 255)).astype(np.uint8), OPACITY], axis=2)
    data = written(whole, photometric="rgb", extrasamples=["assocalpha"])
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))
    np.testing.assert_array_equal(formats.decode(data, inputs.make(alpha=True)), expected)


def test_a_fourth_channel_that_is_no_opacity():
    data = written(np.concatenate([COLOURS, OPACITY], axis=2), photometric="rgb", extrasamples=["unspecified"])
    with pytest.raises(BadExample, match="4 channels, and config.data.channels = 3"):
        formats.decode(data, RGB)
    np.testing.assert_array_equal(formats.decode(data, inputs.make(bands=(0, 1, 2))), COLOURS)


def test_white_is_zero():
    values = numbers("uint16")
    data = written(values[..., 0], photometric="miniswhite")
    np.testing.assert_array_equal(formats.decode(data, inputs.make(dtype="uint16", channels=1)), 65535 - values)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned(orientation: int):
    data = written(COLOURS, photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
    upright = formats.fitting.upright(COLOURS, orientation)
    np.testing.assert_array_equal(formats.decode(data, RGB), upright)
    assert formats.size(data) == upright.shape[:2]


def test_no_data_is_filled():
    values = numbers("float32")
    values[0, 0], values[1, 1], values[2, 2] = np.nan, -np.inf, -9999
    data = written(values[..., 0], extratags=[(42113, "s", 0, "-9999", True)])
    with pytest.raises(
        BadExample, match="0.10% of its values are NaN or infinite; see config.data.input.fill"
    ) as error:
        formats.decode(data, exactly(1))
    assert error.value.reason == "other"
    found = formats.decode(data, exactly(1, fill=7.0))
    assert found[0, 0] == found[1, 1] == found[2, 2] == 7 and (found == 7).sum() == 3
    whole = numbers("uint16") | 1
    whole[3, 4] = 0
    marked = written(whole[..., 0], extratags=[(42113, "s", 0, "0", True)])
    filled = formats.decode(marked, inputs.make(dtype="uint16", channels=1, fill=500))
    assert filled[3, 4] == 500 and np.array_equal(np.delete(filled, 160), np.delete(whole, 160))


# Spacing.


def scene(pixels: np.ndarray, *, scale: tuple[float, float] | None = None, **options: Any) -> bytes:
    """A GeoTIFF with (columns, rows) of a map's units to a pixel."""
    tags = [(33550, "d", 3, (*scale, 0.0), True)] if scale else []
    return written(pixels, extratags=tags + options.pop("extratags", []), photometric="minisblack", **options)


def test_pixels_become_as_far_apart_as_asked_for():
    values = np.repeat(np.repeat(np.arange(200, dtype=np.uint16).reshape(10, 20), 4, 0), 2, 1)
    data = scene(values, scale=(10, 5))
    found = formats.decode(data, inputs.make(dtype="uint16", channels=1, spacing=20))
    np.testing.assert_array_equal(found[..., 0], values[::4, ::2])  # Means of equal pixels.
    assert formats.decode(data, inputs.make(dtype="uint16", channels=1, spacing=(5, 10))).shape == (40, 40, 1)
    assert formats.decode(data, inputs.make(dtype="uint16", channels=1, spacing=2.5)).shape == (80, 160, 1)
    for channels, dtype in ((13, "float32"), (5, "uint16")):
        many = np.repeat(values[..., None], channels, 2).astype(dtype)
        spec = inputs.make(dtype=dtype, range=(0, 300), channels=channels, spacing=20)
        found = formats.decode(scene(many, scale=(10, 5), planarconfig="contig"), spec)
        np.testing.assert_array_equal(found, np.repeat(values[::4, ::2, None], channels, 2))


def test_spacing_of_a_turned_map():
    matrix = (0, 3, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1)
    data = scene(numbers("uint16")[..., 0], extratags=[(34264, "d", 16, matrix, True)])
    found = formats.decode(data, inputs.make(dtype="uint16", channels=1, spacing=(1, 1)))
    assert found.shape == (3 * HEIGHT, 4 * WIDTH, 1)


def test_spacing_that_is_not_known_or_too_fine_is_refused():
    spec = inputs.make(dtype="uint16", channels=1, spacing=0.001)
    with pytest.raises(BadExample, match="not in the file; see config.data.input.spacing") as error:
        formats.decode(written(numbers("uint16")[..., 0]), spec)
    assert error.value.reason == "other"
    with pytest.raises(BadExample, match="370000 x 520000 pixels") as error:
        formats.decode(scene(numbers("uint16")[..., 0], scale=(10, 10)), spec)
    assert error.value.reason == "too_large"


# What can't be read.


def test_too_many_values_are_told_from_the_tags():
    data = written(np.zeros((8, 8, 600), np.uint8), photometric="minisblack", planarconfig="contig")
    with pytest.raises(BadExample, match="8 x 8 pixels of 600 channels; config.data.input.max_pixels = 9599") as error:
        formats.decode(data, inputs.make(channels=600, max_pixels=8 * 8 * 150 - 1))
    assert error.value.reason == "too_large"
    assert formats.decode(data, inputs.make(channels=600, max_pixels=8 * 8 * 150)).shape == (8, 8, 600)


def test_an_extra_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "tifffile", None)
    tiff._tifffile.cache_clear()
    with pytest.raises(ConfigError, match=r"pip install 'vitfm\[tiff\]'"):
        formats.decode(written(numbers("uint8")[..., 0]), GRAY)
    tiff._tifffile.cache_clear()


def test_volumes_and_other_colours_are_refused():
    volume = written(np.zeros((16, 16, 16), np.uint8), volumetric=True, tile=(16, 16, 16), photometric="minisblack")
    lab = encoded(Image.fromarray(COLOURS).convert("LAB"), "TIFF")
    for data, words in ((volume, "16 deep"), (lab, "CIELAB")):
        with pytest.raises(BadExample, match=words) as error:
            formats.decode(data, RGB)
        assert error.value.reason == "format"
