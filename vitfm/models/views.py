"""Two views of each image through one encoder: what the objectives share that compare them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitfm.config import ConfigError
from vitfm.models import statistics


def pair(batch: Mapping[str, Any]) -> jax.Array:
    """The two views of each image, [B,2,H,W,C].

    Raises:
      ConfigError: there are others, or more or fewer.
    """
    views = batch["views"]
    if set(views) != {"global"} or views["global"].shape[1] != 2:
        found = ", ".join(f"{part.shape[1]} {name!r}" for name, part in sorted(views.items()))
        raise ConfigError(
            f"This objective compares two views of one size, and config.data.views has {found}: "
            "set it to {'global': {'count': 2}}."
        )
    return views["global"]


def keys_of(keys: jax.Array, count: int) -> jax.Array:
    """Each view's own of each example's key: [B] -> [B, count]."""
    return jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))(keys, jnp.arange(count))


def encoded(
    tower: nn.Module,
    params: Mapping[str, Any],
    extra: Mapping[str, Any],
    views: jax.Array,
    keys: jax.Array | None,
    groups: int | None = None,
    strided: bool = False,
) -> tuple[jax.Array, dict[str, Any]]:
    """Several views of each image through an encoder, as in training.

    Args:
      tower: an encoder from `vitfm.models`.
      params: its parameters.
      extra: of the objective, with its batch statistics if it has some.
      views: [B,V,H,W,C].
      keys: [B], one an example; None drops nothing (and is for encoders without batch norm).
      groups: what batch norm takes its statistics of: None, all views at once; else each view alone, in so many groups
        of rows. Running statistics become the mean of the groups'. Nothing else depends on it.
      strided: a group is each `groups`-th row; otherwise rows that follow one another.

    Returns:
      The pooled outputs [B,V,D], and the entries of `extra` that change.

    Raises:
      ConfigError: the batch does not divide into groups.
    """
    batch, count = views.shape[:2]
    own = None if keys is None else keys_of(keys, count)
    if groups is None or not statistics.has(tower):
        images, own = views.reshape(-1, *views.shape[2:]), None if own is None else own.reshape(-1)
        features, changed = statistics.train(tower, params, extra, images, own)
        return features.pooled.reshape(batch, count, -1), changed
    if batch % groups:
        raise ConfigError(f"A batch of {batch} does not divide into config.objective.groups = {groups}.")

    def pooled(images: jax.Array, keys: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
        features, changed = statistics.train(tower, params, extra, images, keys)
        return features.pooled, changed

    def split(x: jax.Array) -> jax.Array:  # [B,V,...] -> [groups,B/groups,V,...]
        shape = (-1, groups) if strided else (groups, -1)
        parts = x.reshape(*shape, *x.shape[1:])
        return parts.swapaxes(0, 1) if strided else parts

    found, changed = jax.vmap(jax.vmap(pooled, 1, (1, 0)))(split(views), split(own))
    found = found.swapaxes(0, 1) if strided else found
    return found.reshape(batch, count, -1), jax.tree.map(lambda x: x.mean((0, 1)), changed)
