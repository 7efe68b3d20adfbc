"""A source whose images are decoded: as far as is asked for, or wholly and kept in memory as far as there is room."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitfm.data import formats
from vitfm.data.inputs import Input
from vitfm.data.picture import Picture
from vitfm.data.sources.base import Source, feature, key


class Decoded:
    """`source` with the feature `image` as [H,W,C] or, if `lazy`, a `Picture` of that.

    With a cache, small collections are decoded once instead of once an epoch, and always wholly, so that the same
    pixels come from it as go in. Examples are kept until `cache_bytes` of pixels are, and none is given up for another:
    in a shuffled stream any that fit serve as well.
    """

    def __init__(self, source: Source, image: str, spec: Input, *, cache_bytes: int = 0, lazy: bool = False):
        """Wraps `source`.

        Args:
          source: encoded examples.
          image: the feature that holds the encoded image.
          spec: what is read of it.
          cache_bytes: of pixels kept in memory, in each process that reads.
          lazy: without a cache, leave it to the transforms how much of an image is decoded.
        """
        self.name = source.name
        self._source, self._image, self._spec = source, image, spec
        self._lazy = lazy and not cache_bytes
        self._room = cache_bytes
        self._kept: dict[int, dict[str, Any]] = {}

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        """One example.

        Raises:
          BadExample: its image can't be read; of a `Picture`, that may turn out later.
        """
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        example = self._source[index]
        encoded = feature(example, self._image, "data.image")
        if self._lazy:
            return {**example, self._image: Picture(encoded, self._spec)}
        pixels = formats.decode(encoded, self._spec)
        example = {**example, self._image: pixels}
        if pixels.nbytes <= self._room:
            self._room -= pixels.nbytes
            self._kept[index] = example
        return example

    def key(self, index: int) -> str:
        """What the example is called where it lies."""
        return key(self._source, index)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}}  # A worker process fills its own.
