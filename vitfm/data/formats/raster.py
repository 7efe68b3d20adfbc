"""JPEG, PNG, WebP, AVIF, GIF, BMP, JPEG 2000 and PNM: the pixels that Pillow has for them."""

from __future__ import annotations

import io
import warnings
from typing import Any

import cv2
import numpy as np
import PIL.features
import PIL.Image
import simplejpeg
from PIL import JpegImagePlugin

from vitfm.data import jpeg
from vitfm.data.bad import BadExample
from vitfm.data.formats import header as headers
from vitfm.data.formats.fitting import Raw, check_size, upright
from vitfm.data.formats.header import Header, bad
from vitfm.data.inputs import Input

cv2.utils.logging.setLogLevel(0)  # What it says of damaged files is in BadExample, too.
warnings.filterwarnings("ignore", module=r"PIL\.")  # Such as of damaged EXIF, which is passed over.

# Kind -> Pillow's name; what a Pillow may lack.
_NAMES = {"avif": "AVIF", "bmp": "BMP", "gif": "GIF", "jp2": "JPEG2000", "png": "PNG", "pnm": "PPM", "webp": "WEBP"}
_CODECS = {"avif": "avif", "jp2": "jpg_2000", "webp": "webp"}
_ORIENTATION = 0x0112
_METADATA = (b"eXIf", b"iTXt", b"tEXt", b"zTXt")  # Chunks of a PNG that may say how it is turned.
# What the decoder says of JPEGs that are whole: cameras and editors leave such behind.
_HARMLESS = ("extraneous bytes before marker", "Invalid SOS parameters", "JFIF revision", "Adobe color transform")
# Pillow's modes that are read as another.
_MODES = {"1": "L", "La": "LA", "PA": "RGBA", "RGBa": "RGBA"} | dict.fromkeys(
    ("CMYK", "HSV", "LAB", "RGBX", "YCbCr"), "RGB"
)
_DEEP = {"I;16": np.uint16, "I;16L": np.uint16, "I;16B": np.uint16, "I": np.int32, "F": np.float32}


def header(encoded: bytes, kind: str, page: int | str | None) -> Header:
    """The size, and whether the end is there.

    Raises:
      BadExample: the header is damaged.
    """
    del page  # Animations and the like are their first frame.
    if kind == "jpeg":
        known, flaw = jpeg.header(encoded), headers.jpeg_flaw(encoded)
        if known is None:
            return _seen(encoded, kind, flaw)
        sides = (known.height, known.width) if known.orientation <= 4 else (known.width, known.height)
        return Header(*sides, flaw=flaw, file=known)
    if kind == "png":
        known = headers.png(encoded)
        by_pillow = known.bits < 16 and not known.chunks.keys().isdisjoint(_METADATA)
    elif kind == "webp":
        known = headers.webp(encoded)
        by_pillow = known.extended
    else:
        flaws = {"gif": headers.gif_flaw, "avif": headers.boxes_flaw, "jp2": headers.boxes_flaw}
        return _seen(encoded, kind, flaws[kind](encoded) if kind in flaws else None)
    if by_pillow:
        return _seen(encoded, kind, known.flaw)
    return Header(known.height, known.width, flaw=known.flaw, file=known)


def decode(encoded: bytes, kind: str, spec: Input, file: Any) -> Raw:
    """All pixels.

    Raises:
      BadExample: they can't be decoded.
    """
    if isinstance(file, jpeg.Header) and (pixels := _jpeg(encoded)) is not None:
        return Raw(jpeg.upright(pixels, file.orientation))
    if isinstance(file, headers.Png) and file.bits == 16:
        return _deep_png(encoded, file)
    if isinstance(file, headers.Webp):
        return _coloured(_by_opencv(encoded, kind))
    image = file if isinstance(file, PIL.Image.Image) else _opened(encoded, kind)
    check_size(image.height, image.width, 4, spec)  # A file may hold more than its header says.
    return _by_pillow(image, encoded, kind)


def _jpeg(encoded: bytes) -> np.ndarray | None:
    """uint8 [H,W,3], as stored; None where it is only unusual."""
    try:
        return simplejpeg.decode_jpeg(encoded)
    except ValueError as error:
        if any(words in str(error) for words in _HARMLESS):
            return None
        raise bad(encoded, "jpeg", error) from None


def _deep_png(encoded: bytes, known: headers.Png) -> Raw:
    """16-bit, which Pillow cuts to 8."""
    raw = _coloured(_by_opencv(encoded, "png"))
    if raw.pixels.shape[2] == 1 and b"tRNS" in known.chunks:  # One gray value is transparent; OpenCV forgets it.
        hidden = int.from_bytes(known.chunks[b"tRNS"], "big")
        opacity = np.where(raw.pixels == hidden, 0, 65535).astype(np.uint16)
        raw = Raw(np.concatenate([raw.pixels, opacity], axis=2), alpha=True)
    orientation = 1 if known.chunks.keys().isdisjoint(_METADATA) else _orientation(_opened(encoded, "png"))
    return raw._replace(pixels=upright(raw.pixels, orientation))


def _by_opencv(encoded: bytes, kind: str) -> np.ndarray:
    try:
        pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise bad(encoded, kind, error) from None
    if pixels is None:
        raise bad(encoded, kind, "OpenCV can't decode them")
    return pixels


def _coloured(pixels: np.ndarray) -> Raw:
    """OpenCV's order of channels to ours."""
    if pixels.ndim == 2:
        return Raw(pixels[..., None])
    alpha = pixels.shape[2] == 4
    return Raw(cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA if alpha else cv2.COLOR_BGR2RGB), alpha)


def _opened(encoded: bytes, kind: str) -> PIL.Image.Image:
    """The file, its header read; without the limits of `PIL.Image.open`, for a specification has its own."""
    if kind in _CODECS and not PIL.features.check(_CODECS[kind]):
        raise BadExample("format", f"{kind.upper()}, which the installed Pillow was built without.")
    PIL.Image.init()
    try:
        if kind == "jpeg":
            return JpegImagePlugin.JpegImageFile(io.BytesIO(encoded))
        return PIL.Image.OPEN[_NAMES[kind]][0](io.BytesIO(encoded), "")
    except Exception as error:  # Pillow promises no kind of error for files that are damaged.
        raise bad(encoded, kind, error) from None


def _by_pillow(image: PIL.Image.Image, encoded: bytes, kind: str) -> Raw:
    try:
        image.load()
        mode = _MODES.get(image.mode, image.mode)
        if image.has_transparency_data:
            mode = "LA" if mode in ("L", "LA") else "RGBA"
        elif mode == "P":
            mode = "RGB"
        pixels = np.asarray(image if mode == image.mode else image.convert(mode))
    except Exception as error:
        raise bad(encoded, kind, error) from None
    if mode in _DEEP:
        pixels = pixels.astype(np.uint16 if kind == "pnm" and mode == "I" else _DEEP[mode])
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    return Raw(upright(pixels, _orientation(image)), alpha=mode in ("LA", "RGBA"))


def _orientation(image: PIL.Image.Image) -> int:
    """EXIF's, from 1, upright, to 8; upright where it is damaged."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:
        return 1
    return found if found in range(1, 9) else 1


def _seen(encoded: bytes, kind: str, flaw: str | None) -> Header:
    """The size that Pillow finds."""
    try:
        image = _opened(encoded, kind)
    except BadExample as error:
        raise error if flaw is None or error.reason == "format" else BadExample(flaw, str(error)) from None
    sides = image.size if _orientation(image) > 4 else image.size[::-1]
    return Header(*sides, flaw=flaw, file=image)
