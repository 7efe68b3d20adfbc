"""The upper rows of a JPEG at a fraction of its size: what a crop needs, for less work than decoding all of it."""

from __future__ import annotations

import struct
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg

_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL = (0xC0, 0xC1)  # Frames with Huffman's codes that can be of one scan, top to bottom.
_SCAN, _APPLICATION_1 = 0xDA, 0xE1
_ORIENTATION, _SHORT = 0x0112, 3
# What the decoder says where rows are left, before the end or a restart; all else is about what it has read.
_ROWS_LEFT = "extraneous bytes before marker 0xd"


class Header(NamedTuple):
    """What is known of a JPEG before it is decoded.

    Attributes:
      height, width: in pixels, as stored.
      orientation: EXIF's, from 1, upright, to 8.
      block: decoding can stop after any multiple of so many rows; 0 where it has to go on to the end.
      position: of the height among the bytes.
    """

    height: int
    width: int
    orientation: int
    block: int
    position: int


def header(encoded: bytes) -> Header | None:
    """The header of an 8-bit JPEG of one or three channels; None where only a decoder of everything may judge."""
    orientation, found, position = 1, None, 2
    try:
        while encoded[position] == 0xFF:
            marker, start = encoded[position + 1], position + 4
            if marker == 0xFF:  # Filling.
                position += 1
                continue
            end = position + 2 + (encoded[position + 2] << 8 | encoded[position + 3])
            if marker == _APPLICATION_1:
                orientation = _orientation(encoded[start:end], orientation)
            elif marker in _FRAMES:
                bits, height, width, channels = struct.unpack_from(">BHHB", encoded, start)
                if bits != 8 or channels not in (1, 3) or not height or not width:
                    return None
                block = 8 * max(encoded[start + 7 + 3 * channel] & 15 for channel in range(channels))
                found = Header(height, width, 1, block if marker in _SEQUENTIAL else 0, start + 1)
            elif marker == _SCAN:
                if found is None or orientation is None:
                    return None
                block = found.block if encoded[start] == channels else 0  # Else the first scan is of one channel.
                return found._replace(orientation=orientation, block=block)
            position = end
    except (IndexError, KeyError, struct.error):
        pass
    return None


def decode(encoded: bytes, header: Header, rows: int, reduction: int) -> np.ndarray:
    """uint8 [h,w,3], the first rows as stored, at 1/`reduction` of the size: at least those of `rows` rows.

    Raises:
      ValueError: what had to be read of it is damaged.
    """
    height = header.height
    if header.block:
        # The last row lacks its neighbour, of which its colours are interpolated: it is not among those asked for.
        height = min(height, -(-(rows + reduction) // header.block) * header.block)
    if height < header.height:
        encoded = bytearray(encoded)
        encoded[header.position : header.position + 2] = height.to_bytes(2, "big")
    size = (-(-height // reduction), -(-header.width // reduction))
    pixels = np.empty((*size, 3), np.uint8)
    try:
        simplejpeg.decode_jpeg(encoded, min_height=size[0], min_width=size[1], buffer=pixels)
    except ValueError as error:
        if height == header.height or _ROWS_LEFT not in str(error):
            raise
    return pixels


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels [H,W,C] that are stored in EXIF's orientation, as they are meant to be seen."""
    if orientation == 1:
        return pixels
    if orientation > 4:
        pixels = cv2.transpose(pixels)
    flip = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(orientation)
    return pixels if flip is None else cv2.flip(pixels, flip)


def _orientation(segment: bytes, known: int | None) -> int | None:
    """EXIF's orientation of such a segment, `known` where it says nothing; None where it says it in another way."""
    if not segment.startswith(b"Exif\0\0"):
        return None if b"tiff:Orientation" in segment else known
    directory, order = segment[6:], {b"II": "<", b"MM": ">"}[segment[6:8]]
    (start,) = struct.unpack_from(order + "I", directory, 4)
    (count,) = struct.unpack_from(order + "H", directory, start)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, _, value = struct.unpack_from(order + "HHIH", directory, entry)
        if tag == _ORIENTATION:
            return value if kind == _SHORT and 1 <= value <= 8 else None
    return known
