"""Image files decode to the pixels that Pillow has for them: every mode, orientation and way of being transparent."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageOps, features

from tests.data import broken
from tests.data.broken import encoded
from vitfm.data import formats, inputs
from vitfm.data.bad import BadExample

RNG = np.random.default_rng(0)
RGB, RGBA, GRAY = inputs.make(channels=3), inputs.make(channels=3, alpha=True), inputs.make(channels=1)
COLOURS = broken.picture(RNG, 37, 52)
OPACITY = np.where(broken.picture(RNG, 37, 52)[..., :1] > 90, 255, broken.picture(RNG, 37, 52)[..., :1])
FOUR = np.concatenate([COLOURS, OPACITY], axis=2)


def palette(**options: Any) -> bytes:
    return encoded(Image.fromarray(COLOURS).convert("P", palette=Image.Palette.ADAPTIVE, colors=16), "PNG", **options)


def turned(orientation: int, form: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(COLOURS, form, exif=exif, **({"lossless": True} if form == "WEBP" else {}))


def interlaced(pixels: np.ndarray) -> bytes:
    """An 8-bit PNG in the seven passes of Adam7."""
    starts = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    passes = [pixels[row::down, column::across] for row, column, down, across in starts]
    rows = b"".join(b"\0" + row.tobytes() for part in passes if part.size for row in part)
    whole = broken.png(*pixels.shape[:2], 8, 2, rows)
    head = whole[12:28] + b"\1"
    return whole[:12] + head + broken.png_chunk(head[:4], head[4:])[-4:] + whole[33:]


def few_bits(bits: int, colour: int, *chunks: bytes) -> bytes:
    """A PNG of 37 x 52 pixels of 1, 2 or 4 bits."""
    values = RNG.integers(0, 2**bits, (37, 52))
    bools = (values[..., None] >> np.arange(bits)[::-1] & 1).reshape(37, -1)
    return broken.png(37, 52, bits, colour, b"".join(b"\0" + np.packbits(row).tobytes() for row in bools), *chunks)


def ycck() -> bytes:
    cmyk = np.ascontiguousarray(np.asarray(Image.fromarray(COLOURS).convert("CMYK")))
    return imagecodecs.jpeg8_encode(cmyk, level=95, colorspace="CMYK", outcolorspace="YCCK")


LOSSLESS: dict[str, Callable[[], bytes]] = {
    "png RGB": lambda: encoded(COLOURS, "PNG"),
    "png RGBA": lambda: encoded(FOUR, "PNG"),
    "png L": lambda: encoded(COLOURS[..., 0].copy(), "PNG"),
    "png LA": lambda: encoded(Image.fromarray(FOUR).convert("LA"), "PNG"),
    "png 1": lambda: encoded(Image.fromarray(COLOURS).convert("1"), "PNG"),
    "png P": palette,
    "png P, 4 bits": lambda: palette(bits=4),
    "png P, one colour transparent": lambda: palette(transparency=3),
    "png P, colours of some opacity": lambda: palette(transparency=bytes(range(0, 256, 17))),
    "png L, one gray transparent": lambda: encoded(COLOURS[..., 0].copy(), "PNG", transparency=int(COLOURS[0, 0, 0])),
    "png RGB, one colour transparent": lambda: encoded(COLOURS, "PNG", transparency=tuple(map(int, COLOURS[0, 0]))),
    "png of two bits": lambda: few_bits(2, 0),
    "png of four bits": lambda: few_bits(4, 0),
    "png of one bit and two colours": lambda: few_bits(1, 3, broken.png_chunk(b"PLTE", bytes((9, 90, 200, 250, 1, 2)))),
    "png interlaced": lambda: interlaced(COLOURS),
    "webp RGB": lambda: encoded(COLOURS, "WEBP", lossless=True),
    "webp RGBA": lambda: encoded(FOUR, "WEBP", lossless=True, exact=True),
    "gif": lambda: encoded(COLOURS, "GIF"),
    "gif, one colour transparent": lambda: encoded(Image.fromarray(COLOURS).quantize(16), "GIF", transparency=2),
    "gif of two frames": lambda: encoded(
        Image.fromarray(COLOURS), "GIF", save_all=True, append_images=[Image.fromarray(COLOURS[::-1])]
    ),
    "bmp": lambda: encoded(COLOURS, "BMP"),
    "bmp L": lambda: encoded(COLOURS[..., 0].copy(), "BMP"),
    "ppm": lambda: encoded(COLOURS, "PPM"),
    "jp2": lambda: encoded(COLOURS, "JPEG2000"),
    **{f"png turned {i}": lambda i=i: turned(i, "PNG") for i in (3, 6)},
    **{f"webp turned {i}": lambda i=i: turned(i, "WEBP") for i in (5, 8)},
}
JPEGS: dict[str, Callable[[], bytes]] = {
    "4:2:0": lambda: encoded(COLOURS, "JPEG"),
    "4:4:4": lambda: encoded(COLOURS, "JPEG", subsampling=0, quality=95),
    "progressive": lambda: encoded(COLOURS, "JPEG", progressive=True),
    "gray": lambda: encoded(COLOURS[..., 0].copy(), "JPEG"),
    "CMYK": lambda: encoded(Image.fromarray(COLOURS).convert("CMYK"), "JPEG"),
    "YCCK": ycck,
    "trailing bytes": lambda: encoded(COLOURS, "JPEG") + bytes(5000),
    "bytes that are too many": lambda: encoded(COLOURS, "JPEG")[:-2] + b"\xab\xcd\xff\xd9",
    **{f"turned {i}": lambda i=i: turned(i, "JPEG") for i in range(1, 9)},
    "turned, says XMP": lambda: encoded(COLOURS, "JPEG", xmp=b'<x tiff:Orientation="6"/>'),
    "EXIF that is damaged": lambda: encoded(COLOURS, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f"),
    "EXIF of a ninth orientation": lambda: turned(9, "JPEG"),
}


def pillow(data: bytes, mode: str) -> np.ndarray:
    """[H,W,C] as Pillow has it, upright, what is transparent over white."""
    with Image.open(io.BytesIO(data)) as image:
        image = ImageOps.exif_transpose(image)
        if mode != "RGBA" and image.has_transparency_data:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
            image = image.convert("RGB")
        return np.asarray(image.convert(mode)).reshape(image.height, image.width, -1)


@pytest.mark.parametrize("name", LOSSLESS)
def test_pixels_are_pillows(name: str):
    data = LOSSLESS[name]()
    for spec, mode in ((RGBA, "RGBA"), (RGB, "RGB"), (GRAY, "L")):
        found, expected = formats.decode(data, spec), pillow(data, mode)
        assert found.dtype == np.uint8 and found.shape == (*formats.size(data), spec.samples)
        blended = Image.open(io.BytesIO(data)).has_transparency_data and mode != "RGBA"
        assert np.abs(found.astype(int) - expected).max() <= (1 if blended else 0)  # Pillow blends to within one.


def test_any_brand_of_avif_is_read():
    """What decides is not the first brand alone: tools write the family's, `mif1`, too."""
    if not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    data = encoded(COLOURS, "AVIF")
    for brand in (b"mif1", b"msf1"):
        again = data.replace(b"ftypavif", b"ftyp" + brand, 1)
        assert formats.kind(again) == "avif"
        np.testing.assert_array_equal(formats.decode(again, RGB), formats.decode(data, RGB))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40), "HEIC, which is to be converted"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(40), "no known format"),
        (b"\xff\x0a" + bytes(range(40)), "JPEG XL"),
    ],
)
def test_what_is_met_with_is_named(data: bytes, words: str):
    with pytest.raises(BadExample, match=words) as error:
        formats.kind(data)
    assert error.value.reason == "format"


@pytest.mark.parametrize("name", JPEGS)
def test_pixels_of_jpegs_are_nearly_pillows(name: str):
    data = JPEGS[name]()
    for spec, mode in ((RGBA, "RGBA"), (RGB, "RGB"), (GRAY, "L")):
        found = formats.decode(data, spec)
        assert found.shape == (*formats.size(data), spec.samples)
        assert np.abs(found.astype(int) - pillow(data, mode)).max() <= 2


@pytest.mark.skipif(not features.check("avif"), reason="Pillow was built without AVIF")
def test_avif():
    data = encoded(COLOURS, "AVIF", quality=90)
    np.testing.assert_array_equal(formats.decode(data, RGB), pillow(data, "RGB"))
    assert formats.kind(data) == "avif" and formats.size(data) == (37, 52)


def test_avif_that_pillow_lacks_is_refused_in_words(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(features, "check", lambda name: False)
    with pytest.raises(BadExample, match="AVIF, which the installed Pillow was built without") as error:
        formats.decode(b"\0\0\0\x1cftypavif" + bytes(100), RGB)
    assert error.value.reason == "format"


def test_all_turns_differ_and_are_upright():
    found = {formats.decode(turned(i, "PNG"), RGB).tobytes() for i in range(1, 9)}
    assert len(found) == 8
    stored = formats.decode(turned(1, "PNG"), RGB)
    np.testing.assert_array_equal(formats.decode(turned(6, "PNG"), RGB), np.rot90(stored, -1))


# Sixteen bits.

DEEP = RNG.integers(0, 2**16, (20, 31, 4), dtype=np.uint16)
WIDE = inputs.make(dtype="uint16", channels=3)
WIDE_GRAY = inputs.make(dtype="uint16", channels=1)


def deep(channels: int, *chunks: bytes) -> bytes:
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in DEEP[..., :channels])
    return broken.png(20, 31, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], rows, *chunks)


def over_white(colours: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    share = opacity / 65535
    return np.round(colours * share + 65535 * (1 - share))


def test_deep_pngs_keep_every_bit():
    np.testing.assert_array_equal(formats.decode(deep(1), WIDE_GRAY), DEEP[..., :1])
    np.testing.assert_array_equal(formats.decode(deep(3), WIDE), DEEP[..., :3])
    np.testing.assert_array_equal(formats.decode(deep(1), WIDE), np.repeat(DEEP[..., :1], 3, axis=2))
    np.testing.assert_array_equal(formats.decode(deep(4), inputs.make(dtype="uint16", channels=4)), DEEP)
    exact = inputs.make(dtype="float32", range=(0, 65535), channels=3)
    np.testing.assert_array_equal(formats.decode(deep(3), exact), DEEP[..., :3].astype(np.float32))


def test_deep_pngs_over_white():
    for channels, opacity in ((2, 1), (4, 3)):
        found = formats.decode(deep(channels), WIDE)
        expected = over_white(DEEP[..., [0, 0, 0] if channels == 2 else [0, 1, 2]], DEEP[..., [opacity]])
        assert np.abs(found - expected).max() <= 1 and found.dtype == np.uint16
    hidden = broken.png_chunk(b"tRNS", DEEP[0, 0, :1].astype(">u2").tobytes())
    found = formats.decode(deep(1, hidden), WIDE_GRAY)
    assert found[0, 0, 0] == 65535
    np.testing.assert_array_equal(found[1:], DEEP[1:, :, :1])


def test_luma_of_sixteen_bits():
    expected = DEEP[..., :3].astype(np.float64) @ (0.299, 0.587, 0.114)
    assert np.abs(formats.decode(deep(3), WIDE_GRAY)[..., 0] - expected).max() < 1
    exact = inputs.make(dtype="float32", range=(0, 65535), channels=1)
    np.testing.assert_allclose(formats.decode(deep(3), exact)[..., 0], expected, rtol=1e-5)


def test_depth_is_never_cut():
    for data, spec, words in (
        (deep(3), RGB, r"uint16, and config.data.input.dtype = 'uint8': 'uint16', or 'float32' reads them"),
        (deep(1), GRAY, "uint16"),
        (encoded(COLOURS, "PNG"), WIDE, r"uint8, and config.data.input.dtype = 'uint16': 'uint8' reads them"),
        (deep(3), inputs.make(dtype="float32"), r"up to 6\d\d\d\d, and config.data.input.range = \(0, 1\)"),
    ):
        with pytest.raises(BadExample, match=words) as error:
            formats.decode(data, spec)
        assert error.value.reason == "depth"


# Channels.


def test_bands_are_chosen_in_their_order():
    data = encoded(FOUR, "PNG")
    chosen = inputs.make(channels=2, bands=(3, 0))
    np.testing.assert_array_equal(formats.decode(data, chosen), FOUR[..., [3, 0]])
    with pytest.raises(BadExample, match=r"3 channels, and config.data.input.bands = \(3, 0\)") as error:
        formats.decode(encoded(COLOURS, "PNG"), chosen)
    assert error.value.reason == "channels"


def test_other_numbers_of_channels_are_refused():
    with pytest.raises(BadExample, match=r"3 channels, and config.data.channels = 5; config.data.input.bands") as error:
        formats.decode(encoded(COLOURS, "PNG"), inputs.make(channels=5))
    assert error.value.reason == "channels"
    np.testing.assert_array_equal(formats.decode(encoded(FOUR, "PNG"), inputs.make(channels=4)), FOUR)


def test_white_is_the_upper_end_of_the_range():
    clear = np.zeros((3, 3, 4), np.uint8)
    assert (formats.decode(encoded(clear, "PNG"), inputs.make(range=(0, 100))) == 100).all()


# What is told before decoding.


def test_kinds_are_told_by_their_first_bytes():
    named = {"JPEG": "jpeg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "JPEG2000": "jp2", "PPM": "pnm"}
    for form, kind in (*named.items(), ("TIFF", "tiff")):
        assert formats.kind(encoded(COLOURS, form)) == kind


@pytest.mark.parametrize(
    ("data", "reason", "words"),
    [
        (b"", "empty", "0 bytes"),
        (b"  <!DOCTYPE HTML><html>", "format", "no image, but HTML"),
        (b"<?xml version='1.0'?><svg/>", "format", "XML, such as SVG"),
        (b"%PDF-1.7", "format", "a PDF"),
        (b"hello", "format", "no known format: b'hello'"),
        (bytes(100), "format", "but zeros"),
    ],
)
def test_what_is_no_image_is_said(data: bytes, reason: str, words: str):
    with pytest.raises(BadExample, match=words) as error:
        formats.kind(data)
    assert error.value.reason == reason


def test_the_limit_of_pixels_is_the_recipes(monkeypatch: pytest.MonkeyPatch):
    """Neither Pillow's, which is lower than ours, nor OpenCV's."""
    data = {form: encoded(COLOURS, form) for form in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "PPM")}
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    for content in data.values():
        assert formats.decode(content, inputs.make(max_pixels=37 * 52)).shape == (37, 52, 3)
        for look in (formats.decode, formats.check):
            with pytest.raises(BadExample, match=r"37 x 52 pixels; config.data.input.max_pixels = 1923") as error:
                look(content, inputs.make(max_pixels=37 * 52 - 1))
            assert error.value.reason == "too_large"
