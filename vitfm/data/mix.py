"""Mixup (Zhang et al. 2018, arXiv:1710.09412) and CutMix (Yun et al. 2019, arXiv:1905.04899), on the device.

Each example is mixed with the one before it in the batch, by a share drawn from its own key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from vitfm.config import ConfigError
from vitfm.data import ops

Batch = Mapping[str, jax.Array]


def make(
    *, mixup: float = 0.0, cutmix: float = 0.0, probability: float = 1.0, switch: float = 0.5, num_classes: int
) -> Callable[[Batch, jax.Array], Batch]:
    """(batch, keys [B]) -> batch: `image` [B,H,W,C] mixed, `label` float32 [B,K], `weight` mixed where there is one.

    Args:
      mixup: alpha of the Beta(alpha, alpha) from which an example's share in a sum of two images is drawn; 0 for none.
      cutmix: likewise of its share in an image with a rectangle from another. The rectangle's centre lies anywhere, so
        a part of it may lie outside; the labels are mixed by the pixels that remain. 0 for none.
      probability: share of the examples that are mixed.
      switch: where there are both, the share of these that are cut.
      num_classes: K.

    Raises:
      ConfigError: a number out of its range, or nothing to do.
    """
    for name, value in (("mixup", mixup), ("cutmix", cutmix)):
        if value < 0:
            raise ConfigError(f"config.data.mix.{name} = {value} is the alpha of a Beta distribution, above 0, or 0.")
    for name, value in (("probability", probability), ("switch", switch)):
        if not 0 <= value <= 1:
            raise ConfigError(f"config.data.mix.{name} = {value} is a share, from 0 to 1.")
    if not mixup and not cutmix:
        raise ConfigError("config.data.mix needs mixup or cutmix above 0; mix=None mixes nothing.")
    if not (mixup and cutmix):
        switch = 1.0 if cutmix else 0.0

    def own_share(key: jax.Array, height: int, width: int) -> jax.Array:
        """[H,W]: how much of each pixel stays the example's own."""
        keys = jax.random.split(key, 4)
        cut = jax.random.bernoulli(keys[0], switch)
        alpha = jnp.where(cut, cutmix, mixup)
        share = jax.random.beta(keys[1], alpha, alpha)
        outside = ~ops.inside(_box(keys[2], share, height, width), height, width)
        mixed = jax.random.bernoulli(keys[3], probability)
        return jnp.where(mixed, jnp.where(cut, outside, share), 1.0)

    def mix(batch: Batch, keys: jax.Array) -> Batch:
        image, label = batch["image"], batch["label"]
        if label.ndim == 1:
            label = jax.nn.one_hot(label, num_classes)
        pixels = jax.vmap(lambda key: own_share(key, *image.shape[1:3]))(keys)[..., None]
        share = pixels.mean((1, 2))  # [B,1]
        new = {"image": _sum(image, pixels), "label": _sum(label, share)}
        if "weight" in batch:
            new["weight"] = _sum(batch["weight"], share[:, 0])
        return {**batch, **new}

    return mix


def _sum(x: jax.Array, share: jax.Array) -> jax.Array:
    """Each row by its share, and the row before it by the rest."""
    return share * x + (1 - share) * jnp.roll(x, 1, axis=0)


def _box(key: jax.Array, share: jax.Array, height: int, width: int) -> tuple[jax.Array, ...]:
    """(top, left, bottom, right) of a rectangle that leaves `share` of the image where it lies inside as a whole."""
    side = jnp.sqrt(1 - share)
    ends = []
    for axis_key, size in zip(jax.random.split(key), (height, width), strict=True):
        length = (size * side).astype(jnp.int32)
        start = jax.random.randint(axis_key, (), 0, size) - length // 2
        ends.append((jnp.maximum(start, 0), jnp.minimum(start + length, size)))
    (top, bottom), (left, right) = ends
    return top, left, bottom, right
