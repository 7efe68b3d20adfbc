"""What is known of an image file before it is decoded."""

from __future__ import annotations

import struct
import zlib
from typing import Any, Literal, NamedTuple

from vitfm.data.bad import BadExample

_FRAMES = {0xF7, *range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # Markers of a JPEG's frame, and a JPEG-LS's.
_PROGRESSIVE, _SCANS = {0xC2, 0xC6, 0xCA, 0xCE}, 100  # Encoders make ten scans; each takes as long as decoding.
_EXIF, _XMP, _ANIMATION = 0x08, 0x04, 0x02  # Flags of a WebP.


class Header(NamedTuple):
    """What is known before decoding.

    Attributes:
      height, width: in pixels, as seen.
      channels: as the pixels will have; at most four where that is not known yet.
      flaw: what is wrong with the bytes that follow.
      file: what else its family knows, for `decode`.
    """

    height: int
    width: int
    channels: int = 3
    flaw: Literal["truncated", "corrupt"] | None = None
    file: Any = None


def codestream_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) that a JPEG, JPEG-LS or JPEG 2000 inside another file says it has; None for other data."""
    if data.startswith(b"\xff\x4f\xff\x51") and len(data) >= 24:
        right, below, left, above = struct.unpack_from(">4I", data, 8)
        return below - above, right - left
    position = 2
    while data.startswith(b"\xff\xd8") and position + 9 <= len(data) and data[position] == 0xFF:
        if data[position + 1] in _FRAMES:
            return struct.unpack_from(">HH", data, position + 5)
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return None


def jpeg_flaw(encoded: bytes) -> Literal["truncated", "corrupt"] | None:
    """Whether the end is missing, or all pixels are told again and again.

    Markers are not among the pixels, but a small picture with an end of its own may come before these.
    """
    position, progressive = 2, False
    while 0 <= position < len(encoded) - 3:
        marker = encoded[position + 1]
        if encoded[position] != 0xFF or marker in (0, 0xFF):  # Filling, or what does not belong here.
            position = encoded.find(b"\xff", position + 1)
        elif marker == 0xDA:
            if progressive and encoded.count(b"\xff\xda", position) > _SCANS:
                return "corrupt"
            return None if encoded.rfind(b"\xff\xd9", position) >= 0 else "truncated"
        else:
            progressive |= marker in _PROGRESSIVE
            position += 2 + int.from_bytes(encoded[position + 2 : position + 4], "big")
    return "truncated"


class Png(NamedTuple):
    """A PNG's size, bits a sample, names of its chunks before the pixels with what is in them, and what is wrong."""

    height: int
    width: int
    bits: int
    chunks: dict[bytes, bytes]
    flaw: Literal["truncated", "corrupt"] | None


def png(encoded: bytes) -> Png:
    """Looks at all chunks and their checksums.

    Raises:
      BadExample: the first, with the size, is damaged.
    """
    view, position, chunks, flaw = memoryview(encoded), 8, {}, None
    while flaw is None:
        length, name = struct.unpack(">I4s", view[position : position + 8].tobytes().ljust(8, b"\0"))
        end = position + 12 + length
        if end > len(view):
            flaw = "truncated"
        elif zlib.crc32(view[position + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            flaw = "corrupt"
        elif name == b"IEND":
            break
        elif name != b"IDAT" and b"IDAT" not in chunks:
            chunks[name] = view[position + 8 : end - 4].tobytes()
        if flaw is None:
            chunks.setdefault(name, b"")
            position = end
    if len(chunks.get(b"IHDR", b"")) != 13:
        whole = len(view) >= 33
        raise BadExample("corrupt" if whole else "truncated", f"{len(view)} bytes of PNG without a sound header.")
    width, height, bits = struct.unpack(">IIB", chunks[b"IHDR"][:9])
    return Png(height, width, bits, chunks, flaw)


class Webp(NamedTuple):
    """A WebP's size as stored, whether it has metadata or frames, and what is wrong."""

    height: int
    width: int
    extended: bool
    flaw: Literal["truncated"] | None


def webp(encoded: bytes) -> Webp:
    """Looks at the first chunk.

    Raises:
      BadExample: it is damaged, or not there.
    """
    missing = 8 + int.from_bytes(encoded[4:8], "little") > len(encoded)
    flaw, extended = "truncated" if missing else None, False
    name, head = encoded[12:16], encoded[20:30]
    if len(encoded) < 30:
        raise BadExample(flaw or "corrupt", f"{len(encoded)} bytes of WebP.")
    if name == b"VP8X":
        extended = bool(head[0] & (_EXIF | _XMP | _ANIMATION))
        width, height = (int.from_bytes(head[start : start + 3], "little") + 1 for start in (4, 7))
    elif name == b"VP8L":
        packed = int.from_bytes(head[1:5], "little")
        width, height = (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    elif name == b"VP8 ":
        width, height = (int.from_bytes(head[start : start + 2], "little") & 0x3FFF for start in (6, 8))
    else:
        raise BadExample("corrupt", f"A WebP that begins with a chunk {bytes(name)!r}.")
    return Webp(height, width, extended, flaw)


def gif_flaw(encoded: bytes) -> Literal["truncated", "corrupt"] | None:
    """Whether the first frame is all there."""
    table = lambda flags: 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0
    try:
        position = 13 + table(encoded[10])
        while (block := encoded[position]) == 0x21:  # An extension.
            position = _behind(encoded, position + 2)
        if block == 0x2C:
            _behind(encoded, position + 11 + table(encoded[position + 9]))
    except IndexError:
        return "truncated"
    return None if block == 0x2C else "corrupt"


def _behind(encoded: bytes, position: int) -> int:
    """Where a GIF goes on after a row of blocks, each of which begins with its length."""
    while encoded[position]:
        position += encoded[position] + 1
    return position + 1


def boxes_flaw(encoded: bytes) -> Literal["truncated"] | None:
    """Whether the pixels of an AVIF or a JPEG 2000 are all there: they lie in boxes, each with its length and name."""
    if encoded.startswith(b"\xff\x4f"):  # JPEG 2000 without boxes.
        return None if encoded.rfind(b"\xff\xd9") >= 0 else "truncated"
    position, names = 0, set()
    while position + 8 <= len(encoded):
        length, name = struct.unpack_from(">I4s", encoded, position)
        if length == 1:
            length = int.from_bytes(encoded[position + 8 : position + 16], "big")
        names.add(name)
        position = position + max(length, 8) if length else len(encoded)  # 0 is to the end, wherever that is.
    return None if position == len(encoded) and names & {b"mdat", b"jp2c"} else "truncated"


def bad(encoded: bytes, kind: str, error: Exception | str) -> BadExample:
    """Truncated where a decoder ran out of bytes, else corrupt."""
    words = str(error) or type(error).__name__
    causes = (error, getattr(error, "__cause__", None))
    short = any(isinstance(cause, EOFError | struct.error | IndexError) for cause in causes)
    short = short or any(word in words for word in ("truncated", "Truncated", "Premature end", "Reached EOF"))
    return BadExample("truncated" if short else "corrupt", f"{len(encoded)} bytes of {kind.upper()}: {words}")
