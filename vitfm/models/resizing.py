"""What a parameter becomes in a model for other images, patches, windows or channels, by its name and both shapes.

Swin v2 needs no such rule: its biases come from an MLP of coordinates, which any window has.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from vitfm.config import ConfigError
from vitfm.models.position import Resize, cubic_matrix, geometric_matrix, linear_matrix, resize_position
from vitfm.models.stem import inflate, resize_patches

Shape = tuple[int, ...]
Table = Literal["geometric", "bicubic", "bilinear"]
# (name, shape there, shape here) -> None where there is nothing to do; what to do and how it is called; or None and why
# nothing can be done.
Rule = Callable[[str, Shape, Shape], tuple[Callable[[np.ndarray], Any] | None, str] | None]

_STEM = re.compile(r"(^|/)stem/((patches(_0)?/)?patch/)?kernel$")
_MATRIX = {"geometric": geometric_matrix, "bicubic": cubic_matrix, "bilinear": linear_matrix}


def make(
    *,
    position: Resize | None = None,
    beit: Table = "geometric",
    swin: Table = "bicubic",
    channels: int = 3,
    bands: Sequence[int | None] | None = None,
    image_channels: int = 3,
    own: Resize = "antialiased",
) -> Rule:
    """The rule for leaves called `position`, relative-position tables, and the kernel of a `stem`.

    Args:
      position: how position embeddings [h, w, D] are interpolated, see `resize_position`; None as the encoder itself
        does for other images.
      beit: how tables of relative positions of ViT's blocks are: "geometric" as in BEiT's and timm's fine-tuning,
        "bilinear" as transformers' BEiT does for other images, or "bicubic".
      swin: likewise those of Swin's windows: "bicubic" as in Swin's own fine-tuning, "geometric" as in timm's.
      channels: of the images that a patch stem was trained on.
      bands: for each channel now the number of its channel there, None for their mean, see `inflate`; None repeats
        them in turn where there are more.
      image_channels: of the images now.
      own: how the encoder interpolates its positions.

    Raises:
      ConfigError: `bands` has another length than the images have channels.
    """
    if bands is not None and len(bands) != image_channels:
        raise ConfigError(
            f"config.init.resize.bands = {list(bands)} has {len(bands)} entries, and the images have {image_channels} "
            "channels: name one of the old channels, or None, for each of theirs."
        )

    def rule(name: str, before: Shape, after: Shape) -> tuple[Callable[[np.ndarray], Any] | None, str] | None:
        if _STEM.search(name) and (before != after or bands is not None):
            return (_filters if len(after) == 4 else _patches)(before, after, channels, image_channels, bands)
        if before == after:
            return None
        if name.split("/")[-1] == "position" and len(before) == len(after) == 3:
            return _position(before, after, position or own)
        if name.endswith("relative_position/table"):
            return _offsets(before, after, beit)
        if name.endswith("position_table"):
            return _window_table(before, after, swin)
        return None

    return rule


def _position(before: Shape, after: Shape, method: Resize) -> tuple[Callable[[np.ndarray], Any] | None, str]:
    if before[2] != after[2]:
        return None, "of another width"
    how = f"{method}, grid {_sizes(before[:2])} -> {_sizes(after[:2])}"
    return lambda table: resize_position(jnp.asarray(table), after[:2], method), how


def _window_table(before: Shape, after: Shape, method: Table) -> tuple[Callable[[np.ndarray], Any] | None, str]:
    """[2h-1, 2w-1, heads]."""
    if before[2] != after[2]:
        return None, "other heads"
    how = f"{method}, offsets {_sizes(before[:2])} -> {_sizes(after[:2])}"
    return functools.partial(_interpolated, size=after[:2], method=method), how


def _offsets(before: Shape, after: Shape, method: Table) -> tuple[Callable[[np.ndarray], Any] | None, str]:
    """[(2s-1)^2, heads] of a square grid, three rows more where there is a class token; stacked blocks have an axis
    in front.
    """
    if (*before[:-2], before[-1]) != (*after[:-2], after[-1]):
        return None, "other blocks or heads"
    (old, special), (new, wanted) = (_side(shape[-2]) for shape in (before, after))
    if not old or not new or special != wanted:
        return None, "not both of square grids, with or without a class token"

    def resized(table: np.ndarray) -> np.ndarray:
        grid = table[..., : old**2, :].reshape(*table.shape[:-2], old, old, -1)
        offsets = _interpolated(grid, (new, new), method).reshape(*table.shape[:-2], new**2, -1)
        return np.concatenate([offsets, table[..., old**2 :, :]], axis=-2)

    return resized, f"{method}, offsets {old} x {old} -> {new} x {new}"


def _side(rows: int) -> tuple[int, int]:
    """(2s-1, rows for the class token) of a table with so many rows; 0 where there is none."""
    for special in (0, 3):
        side = math.isqrt(max(rows - special, 0))
        if side**2 == rows - special and side % 2:
            return side, special
    return 0, 0


def _interpolated(table: np.ndarray, size: tuple[int, int], method: Table) -> np.ndarray:
    """[..., h, w, heads] -> [..., *size, heads]."""
    rows, columns = (_MATRIX[method](*sides) for sides in zip(table.shape[-3:-1], size, strict=True))
    return np.einsum("hi,wj,...ijd->...hwd", rows, columns, table).astype(table.dtype)


def _patches(
    before: Shape, after: Shape, channels: int, image_channels: int, bands: Sequence[int | None] | None
) -> tuple[Callable[[np.ndarray], Any] | None, str]:
    """[p*p*C, D], row-major in the patch."""
    old, new = math.isqrt(before[0] // channels), math.isqrt(after[0] // image_channels)
    wrong = "{} are no pixels of a square patch of {} channels"
    if before[-1] != after[-1]:
        return None, "of another width"
    if old**2 * channels != before[0]:
        return None, f"{wrong.format(before[0], channels)}: set config.init.resize.channels to those of its images"
    if new**2 * image_channels != after[0]:
        return None, wrong.format(after[0], image_channels)

    def resized(kernel: np.ndarray) -> np.ndarray:
        return resize_patches(inflate(kernel, bands or image_channels, old), old, new)

    patch = [f"pseudo-inverse, patches {_sizes((old, old))} -> {_sizes((new, new))}"] if old != new else []
    return resized, ", ".join([*patch, *_called(channels, image_channels, bands)])


def _filters(
    before: Shape, after: Shape, channels: int, image_channels: int, bands: Sequence[int | None] | None
) -> tuple[Callable[[np.ndarray], Any] | None, str]:
    """[k, k, C, D]."""
    if (*before[:2], before[-1]) != (*after[:2], after[-1]):
        return None, "filters of another size or number"
    how = ", ".join(_called(before[2], after[2], bands))
    return lambda kernel: inflate(kernel, bands or after[2]), how


def _called(old: int, new: int, bands: Sequence[int | None] | None) -> list[str]:
    if bands is not None:
        return [f"channels {', '.join('mean' if band is None else str(band) for band in bands)}"]
    return [f"channels {old} -> {new}"] if old != new else []


def _sizes(sides: Sequence[int]) -> str:
    return " x ".join(map(str, sides))
