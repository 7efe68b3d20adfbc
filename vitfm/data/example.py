"""One example of a source, on the host: its image cut, its label, text and further columns as arrays."""

from __future__ import annotations

import dataclasses
import itertools
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vitfm.data import dense, labels, tokenizer, views
from vitfm.data import image as images
from vitfm.data.sources import base


@dataclasses.dataclass(frozen=True)
class Load:
    """(example, generator) -> arrays: `image` uint8 [S,S,C], `views` or both, and for training all that comes with it.

    Attributes:
      image: the feature that holds the image.
      cut: makes `image` of it...
      views: ... unless this makes `views`, name -> uint8 [V,h,w,C], without an image beside them.
      label: makes `label`, int32 [] or float32 [K].
      weight: the feature that `weight`, float32 [], holds.
      caption, tokenize: make `text` [T] and `text_mask` [T].
      columns: further columns and their features.
      carried: make columns of what is said of places in `image`.
    """

    image: str
    cut: images.Transform
    views: views.Views | None = None
    label: labels.Labels | None = None
    weight: str | None = None
    caption: Callable[[Mapping[str, Any], np.random.Generator], str] | None = None
    tokenize: tokenizer.Tokenizer | None = None
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    carried: Sequence[dense.Carry] = ()

    def __call__(self, example: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        arrays = self._pixels(example, rng)
        if self.label is not None:
            arrays["label"] = self.label(example)
        if self.weight is not None:
            arrays["weight"] = np.float32(number(base.feature(example, self.weight, "data.weight")))
        if self.caption is not None:
            ids, mask = self.tokenize(self.caption(example, rng))
            arrays |= {"text": ids[0], "text_mask": mask[0]}
        column = lambda name, feature: number(base.feature(example, feature, f"data.columns.{name}"))
        return arrays | {name: column(name, feature) for name, feature in self.columns.items()}

    def _pixels(self, example: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """`image`, `views` or both, of an image that is decoded once, and what is carried with `image`."""
        if not isinstance(self.cut, images.Cut):
            return {"image": self.cut(example[self.image], rng)}
        image = images.picture(example[self.image])
        size = image.height, image.width
        beside = self.views is None or self.views.beside is not None
        alone = [(self.cut, self.cut.draw(*size, rng))] if beside else []
        several = {} if self.views is None else self.views.draw(*size, rng)
        taken = iter(images.taken(image, [*alone, *itertools.chain.from_iterable(several.values())]))
        arrays: dict[str, Any] = {"image": next(taken)} if beside else {}
        if self.views is not None:
            arrays["views"] = {name: np.stack([next(taken) for _ in drawn]) for name, drawn in several.items()}
        for carry in self.carried:
            arrays |= carry(example, size, alone[0][1])
        return arrays


def number(value: Any) -> np.ndarray:
    """A feature as a number: float32 of a float, int32 of an integer, and of a text its CRC-32."""
    if isinstance(value, str):
        return np.int32(zlib.crc32(value.encode()) - 2**31)
    return np.float32(value) if np.issubdtype(np.asarray(value).dtype, np.floating) else np.int32(value)
