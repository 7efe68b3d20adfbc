"""Image files, told by their first bytes and not by their names: what kind, how large, and their pixels.

    kind(encoded)            "jpeg"
    size(encoded)            (375, 500), as seen, from the header alone
    decode(encoded, spec)    pixels as an input specification wants them

Each family of formats has a file, with `header(encoded, kind, page)` and `decode(encoded, kind, spec, header.file)`.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np

from vitfm.data.bad import BadExample
from vitfm.data.formats import dicom, fitting, raster, tiff
from vitfm.data.formats.header import Header
from vitfm.data.inputs import Input

# Kind -> its first bytes, after so many others.
_MAGIC = (
    ("dicom", 128, b"DICM"),  # First: what lies before may be the header of a TIFF, which reads the same pixels.
    ("jpeg", 0, b"\xff\xd8\xff"),
    ("png", 0, b"\x89PNG\r\n\x1a\n"),
    ("gif", 0, b"GIF87a"),
    ("gif", 0, b"GIF89a"),
    ("bmp", 0, b"BM"),
    ("tiff", 0, b"II*\0"),
    ("tiff", 0, b"MM\0*"),
    ("tiff", 0, b"II+\0"),
    ("tiff", 0, b"MM\0+"),
    ("jp2", 0, b"\0\0\0\x0cjP  \r\n\x87\n"),
    ("jp2", 0, b"\xff\x4f\xff\x51"),
    *(("pnm", 0, b"P%d" % number + space) for number in range(1, 7) for space in (b"\n", b" ", b"\r", b"\t")),
    ("webp", 8, b"WEBP"),
)
_AVIF, _HEIC = {b"avif", b"avis"}, {b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"}  # Brands.
# What else is met with in such collections, for messages: words -> first bytes.
_OTHERS = {
    "HTML": (b"<!doctype html", b"<html", b"<!--", b"<head"),
    "XML, such as SVG": (b"<?xml", b"<svg"),
    "JSON": (b"{", b"["),
    "a PDF": (b"%pdf",),
    "a ZIP archive": (b"pk\x03\x04",),
    "JPEG XL, which is to be converted to JPEG": (b"\xff\x0a", b"\0\0\0\x0cjxl "),
}


def kind(encoded: bytes) -> str:
    """What the first bytes say: jpeg, png, webp, avif, gif, bmp, tiff, dicom, jp2 or pnm.

    Raises:
      BadExample: no bytes, or none of these.
    """
    if not len(encoded):
        raise BadExample("empty", "0 bytes.")
    for name, position, magic in _MAGIC:
        if encoded[position : position + len(magic)] == magic:
            return name
    brands = _brands(encoded)
    if brands & _AVIF:
        return "avif"
    start = bytes(encoded[:64]).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    known = next((words for words, starts in _OTHERS.items() if start.startswith(starts)), "")
    known = "HEIC, which is to be converted to JPEG" if brands & _HEIC else known
    found = known or ("no known format" if any(encoded[:64]) else "zeros")
    raise BadExample("format", f"{len(encoded)} bytes that are no image, but {found}: {bytes(encoded[:16])!r} ...")


def _brands(encoded: bytes) -> set[bytes]:
    """What an ISO base media file says it is: the major brand, and those it is compatible with."""
    if encoded[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(encoded[:4], "big"), len(encoded), 256)
    return {bytes(encoded[start : start + 4]) for start in (8, *range(16, end, 4))}


def size(encoded: bytes) -> tuple[int, int]:
    """(height, width) as seen, from the header.

    Raises:
      BadExample: no image, or one with a header that can't be read.
      ConfigError: an extra is not installed.
    """
    name = kind(encoded)
    found = _family(name).header(encoded, name, None)
    return found.height, found.width


def check(encoded: bytes, spec: Input) -> None:
    """Refuses what can be told without decoding: too large, or not all there.

    Raises:
      BadExample, ConfigError: as `decode`, as far as that can be told.
    """
    _checked(encoded, kind(encoded), spec)


def decode(encoded: bytes, spec: Input) -> np.ndarray:
    """The whole image, upright, [H,W,C] as `spec` says.

    Gray becomes three equal channels, colours become luma for one (as Pillow's "L"), and what is transparent shows
    white unless opacity is kept. Other numbers of channels, and numbers of another type, are bad examples. So is what
    is damaged, as far as that can be told: a JPEG in which bits are flipped mostly decodes to some image.

    Raises:
      BadExample: it can't be used, and why.
      ConfigError: an extra is not installed.
    """
    return fitting.fit(raw(encoded, spec), spec)


def raw(encoded: bytes, spec: Input) -> fitting.Raw:
    """The image as its file has it, of any type and channels, of the page and through the window of `spec`.

    Raises:
      BadExample: it can't be decoded.
      ConfigError: an extra is not installed.
    """
    name = kind(encoded)
    found = _checked(encoded, name, spec)
    return _family(name).decode(encoded, name, spec, found.file)


def _checked(encoded: bytes, name: str, spec: Input) -> Header:
    found = _family(name).header(encoded, name, spec.page)
    fitting.check_size(found.height, found.width, found.channels, spec)
    if found.flaw is not None:
        flaw = {"truncated": "end before the image does", "corrupt": "are damaged"}[found.flaw]
        raise BadExample(found.flaw, f"{len(encoded)} bytes of {name.upper()} {flaw}.")
    return found


def _family(name: str) -> ModuleType:
    return {"tiff": tiff, "dicom": dicom}.get(name, raster)
