"""What is said of places in an image, boxes and masks: cut, resized and mirrored with it."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import PIL.Image

from vitfm import config
from vitfm.config import ConfigError
from vitfm.data.bad import BadExample
from vitfm.data.geometry import Geometry
from vitfm.data.sources.base import feature as feature_of

# (example, the image's height and width, what is seen of it) -> columns.
Carry = Callable[[Mapping[str, Any], tuple[int, int], Geometry], dict[str, np.ndarray]]
_ONE_CHANNEL = ("1", "L", "P", "I", "I;16")  # What Pillow calls them.
_ORDERS = {"xyxy": (0, 1, 2, 3), "yxyx": (1, 0, 3, 2), "xywh": (0, 1, 2, 3)}


def make(
    boxes: Mapping[str, Any] | None, mask: Mapping[str, Any] | None, in_the_way: Sequence[str] = ()
) -> tuple[Carry, ...]:
    """What follows an image as it is cropped.

    Args:
      boxes, mask: options of the functions below; None for none.
      in_the_way: options of `data` that move pixels in a way that can't be followed.

    Raises:
      ConfigError: there is something in the way, or an option that makes no sense.
    """
    named = {"data.boxes": (_boxes, boxes), "data.mask": (_mask, mask)}
    asked = {path: made for path, made in named.items() if made[1] is not None}
    if asked and in_the_way:
        raise ConfigError(
            f"config.{' and config.'.join(asked)} can only follow `image` as config.data.crop cuts and mirrors it: "
            f"leave out {', '.join(f'config.data.{name}' for name in in_the_way)}."
        )
    return tuple(config.call(function, options, where=path, path=path) for path, (function, options) in asked.items())


def boxes(
    *,
    feature: str,
    labels: str | None = None,
    count: int = 64,
    order: Literal["xyxy", "yxyx", "xywh"] = "xyxy",
    relative: bool = False,
    visible: float = 0.0,
    path: str = "data.boxes",
) -> Carry:
    """`box` float32 [N,4], (left, top, right, bottom) in pixels of the result, and `box_mask` bool [N], which are real.

    Boxes are cut at the result's borders, and those of which nothing is left are dropped.

    Args:
      feature: holds an example's boxes, [n,4]; a path, such as "objects/bbox", where features are nested.
      labels: the feature with a whole number for each: the column `box_label`, int32 [N]. None for none.
      count: N; of more boxes, the first.
      order: of the four numbers: left, top, right, bottom; top, left, bottom, right; left, top, width, height.
      relative: they are parts of the image's width and height, not pixels.
      visible: share of a box's area from which on what is left of it is kept; at 0 anything is.
      path: of these options in the recipe, for messages.

    Raises:
      ConfigError: a number out of its range.
    """
    if count < 1 or not 0 <= visible <= 1:
        raise ConfigError(f"config.{path}: count = {count} is at least 1, visible = {visible} a share, from 0 to 1.")

    def carry(example: Mapping[str, Any], size: tuple[int, int], geometry: Geometry) -> dict[str, np.ndarray]:
        found = np.asarray(_nested(example, feature, f"{path}.feature"), np.float64).reshape(-1, 4)[:, _ORDERS[order]]
        if order == "xywh":
            found = np.concatenate([found[:, :2], found[:, :2] + found[:, 2:]], axis=1)
        if relative:
            found = found * (size[1], size[0], size[1], size[0])
        moved, whole = geometry.boxes(found), geometry.boxes(found, clip=False)
        kept = np.flatnonzero((_area(moved) > 0) & (_area(moved) >= visible * _area(whole)))[:count]
        columns = {"box": _padded(moved[kept], count, np.float32), "box_mask": np.arange(count) < len(kept)}
        if labels is not None:
            of = np.asarray(_nested(example, labels, f"{path}.labels")).reshape(-1)
            if len(of) != len(found):
                raise BadExample("other", f"{len(found)} boxes and {len(of)} labels of them.")
            columns["box_label"] = _padded(of[kept], count, np.int32)
        return columns

    return carry


def mask(*, feature: str, outside: int = 255, path: str = "data.mask") -> Carry:
    """`segment` int32 [S,S], the class of each pixel of the result: the nearest one's in a mask of the image's size.

    Args:
      feature: holds the mask: an image file of one channel, 8 or 16 bits deep, or of a palette, whose indices count.
      outside: the class of what lies beyond the image's border.
      path: of these options in the recipe, for messages.
    """

    def carry(example: Mapping[str, Any], size: tuple[int, int], geometry: Geometry) -> dict[str, np.ndarray]:
        classes = _classes(_nested(example, feature, f"{path}.feature"), size)
        return {"segment": geometry.mask(classes, outside).astype(np.int32)}

    return carry


_boxes, _mask = boxes, mask  # `make` has options of these names.


def _nested(example: Mapping[str, Any], name: str, where: str) -> Any:
    """A feature, or, by a path, one within a feature."""
    outer, _, inner = name.partition("/")
    if name in example or not inner:
        return feature_of(example, name, where)
    return _nested(feature_of(example, outer, where), inner, where)


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _padded(rows: np.ndarray, count: int, dtype: Any) -> np.ndarray:
    padded = np.zeros((count, *rows.shape[1:]), dtype)
    padded[: len(rows)] = rows
    return padded


def _classes(encoded: bytes, size: tuple[int, int]) -> np.ndarray:
    """The numbers of a mask's pixels, [H,W]."""
    try:
        with PIL.Image.open(io.BytesIO(encoded)) as image:
            if image.mode not in _ONE_CHANNEL:
                raise BadExample("channels", f"A mask has one channel; this image is {image.mode}.")
            if image.size != size[::-1]:
                raise BadExample("other", f"A mask of {image.size} pixels for an image of {size[::-1]}.")
            return np.asarray(image)
    except (OSError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        raise BadExample("corrupt", f"A mask that can't be read: {error}") from None
