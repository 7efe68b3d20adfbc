"""TIFF and GeoTIFF, read by tifffile: any number of channels, 1 to 64 bits, tiled or not, one page of several."""

from __future__ import annotations

import functools
import io
import logging
import math
import struct
from types import ModuleType
from typing import Any

import numpy as np
import PIL.Image

from vitfm.config import ConfigError
from vitfm.data.bad import BadExample
from vitfm.data.formats.fitting import Raw, check_size, eight_bits, upright
from vitfm.data.formats.header import Header, bad, codestream_size
from vitfm.data.inputs import Input

_ORIENTATION, _PIXEL_SCALE, _TRANSFORMATION, _NO_DATA = 274, 33550, 34264, 42113  # Tags.
_ASSOCIATED, _UNASSOCIATED = 1, 2  # Opacity by which colours are multiplied, or not.
_SIZES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}  # Of types, if not 1 byte.
_HEAD = 2**16  # Bytes of a strip or tile that say how large it is.
_LIGHT, _DARK = "MINISWHITE", "MINISBLACK"
_COLOURS = ("RGB", "YCBCR", "PALETTE", "SEPARATED")


@functools.cache
def _tifffile() -> ModuleType:
    try:
        import imagecodecs  # noqa: F401  # What tifffile decodes with.
        import tifffile
    except ImportError:
        raise ConfigError("TIFF files are read by tifffile and imagecodecs: pip install 'vitfm[tiff]'.") from None
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # What it says of damaged files is in BadExample, too.
    return tifffile


def header(encoded: bytes, kind: str, page: int | str | None) -> Header:
    """The size, and whether the pixels are there.

    Raises:
      BadExample: the header is damaged, or there is no such page.
    """
    library = _tifffile()
    try:
        file = library.TiffFile(io.BytesIO(encoded))
        pages = _pages(file, page)
        first = pages[0]
        channels = sum(one.samplesperpixel for one in pages)
        sides, turned = (int(first.imagelength), int(first.imagewidth)), _tag(first, _ORIENTATION, 1) > 4
        end = max((start + count for one in pages for start, count in _segments(one)), default=0)
        short = end > len(encoded) or _ends_early(encoded)
    except BadExample:
        raise
    except Exception as error:  # tifffile promises no kind of error for files that are damaged.
        raise bad(encoded, kind, EOFError(str(error)) if _ends_early(encoded) else error) from None
    return Header(*sides[::-1] if turned else sides, channels, "truncated" if short else None, pages)


def _ends_early(encoded: bytes) -> bool:
    """Whether the first page's tags, or what they point to, lie beyond the end."""
    order, big = {b"I": "<", b"M": ">"}[encoded[:1]], 43 in encoded[2:4]
    offset, short = ("Q", "Q") if big else ("I", "H")
    try:
        (start,) = struct.unpack_from(order + offset, encoded, 8 if big else 4)
        (count,) = struct.unpack_from(order + short, encoded, start)
        first = start + struct.calcsize(order + short)
        entry = struct.Struct(f"{order}HH{offset}{offset}")
        tags = (entry.unpack_from(encoded, first + i * entry.size) for i in range(count))
        ends = (place + _SIZES.get(kind, 1) * number for _, kind, number, place in tags if _far(kind, number, big))
        return any(end > len(encoded) for end in ends)
    except struct.error:
        return True


def _far(kind: int, number: int, big: bool) -> bool:
    """Whether a tag's values do not fit in the place where it says where they are."""
    return _SIZES.get(kind, 1) * number > (8 if big else 4)


def decode(encoded: bytes, kind: str, spec: Input, file: Any) -> Raw:
    """The page, or all as channels.

    Raises:
      BadExample: it can't be decoded.
    """
    try:
        raws = [_decoded(page, encoded, spec) for page in file]
    except BadExample:
        raise
    except Exception as error:
        unknown = isinstance(error, NotImplementedError) or "not supported" in str(error)
        raise BadExample("format", f"A TIFF: {error}") if unknown else bad(encoded, kind, error) from None
    if len(raws) == 1:
        return raws[0]
    if len({raw.pixels.shape[:2] for raw in raws}) > 1:
        raise BadExample("channels", "Its pages are of several sizes, and config.data.input.page = 'all'.")
    return raws[0]._replace(pixels=np.concatenate([raw.pixels for raw in raws], axis=2), alpha=False, colours=False)


def _pages(file: Any, page: int | str | None) -> list[Any]:
    if page == "all":
        return list(file.pages)
    index = page or 0
    if index and not -len(file.pages) <= index < len(file.pages):
        raise BadExample("other", f"{len(file.pages)} pages, and config.data.input.page = {page}.")
    return [file.pages[index]]


def _segments(page: Any) -> zip[tuple[int, int]]:
    """(start, length) of the strips or tiles."""
    return zip(page.dataoffsets, page.databytecounts, strict=False)


def _decoded(page: Any, encoded: bytes, spec: Input) -> Raw:
    photometric = getattr(page.photometric, "name", str(page.photometric))
    if page.imagedepth > 1 or page.dtype is None or photometric not in (_LIGHT, _DARK, *_COLOURS):
        raise BadExample("format", f"A TIFF of {photometric}, {page.imagedepth} deep, {page.dtype}.")
    height, width = (page.tilelength, page.tilewidth) if page.is_tiled else (page.imagelength, page.imagewidth)
    check_size(height, width, page.samplesperpixel, spec)
    inside = (codestream_size(encoded[start : start + min(count, _HEAD)]) for start, count in _segments(page))
    if any(found is not None and (found[0] > height or found[1] > width) for found in inside):
        raise BadExample("corrupt", f"A TIFF with a part of more than its {height} x {width} pixels.")
    pixels = page.asarray(maxworkers=1)
    if page.axes.startswith("S"):
        pixels = np.moveaxis(pixels, 0, -1)
    pixels = pixels.reshape(page.imagelength, page.imagewidth, -1)
    spacing, missing, orientation = _spacing(page), _tag(page, _NO_DATA, None), _tag(page, _ORIENTATION, 1)
    missing = None if missing is None else float(str(missing).strip("\0 ") or "nan")
    if photometric == "PALETTE":
        if page.colormap is None or page.colormap.ndim != 2 or len(page.colormap) != 3:
            raise BadExample("corrupt", "A TIFF with a palette that is none.")
        pixels = eight_bits(np.moveaxis(page.colormap, 0, -1))[pixels[..., 0]]
    else:
        pixels = _whole(pixels, page.bitspersample, inverted=photometric == _LIGHT)
    of_three = {"SEPARATED": ("CMYK", 4), "YCBCR": ("YCbCr", 3)}.get(photometric)
    if of_three and spec.bands is None and page.compression.name not in ("JPEG", "OJPEG"):
        mode, channels = of_three
        if pixels.dtype == np.uint8 and pixels.shape[2] == channels:
            pixels = np.asarray(PIL.Image.fromarray(np.ascontiguousarray(pixels), mode).convert("RGB"))
    extra = tuple(page.extrasamples or ())
    alpha = len(extra) == 1 and extra[0] in (_ASSOCIATED, _UNASSOCIATED) and pixels.shape[2] in (2, 4)
    if alpha and extra[0] == _ASSOCIATED and pixels.dtype.kind == "u":
        pixels = _unassociated(pixels)
    spacing = spacing[::-1] if spacing and orientation > 4 else spacing
    return Raw(upright(pixels, orientation), alpha, photometric in _COLOURS, spacing, missing)


def _whole(pixels: np.ndarray, bits: int, *, inverted: bool) -> np.ndarray:
    """Fewer than 8 bits spread over 8; `inverted` where 0 is white."""
    if pixels.dtype == bool:
        pixels, bits = pixels.astype(np.uint8) * 255, 8
    elif pixels.dtype == np.uint8 and bits in (2, 4):
        pixels, bits = pixels * (255 // (2**bits - 1)), 8
    return (2**bits - 1 - pixels).astype(pixels.dtype) if inverted and pixels.dtype.kind == "u" else pixels


def _unassociated(pixels: np.ndarray) -> np.ndarray:
    """Colours divided by the opacity they were multiplied by, rounded down, as by Pillow."""
    full = np.iinfo(pixels.dtype).max
    opacity = pixels[..., -1:].astype(np.uint64)
    colours = np.minimum(pixels[..., :-1] * np.uint64(full) // np.maximum(opacity, 1), full).astype(pixels.dtype)
    return np.concatenate([np.where(opacity == 0, pixels[..., :-1], colours), pixels[..., -1:]], axis=2)


def _spacing(page: Any) -> tuple[float, float] | None:
    """(rows, columns), in the units of the map."""
    scale, matrix = _tag(page, _PIXEL_SCALE, None), _tag(page, _TRANSFORMATION, None)
    if scale is not None:
        return float(scale[1]), float(scale[0])
    if matrix is not None:
        return math.hypot(matrix[1], matrix[5]), math.hypot(matrix[0], matrix[4])
    return None


def _tag(page: Any, code: int, default: Any) -> Any:
    found = page.tags.valueof(code, default)
    return int(found) if code == _ORIENTATION else found
