"""Batches of so many classes with so many images of each, as losses need that compare images of one class."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import grain
import numpy as np

from vitfm.config import ConfigError
from vitfm.data.labels import Labels
from vitfm.data.sources import base
from vitfm.data.sources.base import Source


@dataclasses.dataclass(frozen=True)
class Balanced:
    """position -> example id, a function of seed and position alone, as `TrainLoader.order` is.

    A batch has `classes` different classes, and `images` rows of each follow one another. A round is as many batches as
    classes suffice for, in an order of its own; those left over wait for the next. Each round a class gives its next
    images, which it shuffles again when too few are left: no image comes twice in a batch unless its class has fewer
    than are asked for.

    Attributes:
      ids: [N], the examples by class.
      starts: [C + 1], where each class begins in `ids`, and its end.
      classes, images: of a batch.
      seed: of the order.
    """

    ids: np.ndarray
    starts: np.ndarray
    classes: int
    images: int
    seed: int

    @functools.cached_property
    def _order(self) -> grain.MapDataset:
        """All classes, one permutation after the other."""
        return grain.MapDataset.range(len(self.starts) - 1).seed(self.seed).shuffle().repeat()

    def __getitem__(self, position: int) -> int:
        slot, image = divmod(position, self.images)
        step, slot = divmod(slot, self.classes)
        count = len(self.starts) - 1
        turn, batch = divmod(step, count // self.classes)
        number = self._order[turn * count + batch * self.classes + slot]
        own = self.ids[self.starts[number] : self.starts[number + 1]]
        shuffle, part = divmod(turn, max(len(own) // self.images, 1))
        rng = np.random.Generator(np.random.SFC64([self.seed, number, shuffle, 0]))  # Not a seed of a host transform.
        return int(rng.permutation(own)[(part * self.images + image) % len(own)])


def make(*, images: int, labels: Labels | None) -> Callable[[Source, int, int], Balanced]:
    """(source, batch_size, seed) -> its order; the label of every example is read once, no image being decoded.

    Examples without a label come in no batch.

    Args:
      images: of a class in a batch; the batch has batch_size / images classes.
      labels: of the examples.

    Raises:
      ConfigError: there are no labels, or several an image.
    """
    if labels is None or labels.multi_label:
        raise ConfigError(
            "config.data.balance shares a batch out among classes: config.data.label has to give each image one."
        )
    if images < 1:
        raise ConfigError(f"config.data.balance.images = {images} must be at least 1.")

    def order(source: Source, batch_size: int, seed: int) -> Balanced:
        values = base.column(source, labels.feature, "data.label.feature")
        labelled = np.flatnonzero([value is not None for value in values])
        label = np.array([labels({labels.feature: values[index]}) for index in labelled], int)
        counts = np.bincount(label)
        counts = counts[counts > 0]
        if batch_size % images or batch_size // images > len(counts):
            raise ConfigError(
                f"config.batch_size = {batch_size} with config.data.balance.images = {images} must divide into at most "
                f"{len(counts)} classes, which {source.name} has."
            )
        starts = np.concatenate([[0], np.cumsum(counts)])
        return Balanced(labelled[np.argsort(label, kind="stable")], starts, batch_size // images, images, seed)

    return order
