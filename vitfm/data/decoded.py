"""A source whose images are decoded, and kept in memory as far as there is room."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitfm.data import image as images
from vitfm.data.sources.base import Source, feature


class Decoded:
    """`source` with the feature `image` as uint8 [H,W,C]; small collections are decoded once instead of once an epoch.

    Examples are kept until `cache_bytes` of pixels are, and none is given up for another: in a shuffled stream any that
    fit serve as well.
    """

    def __init__(self, source: Source, image: str, *, alpha: bool, cache_bytes: int = 0):
        """Wraps `source`.

        Args:
          source: encoded examples.
          image: the feature that holds the encoded image.
          alpha: decode to four channels.
          cache_bytes: of pixels kept in memory, in each process that reads.
        """
        self.name = source.name
        self._source, self._image, self._alpha = source, image, alpha
        self._room = cache_bytes
        self._kept: dict[int, dict[str, Any]] = {}

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        """One example.

        Raises:
          ValueError: its image can't be read.
        """
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        example = self._source[index]
        pixels = images.decode(feature(example, self._image, "data.image"), alpha=self._alpha)
        example = {**example, self._image: pixels}
        if pixels.nbytes <= self._room:
            self._room -= pixels.nbytes
            self._kept[index] = example
        return example

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}}  # A worker process fills its own.
