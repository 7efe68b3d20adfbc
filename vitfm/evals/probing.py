"""What probes share: how training images are divided and in which order they come, and how answers are counted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from vitfm.config import ConfigError
from vitfm.evals import base


def check(context: base.Context, **values: Sequence[float]) -> None:
    """Refuses options without a value, or with one that is not above 0, by their names."""
    for name, given in values.items():
        if not given or min(given) <= 0:
            raise ConfigError(f"config.{context.where}.{name} = {given!r}: at least one, and all above 0.")


def divided(context: base.Context, count: int, heldout: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All of `count` training images in random order, those of them that choose, and those that train.

    Raises:
      ConfigError: one part is empty.
    """
    order = np.random.default_rng(0).permutation(count)
    held, kept = order[: round(heldout * count)], order[round(heldout * count) :]
    if not len(held) or not len(kept):
        raise ConfigError(f"config.{context.where}.heldout = {heldout} leaves one part of {count} images empty.")
    return order, held, kept


def stream(rows: np.ndarray, steps: int, size: int) -> np.ndarray:
    """The rows of `steps` steps of `size`, one after another: one permutation a pass; the last may have fewer."""
    passes = range(-(-steps * size // len(rows)))
    return np.concatenate([np.random.default_rng(number).permutation(rows) for number in passes])


def padded(rows: np.ndarray, multiple: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows up to a multiple of a number, and their weights: 1, and 0 where a row only fills up."""
    missing = -len(rows) % multiple
    return np.append(rows, rows[:1].repeat(missing)), np.repeat(np.float32([1, 0]), [len(rows), missing])


def cosine(step: int, steps: int) -> float:
    """Half a cosine from 1 to 0, the factor on learning rates."""
    return (1 + math.cos(math.pi * step / steps)) / 2


def rank(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """How many classes come before the own one, int [B], by logits [B,K]; ties and NaNs count against."""
    own = jax.numpy.take_along_axis(logits, labels[:, None], axis=1)
    return (~(logits < own)).sum(1) - 1


def accuracies(name: str, ranks: np.ndarray, classes: int) -> Iterator[tuple[str, float]]:
    """`name/top1` and `top5` (of more than 5 classes) of ranks [N], `top1_low` and `top1_high`."""
    for k in (1, 5):
        if k < classes:
            yield f"{name}/top{k}", float((ranks < k).mean())
    low, high = wilson(int((ranks < 1).sum()), len(ranks))
    yield f"{name}/top1_low", low
    yield f"{name}/top1_high", high


def wilson(right: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """The interval of the share `right / count` at 95% (Wilson 1927)."""
    centre = (right + z**2 / 2) / (count + z**2)
    half = z / (count + z**2) * math.sqrt(right * (count - right) / count + z**2 / 4)
    return centre - half, centre + half
