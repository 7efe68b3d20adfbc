"""Two hundred hostile files, and what has to become of each where 8-bit RGB is read.

expected = broken.write(folder, seed=0)      {"000_truncated.jpg": "truncated", "014_cmyk.jpg": None, ...}
"""

from __future__ import annotations

import functools
import io
import pathlib
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
from PIL import Image

COUNT = 200
SUFFIXES = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp"}
_ORIENTATION = 0x0112
File = tuple[str, str, bytes, str | None]  # What it is, its suffix, its bytes, why it is bad: None for an image.


def write(folder: pathlib.Path, seed: int) -> dict[str, str | None]:
    """Writes them and returns their names, each with the reason for which it is bad; None for those that are images."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for number, (what, suffix, content, reason) in enumerate(files(np.random.default_rng(seed))):
        name = f"{number:03}_{what}.{suffix}"
        (folder / name).write_bytes(content)
        found[name] = reason
    return found


def files(rng: np.random.Generator) -> Iterator[File]:
    """All of them."""
    made = [*_truncated(rng), *_flipped(rng), *_no_images(), *_bombs(rng), *_unusual(rng)]
    assert len(made) == COUNT, len(made)
    return iter(made)


def picture(rng: np.random.Generator, height: int | None = None, width: int | None = None) -> np.ndarray:
    """uint8 [H,W,3], smooth but for a little noise, and no two alike."""
    height, width = height or int(rng.integers(24, 96)), width or int(rng.integers(24, 96))
    coarse = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR).astype(int)
    return np.clip(smooth + rng.integers(-4, 5, smooth.shape), 0, 255).astype(np.uint8)


def encoded(image: np.ndarray | Image.Image, form: str, **options: Any) -> bytes:
    """Pillow's file of it."""
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, form, **options)
    return buffer.getvalue()


def png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(height: int, width: int, bits: int, colour: int, rows: bytes, *others: bytes) -> bytes:
    """A PNG of these rows, each with its filter before it."""
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    ends = png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(others) + ends


def deep_png(pixels: np.ndarray) -> bytes:
    """uint16 [H,W] or [H,W,3] as a PNG of 16 bits."""
    return cv2.imencode(".png", pixels[..., ::-1] if pixels.ndim == 3 else pixels)[1].tobytes()


def changed(content: bytes, position: int, new: bytes) -> bytes:
    return content[:position] + new + content[position + len(new) :]


def frame(jpeg: bytes) -> int:
    """Where a JPEG says how many bits, rows and columns it has: after the marker and length of its frame."""
    return next(jpeg.index(marker) for marker in (b"\xff\xc0", b"\xff\xc2") if marker in jpeg) + 4


def _truncated(rng: np.random.Generator) -> Iterator[File]:
    """Sixty that end at some point after the bytes that tell what they are."""
    kinds: list[tuple[str, dict[str, Any]]] = [(form, {}) for form in ("JPEG", "PNG", "WEBP", "GIF", "BMP")]
    for form, options in (*kinds, ("JPEG", {"progressive": True})):
        for _ in range(10):
            content = encoded(picture(rng), form, **options)
            yield "truncated", SUFFIXES[form], content[: rng.integers(16, len(content) - 8)], "truncated"


def _flipped(rng: np.random.Generator) -> Iterator[File]:
    """Thirty-five with a byte in their header that is another."""
    flip = lambda content, position: changed(content, position, bytes([content[position] ^ int(rng.integers(1, 256))]))
    for form in ("JPEG", "PNG", "GIF"):
        for _ in range(3):
            yield "flipped", SUFFIXES[form], flip(encoded(picture(rng), form), int(rng.integers(3))), "format"
    for _ in range(8):  # The checksum of the size, the depth and so on does not fit.
        yield "flipped", "png", flip(encoded(picture(rng), "PNG"), int(rng.integers(16, 29))), "corrupt"
    for _ in range(4):
        content = encoded(picture(rng), "PNG")
        yield "flipped", "png", flip(content, content.index(b"IDAT") + 4 + int(rng.integers(100))), "corrupt"
    for new in (b"\x08\0\0", b"\x09", b"\x08\0\0"):  # No rows, nine bits.
        content = encoded(picture(rng), "JPEG")
        yield "flipped", "jpg", changed(content, frame(content), new), "corrupt"
    for _ in range(4):
        yield "flipped", "webp", flip(encoded(picture(rng), "WEBP"), 12 + int(rng.integers(3))), "corrupt"
    for _ in range(4):  # Seven bits.
        yield "flipped", "bmp", changed(encoded(picture(rng), "BMP"), 28, b"\x07"), "corrupt"
    for form in ("JPEG", "PNG", "WEBP"):
        yield "zeros", SUFFIXES[form], bytes(len(encoded(picture(rng), form))), "format"


def _no_images() -> Iterator[File]:
    """Thirty that never were any."""
    for i in range(12):
        yield "empty", ("jpg", "png", "webp", "gif")[i % 4], b"", "empty"
    pages = (
        b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head><body>Gone.</body></html>\n",
        b"<html><script>location = '/login'</script></html>",
        b"\xef\xbb\xbf<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
        b'{"error": "rate limit"}',
        b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        b"GIF",
    )
    for i in range(18):
        yield "html", ("jpg", "png", "jpg")[i // 6], pages[i % 6], "format"


def _bombs(rng: np.random.Generator) -> Iterator[File]:
    """Twelve that say they are larger than anything, one of which is."""
    side = struct.pack(">H", 65_500)
    for progressive in (False, True):
        content = encoded(picture(rng), "JPEG", progressive=progressive)
        yield "bomb", "jpg", changed(content, frame(content) + 1, side * 2), "too_large"
    for form in ("jpg", "png"):  # Whatever it is called.
        yield "bomb", form, png(60_000, 60_000, 8, 2, b"\0" * 1000), "too_large"
    yield "bomb", "png", png(2**31 - 1, 2**31 - 1, 8, 6, b""), "too_large"
    yield "bomb", "png", _real_bomb(), "too_large"
    yield "bomb", "gif", changed(encoded(picture(rng), "GIF"), 6, b"\xff" * 4), "too_large"
    yield "bomb", "bmp", changed(encoded(picture(rng), "BMP"), 18, struct.pack("<ii", 100_000, 100_000)), "too_large"
    alpha = encoded(np.dstack([picture(rng, 9, 9), np.arange(81, dtype=np.uint8).reshape(9, 9)]), "WEBP")
    yield "bomb", "webp", changed(alpha, 24, (2**14 - 1).to_bytes(3, "little") * 2), "too_large"
    for wide in (False, True):
        sides = (3, 2**27) if wide else (2**27, 3)
        yield "bomb", "png", png(*sides, 1, 0, b""), "too_large"
    yield "bomb", "ppm", b"P6\n60000 60000\n255\n", "too_large"


@functools.cache
def _real_bomb() -> bytes:
    """32 kB of white pixels, 16384 each way: there is nothing wrong with them."""
    return png(16_384, 16_384, 1, 0, (b"\0" + b"\xff" * 2048) * 16_384)


def _unusual(rng: np.random.Generator) -> Iterator[File]:
    """Sixty-three that are images, but for ten of 16 bits."""
    for form, suffix in (("PNG", "jpg"), ("JPEG", "png"), ("WEBP", "gif"), ("GIF", "jpg"), ("BMP", "webp")) * 2:
        yield "suffix", suffix, encoded(picture(rng), form), None
    for shape in ((), (3,)) * 5:
        yield "deep", "png", deep_png(rng.integers(0, 2**16, (20, 30, *shape), dtype=np.uint16)), "depth"
    for form in ("GIF", "WEBP") * 3:
        first, *others = (Image.fromarray(picture(rng, 30, 40)) for _ in range(4))
        yield "animated", SUFFIXES[form], encoded(first, form, save_all=True, append_images=others), None
    for form in ("JPEG", "PNG", "GIF", "BMP", "WEBP"):
        yield "1x1", SUFFIXES[form], encoded(picture(rng, 1, 1), form), None
    for form in ("JPEG", "PNG", "GIF", "BMP"):
        for sides in ((1, 20_000), (20_000, 1)):
            yield "thin", SUFFIXES[form], encoded(picture(rng, *sides), form), None
    for _ in range(6):
        yield "cmyk", "jpg", encoded(Image.fromarray(picture(rng)).convert("CMYK"), "JPEG"), None
    for _ in range(6):
        palette = Image.fromarray(picture(rng)).convert("P", palette=Image.Palette.ADAPTIVE)
        yield "palette", "png", encoded(palette, "PNG", transparency=int(rng.integers(256))), None
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[_ORIENTATION] = orientation
        yield "exif", "jpg", encoded(picture(rng), "JPEG", exif=exif), None
    damaged: tuple[Callable[[], bytes], ...] = (
        lambda: b"Exif\0\0" + bytes(rng.integers(0, 256, 60, dtype=np.uint8)),
        lambda: b"Exif\0\0II*\0\xff\xff\xff\x7f",
        lambda: b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12" * 9,
        lambda: b"Exif\0\0",
    )
    for make in damaged:
        yield "bad_exif", "jpg", encoded(picture(rng), "JPEG", exif=make()), None
